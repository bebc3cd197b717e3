"""The report's sections about what the bundle says: who, by which terms, and what happened."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

from fedfm_audit.html_report.charts import epsilon_chart, participation_chart
from fedfm_audit.html_report.markup import (
    Child,
    Markup,
    code,
    definitions,
    element,
    paragraph,
    table,
)
from fedfm_audit.html_report.overview import Overview, RoundView
from fedfm_audit.html_report.wording import SUITES
from fedfm_audit.messages import KEYS
from fedfm_audit.privacy.in_words import privacy_table

MAX_ROWS = 1000
"""Rows of one table; a log of a million rounds must not make a page that nothing can open."""
_LAST_SECOND = 253402300799  # of the year 9999, the last that a date can express


def federation(overview: Overview) -> Markup:
    """The charter's facts, and its promise in plain words."""
    charter, document = overview.charter, overview.document
    thresholds = charter.thresholds
    model, task = document.get("model", {}), document.get("task", {})
    labels = task.get("labels", [])
    rows: list[tuple[Child, Child]] = [
        ("federation", charter.federation),
        ("charter SHA-256", code(charter.digest.hex())),
        (
            "signed by",
            f"{', '.join(charter.signers)} ({charter.founders_quorum} of "
            f"{len(charter.founders)} founders needed)",
        ),
        ("base model", f"{model.get('name', '')}, SHA-256 {charter.base_model}"),
        ("task", f"{task.get('kind', '')}, {len(labels)} labels"),
        ("rounds agreed", str(charter.rounds)),
        ("suite", f"{charter.suite}: {SUITES.get(charter.suite, '')}"),
        (
            "tolerates",
            f"{thresholds.colluding} colluding and {thresholds.dropouts} vanished of "
            f"{thresholds.clients} institutions",
        ),
        ("votes, acknowledgements and witnesses needed", str(thresholds.vote_quorum)),
        ("fewest updates in a sum", str(thresholds.min_accepted)),
    ]
    if charter.encrypted:
        rows.append(("holders that open a sum together", str(thresholds.key_threshold)))
    if overview.federation is not None:
        said = overview.federation
        rows.append(
            (
                "coordinator's software, by its own word",
                f"{said.package} {said.version}, Python {said.python}, "
                f"{len(said.distributions)} distributions",
            )
        )
        rows.append(("its files' SHA-256", code(said.code)))
    promise = privacy_table(overview.terms, charter.rounds)
    mode = str(charter.privacy["mode"])
    return element(
        "section",
        element("h2", "Federation and charter"),
        definitions(rows),
        element("h2", "What the charter promises about privacy"),
        definitions([("mode", mode), *((name, str(value)) for name, value in promise.items())]),
        id="federation",
    )


def roster(overview: Overview) -> Markup:
    """Who took part, with the keys that the charter enrols, and how often."""
    charter = overview.charter
    trained = [view for view in overview.rounds if view.predicate.kind != KEYS]
    taken: dict[str, int] = defaultdict(int)
    for view in trained:
        for name in view.accepted or ():
            taken[name] += 1
    unreadable = sum(view.accepted is None for view in trained)
    rows = []
    others = (
        (charter.coordinator,)
        if charter.validator is None
        else (
            charter.coordinator,
            charter.validator,
        )
    )
    for party in (*others, *charter.roster)[:MAX_ROWS]:
        role = charter.role_of(party.name)
        client = role == "client"
        enrolled = overview.enrolments.get(party.name)
        rows.append(
            (
                party.name,
                element("span", "institution" if client else role, class_="word"),
                code(party.identity.hex),
                element("span", enrolled.not_after, class_="word")
                if enrolled is not None
                else "not enrolled in the log",
                str(taken[party.name]) if client else "",
            )
        )
    caption = (
        f"Parties of the charter; the last column counts rounds, of {len(trained)}, whose last sum "
        "held an update of the institution."
    )
    if unreadable:
        caption += f" Of {unreadable} rounds there is no readable transcript."
    head = ("Name", "Role", "Identity key (Ed25519)", "Key valid until", "Rounds accepted")
    return element(
        "section",
        element("h2", "Who took part"),
        table(caption, head, rows, numeric=(4,)),
        more(len(charter.roster) + 1),
        id="roster",
    )


def participation(overview: Overview) -> Markup:
    """Every round: how it ended and who was in it."""
    if not overview.rounds:
        return element(
            "section",
            element("h2", "Rounds"),
            paragraph("The log holds no round that can be read."),
            id="rounds",
        )
    head = ("Round", "Kind", "Outcome", "Invited", "Accepted", "Removed", "Steps", "Reason", "Leaf")
    caption = (
        "Every round that the log states. Steps: how many a quorum acknowledged, of those planned. "
        "Rounds of kind keys make a collective key and sum no updates."
    )
    return element(
        "section",
        element("h2", "Rounds"),
        participation_chart(overview.rounds, overview.charter.thresholds.min_accepted),
        element(
            "div",
            table(
                caption,
                head,
                [_round_row(view) for view in overview.rounds[:MAX_ROWS]],
                numeric=(3, 4, 5, 6, 8),
            ),
            class_="wide",
        ),
        more(len(overview.rounds)),
        id="rounds",
    )


