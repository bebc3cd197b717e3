"""The report's section about ownership marks: whose, what their owners say, what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from fedfm_audit.html_report.markup import Markup, element, paragraph, table
from fedfm_audit.html_report.sections_bundle import MAX_ROWS, more
from fedfm_audit.report import MarkLine, Report


def marks(report: Report) -> Sequence[Markup]:
    """The section; nothing where the charter names no marks."""
    summary = report.marks
    if summary is None:
        return ()
    when = f"They were written in round {summary.round}." if summary.round else "None is written."
    parts = [
        element("h2", "Ownership marks"),
        paragraph(
            f"{len(summary.marks)} marks were committed to before round 1. {when} Whether a mark "
            "is in the adapter only its key can show: owners say so themselves, and an auditor "
            "measures those that are shown."
        ),
    ]
    if summary.complaints:
        names = ", ".join(f"{mark.client} ({mark.mark})" for mark in summary.complaints)
        parts.append(paragraph(f"Complaints of a missing mark: {names}.", class_="failed"))
    rows = [_row(mark) for mark in summary.marks[:MAX_ROWS]]
    head = ("Owner", "Mark", "Leaf", "Directions", "Sub-keys", "Needs T", "Owner says", "Measured")
    caption = "Every mark, with the T that its owner says and the one that was measured."
    parts.append(table(caption, head, rows, numeric=(2, 3, 4, 5, 6, 7)))
    return (element("section", *parts, more(len(summary.marks)), id="marks"),)


def _row(mark: MarkLine) -> tuple[str, ...]:
    said = "nothing"
    if mark.said is not None:
        said = f"{mark.said:.2f} ({'there' if mark.present else 'missing'})"
    measured = "" if mark.measured is None else f"{mark.measured:.2f}"
    return (
        mark.client,
        mark.mark,
        str(mark.leaf),
        str(mark.size),
        str(mark.keys),
        f"{mark.threshold:.2f}",
        said,
        measured,
    )
