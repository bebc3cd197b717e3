"""The whole report: one HTML file that needs no network, runs no script and prints on A4.

The page carries a Content-Security-Policy that allows its own style sheet, by hash, and nothing
else; so even a mistake in escaping could load or run nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedfm_audit.bundle import read_bundle
from fedfm_audit.errors import BundleError
from fedfm_audit.html_report.markup import Child, Markup, element, join, paragraph
from fedfm_audit.html_report.overview import Overview, read_overview
from fedfm_audit.html_report.sections_bundle import (
    adapters,
    federation,
    log_facts,
    participation,
    privacy,
    roster,
)
from fedfm_audit.html_report.sections_exclusions import exclusions
from fedfm_audit.html_report.sections_marks import marks
from fedfm_audit.html_report.sections_verdict import limits, other_tools, steps, verdict
from fedfm_audit.html_report.style import CSS
from fedfm_audit.report import Report
from fedfm_audit.verify import verify_bundle, verify_files


def report_bundle(
    path: Path,
    *,
    policy: bytes | None = None,
    charter_sha256: str | None = None,
    adapter: Path | None = None,
    full: bool = False,
    replay: Path | None = None,
    replay_rounds: range | None = None,
    tsa_roots: bytes | None = None,
    openings: Sequence[bytes] = (),
) -> tuple[Report, bytes]:
    """Verify a bundle folder or zip, read once; what was found, and the HTML file about it.

    The parameters are those of ``verify_bundle``.
    """
    try:
        files = read_bundle(path)
    except BundleError:
        report = verify_bundle(path)
        return report, render_report(report, {})
    report = verify_files(
        files,
        name=str(path),
        policy=policy,
        charter_sha256=charter_sha256,
        adapter=adapter,
        full=full,
        replay=replay,
        replay_rounds=replay_rounds,
        tsa_roots=tsa_roots,
        openings=openings,
    )
    return report, render_report(report, files, full=full)


def render_report(report: Report, files: Mapping[str, bytes], *, full: bool = False) -> bytes:
    """The HTML file (UTF-8) about a verified bundle; the same input gives the same bytes.

    Parameters
    ----------
    report
        What ``verify_files`` found about ``files``.
    files
        The bundle; empty if it could not be read.
    full
        Take privacy figures by PLD too (seconds for each distinct state of a ledger).
    """
    try:
        overview, trouble = read_overview(files, full=full), ""
        body = _sections(report, overview)
    except Exception as error:  # a trick that no reader foresaw must not hide the verdict
        trouble = f"What the bundle says cannot be shown: {type(error).__name__}: {error}"
        body = join((verdict(report, None, trouble), steps(report), limits(report, None)))
    return _document(f"Audit of {report.bundle}", body).encode()


def _sections(report: Report, overview: Overview | None) -> Markup:
    if overview is None:
        trouble = "There is no readable charter, so nothing more can be shown of this bundle."
        return join(
            (verdict(report, None, trouble), steps(report), limits(report, None), other_tools(None))
        )
    parts: list[Child] = [verdict(report, overview), steps(report)]
    if not report.ok:
        parts.append(
            paragraph(
                "The verification failed. Everything below is what the bundle claims; believe no "
                "more of it than the steps above support.",
                class_="failed",
            )
        )
    parts += [
        federation(overview),
        roster(overview),
        participation(overview),
        exclusions(overview),
        privacy(overview),
        log_facts(overview),
        adapters(overview),
        *marks(report),
        limits(report, overview),
        other_tools(overview),
    ]
    return join(parts)


def _document(title: str, body: Markup) -> str:
    digest = base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(CSS)),
    )
    page = element("html", head, element("body", element("main", body)), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"
