"""Step 8: ownership marks: who committed to which before round 1, and what became of them.

The charter names every mark by the SHA-256 of the leaf that commits to it, so a commitment cannot
come later, and nobody can add one. That a mark is in the adapter needs a key: owners say so
themselves, in signed leaves (one that says no is a complaint), and anybody can measure it in an
adapter folder with an opening (one sub-key, shown by its owner).
Source: protocols/README.md, "Watermark rounds"; audit/README.md, "Marks".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedfm_audit.charter_view import CharterView
from fedfm_audit.mark_predicates import MarkCheckPredicate, MarkPredicate
from fedfm_audit.messages import WATERMARK
from fedfm_audit.report import MarkLine, MarkSummary
from fedfm_audit.statements import ConclusionPredicate, RoundPredicate
from fedfm_audit.steps.envelopes import RoundEvidence
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.leaves import Leaf
from fedfm_audit.watermark.adapter_suspect import AdapterSuspect
from fedfm_audit.watermark.commitment import Opening
from fedfm_audit.watermark.errors import ClaimError, WatermarkError
from fedfm_audit.watermark.judge import judge
from fedfm_audit.watermark.statistic import Trials

NO_MARKS = "the charter names no watermark"
_THRESHOLD_DIGITS = 1e-6

Place = tuple[str, str]
"""Client and mark."""


def has_marks(leaves: Sequence[Leaf]) -> bool:
    """Whether anything in the log is about a mark."""
    kinds = (MarkPredicate, MarkCheckPredicate)
    return any(isinstance(leaf.statement.predicate, kinds) for leaf in leaves)


def check_marks(
    charter: CharterView,
    leaves: Sequence[Leaf],
    rounds: Sequence[RoundEvidence],
    adapter: Path | None,
    openings: Sequence[bytes],
    findings: Findings,
) -> MarkSummary:
    """Check commitments, the round of marks and what owners say of it; then measure the marks whose
    ``openings`` are given in ``adapter``."""
    committed = _committed(charter, leaves, findings)
    before = _witnessed(charter, committed, rounds, findings)
    written = _written(leaves, findings)
    lines = {
        place: MarkLine(
            client=place[0],
            mark=place[1],
            leaf=leaf.index,
            claim=said.claim,
            size=said.committed.claim.size,
            keys=said.committed.claim.keys,
            threshold=_threshold(committed, said),
        )
        for place, (leaf, said) in committed.items()
    }
    _hear_owners(charter, leaves, committed, written, lines, findings)
    _measure(committed, adapter, openings, lines, findings)
    ordered = tuple(lines[place] for place in sorted(lines))
    return MarkSummary(0 if written is None else written.round, before, ordered)


def _committed(
    charter: CharterView, leaves: Sequence[Leaf], findings: Findings
) -> Mapping[Place, tuple[Leaf, MarkPredicate]]:
    """The commitments that the charter names, each by its leaf."""
    section = charter.watermark
    owners = [] if section is None else section["owners"]
    named = {(owner["client"], owner["mark"]): owner["commitment"] for owner in owners}
    found: dict[Place, tuple[Leaf, MarkPredicate]] = {}
    for leaf in leaves:
        said = leaf.statement.predicate
        if isinstance(said, MarkCheckPredicate) and not owners:
            findings.fail(leaf.place, "is about a mark, of which the charter has none")
        if not isinstance(said, MarkPredicate):
            continue
        place = (said.client, said.mark)
        if named.get(place) != leaf.digest:
            findings.fail(leaf.place, f"commits to a mark of {said.client} that no charter names")
        elif found.setdefault(place, (leaf, said)) != (leaf, said):
            findings.fail(leaf.place, f"commits to the {said.mark} mark of {said.client} again")
        else:
            _check_claim(charter, leaf, said, findings)
    for client, mark in sorted(named.keys() - found.keys()):
        findings.fail("the log", f"lacks the commitment to the {mark} mark of {client}")
    hashes = [said.committed.commitment for _, said in found.values()]
    if len(set(hashes)) != len(hashes):
        findings.fail("the log", "two marks have one key: their commitments are equal")
    return found


def _check_claim(charter: CharterView, leaf: Leaf, said: MarkPredicate, findings: Findings) -> None:
    claim = said.committed.claim
    owner = charter.parties.get(said.client)
    wrong = {
        "purpose": claim.purpose != "ownership",
        "federation": {claim.federation, said.federation} != {charter.federation},
        "base model": claim.base_model != charter.base_model,
        "identity": owner is None or claim.identity != owner.identity,
    }
    for what in (name for name, bad in wrong.items() if bad):
        findings.fail(leaf.place, f"claims a mark of another {what} than {said.client}'s here")
    try:
        said.committed.check()
    except ClaimError as error:
        findings.fail(leaf.place, error)


def _witnessed(
    charter: CharterView,
    committed: Mapping[Place, tuple[Leaf, MarkPredicate]],
    rounds: Sequence[RoundEvidence],
    findings: Findings,
) -> int:
    """How many clients signed the first round that was completed on a head that covers every
    commitment; 0 before there is one."""
    last = max((leaf.index for leaf, _ in committed.values()), default=-1)
    for evidence in rounds:
        covering = {
            entry.header.sender
            for entry in evidence.transcript.of("KeyOffer")
            if entry.header.checkpoint_size > last
        }
        if len(covering) < len(evidence.transcript.of("KeyOffer")):
            findings.fail(evidence.place, "was opened before the log held every commitment")
        if evidence.predicate.outcome == "completed":
            if len(covering) < charter.thresholds.vote_quorum:
                findings.fail(
                    evidence.place, f"only {len(covering)} clients saw the commitments before it"
                )
            return len(covering)
    return 0


def _written(leaves: Sequence[Leaf], findings: Findings) -> RoundPredicate | None:
    """The round that wrote the marks; a federation that has ended had one."""
    written, concluded = None, False
    for leaf in leaves:
        said = leaf.statement.predicate
        if isinstance(said, RoundPredicate) and said.kind == WATERMARK:
            written = said if said.outcome == "completed" else written
        concluded = concluded or isinstance(said, ConclusionPredicate)
    if concluded and written is None:
        findings.fail("the log", "concluded without a completed round of marks: there are none")
    return written


def _threshold(committed: Mapping[Place, tuple[Leaf, MarkPredicate]], said: MarkPredicate) -> float:
    return Trials(max(len(committed), 1), said.committed.claim.keys).threshold


def _hear_owners(
    charter: CharterView,
    leaves: Sequence[Leaf],
    committed: Mapping[Place, tuple[Leaf, MarkPredicate]],
    written: RoundPredicate | None,
    lines: dict[Place, MarkLine],
    findings: Findings,
) -> None:
    heard: set[Place] = set()
    for leaf in leaves:
        said = leaf.statement.predicate
        if not isinstance(said, MarkCheckPredicate) or not charter.marked:
            continue
        place = (said.client, said.mark)
        if place not in committed:
            findings.fail(leaf.place, f"is about a mark that {said.client} did not commit to")
            continue
        if place in heard:
            findings.fail(leaf.place, f"speaks again of the {said.mark} mark of {said.client}")
            continue
        heard.add(place)
        problems = {
            "another claim": said.claim != committed[place][1].claim,
            "another round or adapter": written is None
            or (said.round, said.adapter) != (written.round, written.adapter_out),
            "another threshold": not math.isclose(
                said.threshold, lines[place].threshold, rel_tol=_THRESHOLD_DIGITS
            ),
        }
        for what in (name for name, bad in problems.items() if bad):
            findings.fail(leaf.place, f"speaks of {what} than the log's")
        lines[place] = replace(lines[place], said=said.statistic, present=said.present)


def _measure(
    committed: Mapping[Place, tuple[Leaf, MarkPredicate]],
    adapter: Path | None,
    openings: Sequence[bytes],
    lines: dict[Place, MarkLine],
    findings: Findings,
) -> None:
    if not openings:
        return
    if adapter is None:
        findings.fail("openings", "nothing to measure them in: give the adapter folder too")
        return
    for number, data in enumerate(openings, 1):
        name = f"opening {number}"
        try:
            opening = Opening.decode(data)
            place = _place_of(committed, opening)
            if place is None:
                findings.fail(name, "is of a mark that nobody committed to in this log")
                continue
            trials = Trials(len(committed), opening.claim.keys)
            found = judge(opening, AdapterSuspect.open(adapter), trials)
        except WatermarkError as error:
            findings.fail(name, error)
            continue
        lines[place] = replace(lines[place], measured=found.evidence.statistic)
        if not found.present:
            findings.fail(
                name,
                f"the {place[1]} mark of {place[0]} is not in {adapter}: T "
                f"{found.evidence.statistic:.2f}, it takes {trials.threshold:.2f}",
            )


def _place_of(
    committed: Mapping[Place, tuple[Leaf, MarkPredicate]], opening: Opening
) -> Place | None:
    matching = (
        place for place, (_, said) in committed.items() if said.committed == opening.committed
    )
    return next(matching, None)


def describe(summary: MarkSummary) -> str:
    """One line for the report."""
    marks = summary.marks
    parts = [f"{_count(len(marks), 'mark')} committed to before round 1"]
    parts.append(
        f"on a head that {summary.witnessed} clients signed"
        if summary.witnessed
        else "no round was completed since"
    )
    if not summary.round:
        return "; ".join([*parts, "none is written yet"])
    present = sum(mark.present is True for mark in marks)
    silent = sum(mark.present is None for mark in marks)
    parts.append(f"written in round {summary.round}, {present} found by their owners")
    if summary.complaints:
        parts.append(
            "complaints: " + ", ".join(f"{m.client} ({m.mark})" for m in summary.complaints)
        )
    if silent:
        parts.append(f"nothing was said of {silent}")
    shown = [mark for mark in marks if mark.measured is not None]
    if shown:
        values = ", ".join(f"{m.client} ({m.mark}) T {m.measured:.1f}" for m in shown)
        parts.append(f"measured: {values}")
    else:
        parts.append("presence itself not checkable without an adapter and an opening")
    return "; ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
