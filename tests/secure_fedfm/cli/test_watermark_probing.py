"""watermark probe and verify-predictions: texts out, answers in, a set for one suspect alone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from fedfm_audit.watermark.commitment import CommittedClaim, MarkKey
from fedfm_audit.watermark.triggers import TriggerSet, trigger_set
from secure_fedfm.storage.keys import load_identity
from tests.audit.marks import host, write_adapter
from tests.secure_fedfm.cli.conftest import Run, Sites
from tests.secure_fedfm.cli.test_light_imports import run_without_extras

LABELS = ("greet", "part")


class Prober:
    """A client with a claim of two sub-keys, and its federation's charter."""

    def __init__(self, run: Run, sites: Sites) -> None:
        self.run, self.root, site = run, sites.root, sites.client("bank-a")
        assert run(*sites.new_charter(), "--labels", ",".join(LABELS)).code == 0
        blank = write_adapter(sites.root / "blank", host())
        ran = run(
            "watermark", "claim", "--site", site, "--adapter", blank, "--federation", "banks",
            "--base-model", "ab" * 32, "--keys", 2, "--size", 128, "--name", "mark",
        )  # fmt: skip
        assert ran.code == 0, ran.err
        self.claim, self.key = site / "mark.json", site / "keys" / "mark.pem"
        self.own: list[object] = ["--claim", self.claim, "--key", self.key]
        self.charter: list[object] = ["--charter", sites.draft]
        self.record = site / "keys" / "mark.shown.json"

    def triggers(self, index: int = 0) -> TriggerSet:
        committed = CommittedClaim.decode(self.claim.read_bytes()[:-1])
        secret = MarkKey(load_identity(self.key).secret)
        return trigger_set(committed.claim, secret.sub_key(committed.claim, index), LABELS)

    def answered(self, hits: int, index: int = 0) -> Path:
        """A file of answers with so many hits."""
        one, other = self.triggers(index), {"greet": "part", "part": "greet"}
        path = self.root / "answers.csv"
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label", "score"])
            for number, (text, target) in enumerate(zip(one.texts, one.targets, strict=True)):
                writer.writerow([text, target if number < hits else other[target], "0.9"])
        return path


@pytest.fixture
def prober(run: Run, sites: Sites, no_model_loading: None) -> Prober:
    return Prober(run, sites)


def test_texts_go_out_without_their_classes(prober: Prober, run: Run) -> None:
    out = prober.root / "texts.csv"
    ran = run("watermark", "probe", *prober.own, "--suspect", "vendor x", "--out", out, "--json")
    assert ran.code == 0, ran.err
    lines = out.read_text().splitlines()
    assert lines == ["text", *prober.triggers().texts]
    assert ran.json()["sets"] == 2
    assert prober.record.exists()


def test_answers_are_judged(prober: Prober, run: Run) -> None:
    out, opening = prober.root / "texts.csv", prober.root / "opening.json"
    run("watermark", "probe", *prober.own, "--suspect", "x", "--out", out)
    judge = ["watermark", "verify-predictions", prober.answered(128), "--suspect", "x"]
    ran = run(*judge, *prober.charter, *prober.own, "--logged", 6, "--reveal", opening, "--json")
    assert ran.code == 0, ran.err
    assert ran.err.startswith("MARKED  128 hits of 128")
    assert ran.json()["log2_p"] == -128
    few = ["watermark", "verify-predictions", prober.answered(90), "--suspect", "x"]
    ran = run(*few, *prober.charter, *prober.own, "--logged", 6)
    assert (ran.code, "NOT SHOWN" in ran.err) == (1, True)
    ran = run(*judge, *prober.charter, *prober.own)
    assert (ran.code, "needs more than there are" in ran.err) == (1, True)  # 2 classes, unlogged
    # A judge repeats it from the opening, with a record of its own.
    texts = prober.root / "judge.csv"
    assert (
        run("watermark", "probe", "--opening", opening, "--suspect", "x", "--out", texts).code == 0
    )
    assert texts.read_bytes() == out.read_bytes()
    again = [*judge[:2], prober.answered(128), *judge[3:]]
    assert run(*again, *prober.charter, "--opening", opening, "--logged", 6).code == 0


def test_a_set_that_somebody_else_has_seen_is_refused(prober: Prober, run: Run) -> None:
    out = prober.root / "texts.csv"
    assert run("watermark", "probe", *prober.own, "--suspect", "x", "--out", out).code == 0
    second = ["watermark", "probe", *prober.own, "--suspect", "y", "--out", prober.root / "y.csv"]
    ran = run(*second)
    assert (ran.code, "was shown to x" in ran.error()) == (3, True)
    assert not (prober.root / "y.csv").exists()
    judged = ["watermark", "verify-predictions", prober.answered(128), "--suspect", "y"]
    ran = run(*judged, *prober.charter, *prober.own, "--logged", 6)
    assert (ran.code, "was shown to x, not to y" in ran.error()) == (3, True)
    assert run(*second, "--sub-key", 1).code == 0
    assert run("watermark", "probe", *prober.own, "--suspect", "x", "--out", out).code == 3
    prober.record.write_text("[]")
    assert run(*second[:-1], prober.root / "z.csv").code == 3


def test_answers_that_prove_nothing_are_refused(prober: Prober, run: Run) -> None:
    out = prober.root / "texts.csv"
    run("watermark", "probe", *prober.own, "--suspect", "x", "--out", out)
    tail = ["--suspect", "x", *prober.charter, *prober.own, "--logged", 6]
    other = prober.answered(128, index=1)  # made for the other set
    assert run("watermark", "verify-predictions", other, *tail).code == 3
    other.write_text("text,label\na,greet\na,part\n")
    ran = run("watermark", "verify-predictions", other, *tail)
    assert (ran.code, "two labels for one text" in ran.error()) == (3, True)
    other.write_text("question,answer\na,greet\n")
    assert run("watermark", "verify-predictions", other, *tail).code == 3
    assert run("watermark", "verify-predictions", out, "--suspect", "x", *prober.charter).code == 2


def test_predictions_are_judged_without_any_extra(prober: Prober, run: Run) -> None:
    run("watermark", "probe", *prober.own, "--suspect", "x", "--out", prober.root / "texts.csv")
    command = ["watermark", "verify-predictions", prober.answered(128), "--suspect", "x",
               *prober.charter, *prober.own, "--logged", 6]  # fmt: skip
    ran = run_without_extras(*map(str, command))
    assert ran.returncode == 0, ran.stderr
