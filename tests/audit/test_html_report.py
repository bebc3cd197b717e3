"""The HTML report: what it must say, that nothing hostile gets through, what a browser shows."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fedfm_audit.html_report.charts import epsilon_chart, participation_chart
from fedfm_audit.html_report.markup import Markup, element, escape, join
from fedfm_audit.html_report.overview import LedgerView, Overview, read_overview
from fedfm_audit.html_report.page import render_report, report_bundle
from fedfm_audit.report import STEP_TITLES, Report
from fedfm_audit.verify import verify_files
from tests.audit.played_round import ABORTED, DROPOUT, MAKE_KEYS, Script
from tests.audit.privacy_ledgers import LOCAL, PrivateFederation
from tests.audit.synthetic import play_federation

Files = Mapping[str, bytes]
HOSTILE = "<script>alert(1)</script>\" onload='x' \u202egpj.\u200b</td></table><h1>VERIFIED</h1>"
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "main", "section", "div", "span"),
    *("h1", "h2", "p", "ul", "li", "dl", "dt", "dd", "code", "strong", "figure", "figcaption"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("svg", "desc", "g", "rect", "line", "path", "text"),
}
VOID = {"meta"}


class Page(HTMLParser):
    """Elements, attributes and text of a page; refuses tags that do not match."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def judged(files: Files, name: str = "bundle", **options: Any) -> tuple[Report, bytes]:
    report = verify_files(files, name=name, **options)
    return report, render_report(report, files)


def headline(page: bytes) -> str:
    found = re.findall(r"<h1>(.*?)</h1>", page.decode())
    assert len(found) == 1
    return str(found[0])


@pytest.fixture(scope="module")
def private() -> Files:
    """Five institutions with ledgers: a full round, an aborted one, and one with a dropout."""
    federation = PrivateFederation(LOCAL)
    federation.play()
    federation.settle()
    federation.play(ABORTED)
    federation.play(DROPOUT)
    federation.federation.conclude()
    return federation.files()


@pytest.fixture(scope="module")
def page(private: Files) -> bytes:
    report, page = judged(private)
    assert report.ok, report.to_text()
    return page


# ---- what it says


def test_the_verdict_comes_first_and_every_step_is_there(page: bytes) -> None:
    assert headline(page) == "VERIFIED: federation ward-notes"
    text = Page(page).text
    assert text.index("VERIFIED") < text.index("What was checked")
    for title in STEP_TITLES.values():
        assert title in text
    assert "the log and witness keys came from the bundle itself" in text
    assert "that noise was really added" in text


def test_there_is_one_drawing_for_each_plot_with_words_for_it(page: bytes) -> None:
    found = Page(page)
    assert found.tags.count("svg") == 2
    names = [value for name, value in found.attributes if name == "aria-labelledby"]
    ids = {value for name, value in found.attributes if name == "id"}
    assert names == ["participation-title participation-desc", "epsilon-title epsilon-desc"]
    assert set(" ".join(names).split()) <= ids
    assert found.tags.count("caption") == found.tags.count("table")
    assert "1 removed of 5 invited" in found.text
    assert "round 2 (train), aborted: 0 accepted" in found.text


def test_facts_of_rounds_ledgers_and_log(private: Files, page: bytes) -> None:
    overview = read_overview(private)
    assert overview is not None
    text = Page(page).text
    assert [view.predicate.outcome for view in overview.rounds] == [
        *("completed", "aborted", "completed")
    ]
    (left_out,) = overview.rounds[2].removed
    assert (left_out.step, left_out.client, left_out.code) == (0, "client-05", "")
    assert left_out.reason in text
    assert "3 clients committed an update, 4 are needed" in text
    report = verify_files(private, name="bundle")
    assert report.summary is not None
    for hash_ in (report.summary.root, report.summary.charter, report.summary.adapter):
        assert hash_ in text
    # The verifier names the largest epsilon; the report's overview found the same.
    worst = max(view.epsilon for view in overview.ledgers)
    assert f"most spent is epsilon {worst:.4g} of 2" in report.step(6).detail
    assert f"{worst:.4g}" in text
    assert [number for number, _ in overview.ledgers[0].points] == [1, 2, 3]
    assert "2027-01-15 08:00:00 UTC" in text  # when the synthetic witnesses say they cosigned


def test_a_federation_without_a_privacy_claim_says_so(bundle: Files) -> None:
    _, page = judged(bundle)
    found = Page(page)
    assert found.tags.count("svg") == 1
    assert "no differential privacy" in found.text


def test_rounds_that_make_a_key_count_their_dealers() -> None:
    files = play_federation(MAKE_KEYS, Script(), suite="layered").files()
    report, page = judged(files)
    assert report.ok, report.to_text()
    assert "round 1 (keys), completed: 5 dealt, 0 removed of 5 invited" in Page(page).text
    assert "collective key" in Page(page).text


def test_the_same_bundle_gives_the_same_bytes(private: Files, page: bytes) -> None:
    assert judged(private)[1] == page


# ---- what fails


