"""The report in a real browser: the verdict and every plot are there, on screen and in print, and a
picture that is missing is noticed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from secure_fedfm.cli.main import main
from tests.independent.browser import open_page, print_page
from tests.independent.bundles import flip, payload_of, read_leaves

A4 = {(595, 842), (596, 842)}
SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)

pytestmark = pytest.mark.slow


@pytest.fixture
def page(auditor: Path) -> Path:
    """The report of a bundle, made with the command that auditors type."""
    path = auditor / "report.html"
    assert main(["audit", "report", str(auditor / "bundle"), "--out", str(path)]) == 0
    return path


def plots_of(bundle: Path) -> int:
    """Participation, and privacy where any statement is a ledger entry."""
    kinds = {payload_of(leaf)["predicateType"] for leaf in read_leaves(bundle)}
    return 1 + ("urn:secure-fedfm:privacy:v1" in kinds)


def without(page: Path, number: int) -> Path:
    """A copy that lacks one plot."""
    text = page.read_text("utf-8")
    missing = SVG.findall(text)[number]
    copy = page.with_name(f"without-{number}.html")
    copy.write_text(text.replace(missing, "", 1), "utf-8")
    return copy


def test_verdict_and_plots_are_shown_and_printed(page: Path) -> None:
    wanted = plots_of(page.parent / "bundle")
    shown = open_page(page)
    assert re.search(r"<h1>VERIFIED: federation [a-z0-9-]+</h1>", shown)
    assert len(SVG.findall(shown)) == wanted
    printed = print_page(page)
    assert printed.sizes <= A4
    assert "VERIFIED: federation" in printed.text
    assert printed.text.index("VERIFIED") < printed.text.index("What was checked")
    for number in range(wanted):
        bare = without(page, number)
        assert len(SVG.findall(open_page(bare))) == wanted - 1
        # A line is an eighth of a bar's ink, and still hundreds of pixels.
        assert printed.ink - print_page(bare).ink > 40, f"plot {number} is not drawn"


def test_a_failed_bundle_is_shown_as_failed(auditor: Path) -> None:
    transcript = min((auditor / "bundle" / "transcripts").iterdir())
    flip(transcript, len(transcript.read_bytes()) // 2)
    path = auditor / "report.html"
    assert main(["audit", "report", str(auditor / "bundle"), "--out", str(path)]) == 1
    shown = open_page(path)
    assert re.search(r"<h1>FAILED: federation [a-z0-9-]+</h1>", shown)
    assert transcript.name in shown
    assert "VERIFIED" not in shown


HOSTILE = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"


def test_what_a_bundle_says_is_neither_run_nor_loaded(auditor: Path) -> None:
    """A file name of the bundle is text that anybody chooses."""
    (auditor / "bundle" / HOSTILE.replace("/", "_")).write_bytes(b"")
    path = auditor / "report.html"
    assert main(["audit", "report", str(auditor / "bundle"), "--out", str(path)]) == 1
    shown = open_page(path)
    assert "<script" not in shown
    assert "<img" not in shown
    assert json.dumps("run") not in shown
    assert "<title>run" not in shown
    assert shown.count("<h1>") == 1