def _round_row(view: RoundView) -> Sequence[Child]:
    said, counts = view.predicate, view.predicate.counts
    css = "verified" if said.outcome == "completed" else "failed"
    return (
        str(said.round),
        element("span", said.kind, class_="word"),
        element("span", said.outcome, class_=css),
        str(counts.invited),
        "" if said.kind == KEYS else str(counts.accepted),
        "" if said.kind == KEYS else str(counts.removed),
        f"{said.steps.good}/{said.steps.planned}",
        said.reason,
        str(view.index),
    )


def privacy(overview: Overview) -> Markup:
    """Epsilon over rounds, per institution, against the budget."""
    heading = element("h2", "Privacy spent")
    terms = overview.terms
    if terms is None:
        return element(
            "section",
            heading,
            paragraph("The charter's privacy mode is none: there is no budget, and no ledger."),
            id="privacy",
        )
    last = max((view.predicate.round for view in overview.rounds), default=1)
    rows = [
        (
            view.institution,
            str(view.entries),
            str(view.unsettled),
            _epsilon(view.epsilon),
            f"{terms.epsilon:g}",
            _epsilon(max(0.0, terms.epsilon - view.epsilon)),
        )
        for view in overview.ledgers[:MAX_ROWS]
    ]
    caption = (
        f"Ledgers, recomputed from their events, at delta {terms.delta:g}. A charge that nothing "
        "settled (a crash) counts as spent."
    )
    head = ("Institution", "Entries", "Unsettled", "Epsilon", "Budget", "Left")
    return element(
        "section",
        heading,
        epsilon_chart(overview.ledgers, terms.epsilon, last),
        table(caption, head, rows, numeric=(1, 2, 3, 4, 5)),
        more(len(overview.ledgers)),
        id="privacy",
    )


def log_facts(overview: Overview) -> Markup:
    """The head of the log and who vouches for it."""
    heading = element("h2", "The log")
    head = overview.head
    if head is None:
        return element("section", heading, paragraph("There is no readable checkpoint."), id="log")
    charter = overview.charter
    facts: list[tuple[Child, Child]] = [
        ("origin", head.checkpoint.origin),
        ("leaves", str(head.checkpoint.size)),
        ("root (hex)", code(head.checkpoint.root.hex())),
        ("cosignatures needed", f"{charter.thresholds.vote_quorum} of {len(charter.witnesses)}"),
    ]
    if overview.unread:
        shown = ", ".join(str(index) for index in overview.unread[:20])
        facts.append(("leaves that cannot be read", f"{len(overview.unread)}: {shown}"))
    if head.cosigned is None:
        who: Markup = paragraph(
            "A signature on the checkpoint does not verify; nobody can be named as its witness.",
            class_="failed",
        )
    else:
        cosigned = head.cosigned
        who = table(
            "Witnesses and the time that each states in its cosignature (by its own clock).",
            ("Witness", "Cosigned"),
            [
                (key.name, _moment(cosigned[key.name]) if key.name in cosigned else "no")
                for key in charter.witnesses[:MAX_ROWS]
            ],
        )
    return element("section", heading, definitions(facts), who, id="log")


def adapters(overview: Overview) -> Markup:
    """From the first adapter to the last, round by round."""
    rows: list[Sequence[Child]] = [
        ("start", code(overview.charter.initial_adapter.hex()), "agreed in the charter")
    ]
    before = overview.charter.initial_adapter.hex()
    for view in overview.rounds[:MAX_ROWS]:
        said = view.predicate
        remark = "unchanged" if said.adapter_out == said.adapter_in else "new adapter"
        if said.adapter_in != before:
            remark = f"does not start from the one before, but from {said.adapter_in}"
        rows.append((f"round {said.round}", code(said.adapter_out), remark))
        before = said.adapter_out
    return element(
        "section",
        element("h2", "Adapter, from hash to hash"),
        table(
            "Hash over the adapter's tensors after each round (step 5 checks the chain and, if it "
            "was given, the adapter itself).",
            ("After", "Tensor hash", ""),
            rows,
        ),
        more(len(overview.rounds)),
        id="adapters",
    )


def more(count: int) -> Markup:
    if count <= MAX_ROWS:
        return Markup("")
    return paragraph(f"{count - MAX_ROWS} more rows are not shown.", class_="soft")


def _epsilon(value: float) -> str:
    return "infinite" if math.isinf(value) else f"{value:.4g}"


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(min(seconds, _LAST_SECOND), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