def test_a_failed_bundle_says_so_with_the_place(private: Files) -> None:
    name = "transcripts/000001.json"
    data = private[name]
    report, page = judged({**private, name: data[:500] + bytes([data[500] ^ 1]) + data[501:]})
    assert not report.ok
    assert headline(page) == "FAILED: federation ward-notes"
    verdict = page.decode().partition("</section>")[0]
    assert name in verdict
    assert "Step 3 (" in verdict
    assert "what the bundle claims" in Page(page).text


@pytest.mark.parametrize("missing", ["charter.json", "checkpoint", "tile/entries/"])
def test_whatever_is_missing_there_is_a_report(private: Files, missing: str) -> None:
    present = next(name for name in private if name.startswith(missing))
    report, page = judged({name: data for name, data in private.items() if name != present})
    assert not report.ok
    assert headline(page).startswith("FAILED")
    Page(page)


def test_a_bundle_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bundle.zip").write_bytes(b"no zip")
    report, page = report_bundle(tmp_path / "bundle.zip")
    assert not report.ok
    assert headline(page) == "FAILED"
    assert "not a readable zip" in Page(page).text


def test_a_reader_that_stumbles_does_not_hide_the_verdict(
    private: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(files: Files, *, full: bool) -> Overview:
        raise RecursionError("too deep")

    monkeypatch.setattr("fedfm_audit.html_report.page.read_overview", stumble)
    _, page = judged(private)
    assert headline(page) == "VERIFIED"
    assert "RecursionError: too deep" in Page(page).text


# ---- hostile text


@pytest.fixture(scope="module")
def hostile() -> bytes:
    """A report where every free text is an attack: model, labels, reason, file and bundle name."""

    def change(fields: dict[str, Any]) -> None:
        fields["model"]["name"] = HOSTILE
        fields["task"]["labels"] = [HOSTILE]

    script = replace(ABORTED, reason=HOSTILE)
    files = play_federation(Script(), script, change_charter=change).files()
    report, page = judged({**files, HOSTILE: b""}, name=HOSTILE)
    assert not report.ok
    return page


def test_hostile_text_stays_text(hostile: bytes) -> None:
    found = Page(hostile)
    assert set(found.tags) <= ALLOWED
    assert headline(hostile).startswith("FAILED")  # the one h1
    assert not [name for name, _ in found.attributes if name.startswith("on") or name == "style"]
    assert "<script>alert(1)</script>" in found.text  # shown, as text
    assert found.text.count("alert(1)") >= 4
    decoded = hostile.decode()
    assert "\u202e" not in decoded
    assert "\u200b" not in decoded
    assert "\\u202egpj." in decoded


def test_attributes_are_quoted() -> None:
    made = element("svg", class_='" onload="x', viewBox="0 0 1 1", title=None)
    assert made == '<svg class="&quot; onload=&quot;x" viewBox="0 0 1 1"></svg>'
    assert escape(Markup("<b>")) == "<b>"
    assert join(("<b>", Markup("<i>"), 3)) == "&lt;b&gt;<i>3"
    assert "\n" not in escape("a\nb")


def test_nothing_is_loaded_and_nothing_can_run(page: bytes, hostile: bytes) -> None:
    for each in (page, hostile):
        found = Page(each)
        names = {name for name, _ in found.attributes}
        assert not names & {"src", "href", "srcset", "action", "xlink:href", "style"}
        (policy,) = (value for _, value in found.attributes if "default-src" in value)
        css = re.findall(r"<style>(.*?)</style>", each.decode(), re.DOTALL)
        assert len(css) == 1
        digest = base64.b64encode(hashlib.sha256(css[0].encode()).digest()).decode()
        assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
        assert "url(" not in css[0]
        assert "@import" not in css[0]


# ---- plots


def test_institutions_that_spent_alike_share_a_line() -> None:
    views = [
        *(LedgerView(f"client-{n:02d}", 2, 0, ((1, 0.5), (2, 0.75)), 0.75) for n in range(40)),
        LedgerView("loud", 1, 0, ((1, float("inf")),), float("inf")),
    ]
    drawn = epsilon_chart(views, 2.0, 2)
    assert drawn.count("<path") == 2
    assert "client-00 and 39 more alike" in drawn
    assert "loud: epsilon infinity" in drawn
    numbers = [float(n) for n in re.findall(r"[HV](-?[\d.]+)", drawn)]
    assert all(0 <= number <= 720 for number in numbers)


def test_epsilon_is_drawn_to_scale() -> None:
    drawn = epsilon_chart([LedgerView("a", 1, 0, ((1, 1.0),), 1.0)], 2.0, 1)
    base = float(re.findall(r'class="axis" x1="[\d.]+" y1="([\d.]+)"', drawn)[0])
    budget = float(re.findall(r'class="limit" x1="[\d.]+" y1="([\d.]+)"', drawn)[0])
    spent = float(re.findall(r"V([\d.]+)", drawn)[0])
    assert (base - spent) == pytest.approx((base - budget) / 2, abs=0.05)


def test_an_empty_plot_is_still_a_plot() -> None:
    assert participation_chart((), 3).count("<svg") == 1
    assert epsilon_chart((), 2.0, 0).count("<svg") == 1
