"""The report's section about who was left out of a sum, and by whom it was decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedfm_audit.html_report.markup import (
    Child,
    Markup,
    definitions,
    element,
    paragraph,
    table,
)
from fedfm_audit.html_report.overview import Overview
from fedfm_audit.html_report.sections_bundle import MAX_ROWS, more


def exclusions(overview: Overview) -> Markup:
    """Who was left out of which sum, and why."""
    heading = element("h2", "Exclusions with reasons")
    parts: list[Child] = [heading, *_judged_by(overview)]
    removed = [(view, left_out) for view in overview.rounds for left_out in view.removed]
    if not removed:
        parts.append(paragraph("No institution was removed from a cohort."))
        return element("section", *parts, id="exclusions")
    counted: Counter[tuple[str, str]] = Counter(
        (left_out.client, left_out.reason) for _, left_out in removed
    )
    rows = [(name, reason, str(count)) for (name, reason), count in sorted(counted.items())]
    parts.append(
        table(
            "How often each institution was left out of a sum, by reason.",
            ("Institution", "Reason", "Sums"),
            rows[:MAX_ROWS],
            numeric=(2,),
        )
    )
    listed = [
        (
            left_out.client,
            str(left_out.round),
            str(left_out.step),
            left_out.reason,
            view.predicate.outcome,
        )
        for view, left_out in removed[:MAX_ROWS]
    ]
    caption = (
        "Every exclusion. Who is removed had dealt shares. Without a verdict the reason is the "
        "first message that is missing: it did not come, came too late or was refused; the log "
        "does not say which."
    )
    head = ("Institution", "Round", "Step", "Reason", "The round was")
    parts += [table(caption, head, listed, numeric=(1, 2)), more(len(removed))]
    return element("section", *parts, id="exclusions")


def _judged_by(overview: Overview) -> Sequence[Child]:
    charter = overview.charter
    if charter.robustness is None or charter.validator is None:
        return ()
    numbers = charter.robustness["parameters"]
    shown = ", ".join(f"{name} {value}" for name, value in sorted(numbers.items()))
    facts: list[tuple[Child, Child]] = [
        ("rule", charter.rule),
        ("parameters", shown or "none"),
        ("validator", charter.validator.name),
        ("client that the others are compared with", charter.robustness.get("root", "none")),
        ("largest update that is measured (L2 norm)", str(charter.robustness["norm_bound"])),
        ("rounds judged under one sketch key, at most", str(charter.robustness["key_rounds"])),
    ]
    return (definitions(facts),)
