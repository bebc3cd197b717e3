"""The benchmark of marks: its attacks, its comparison and its tables, on a small random adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.mark_attacks import (
    LOW_RANK,
    MERGED,
    Overwriting,
    as_bfloat16,
    erased,
    merged,
    rounded,
)
from benchmarks.mark_owners import Owners, Strength, outsider, with_factors
from benchmarks.mark_plot import curve, draw, left_at
from benchmarks.mark_runs import cases
from benchmarks.mark_statistics import colluding, random_statistics, tail
from benchmarks.mark_table import interval, tables
from benchmarks.sign_marks import SignMark, as_factors, from_merged
from fedfm_audit.watermark.suspect import DenseSuspect, LowRank, LowRankSuspect
from secure_fedfm.watermark.embedding import frobenius
from tests.audit.marks import CARRIER, Shape, host
from tests.secure_fedfm.watermark.federated import carrier, released

OWNERS = Owners.plan(carrier(), CARRIER.targets(), 2, seed=1)
MARKED = OWNERS.written(released())
FACTORS = carrier().factors(MARKED)
SMALL = host(Shape(modules=6, width=64, rank=8))


def moved(before: dict[str, LowRank], after: dict[str, LowRank]) -> float:
    """Relative change of B A."""
    change = {n: one.product() - before[n].product() for n, one in after.items()}
    return float(np.sqrt(sum(float(np.sum(c**2)) for c in change.values()))) / frobenius(before)


def test_marks_are_planned_and_written_by_the_librarys_own_parts() -> None:
    found = OWNERS.judge(LowRankSuspect(FACTORS))
    assert [mark for _, mark in found] == ["consortium", "own", "own"]
    strength = Strength.of(found)
    assert strength.lost == 0
    assert strength.consortium > 12
    assert strength.worst > 8.5
    none = Strength.of(OWNERS.judge(LowRankSuspect(carrier().factors(released()))))
    assert none.lost == 3


@pytest.mark.parametrize("name", ["nothing", "gauge change", "SVD refactor"])
def test_attacks_that_change_no_product_change_no_accuracy(name: str) -> None:
    attacked = dict(LOW_RANK[name](FACTORS))
    assert moved(FACTORS, attacked) < 1e-4
    again = carrier().factors(with_factors(carrier(), MARKED, attacked))
    assert moved(FACTORS, again) < 1e-4


def test_a_smaller_rank_fits_the_adapter_again() -> None:
    cut = dict(LOW_RANK["SVD rank 8 to 4"](FACTORS))
    assert next(iter(cut.values())).b.shape[1] == 4
    again = carrier().factors(with_factors(carrier(), MARKED, cut))
    assert moved(cut, again) < 1e-4
    assert 0.01 < moved(FACTORS, cut) < 0.5


def test_rounding_has_as_many_levels_as_bits() -> None:
    values = np.random.default_rng(1).normal(size=(3, 64)).astype("f4")
    assert len(np.unique(rounded(values[:1], 4))) <= 15
    assert np.abs(rounded(values, 8) - values).max() < np.abs(values).max() / 127
    assert (rounded(np.zeros((2, 4), np.float32), 4) == 0).all()
    assert as_bfloat16(np.array([[1.00390625, 1.01171875]], "f4")).tolist() == [[1.0, 1.015625]]


def test_merged_weights_still_hold_the_change() -> None:
    generator = np.random.default_rng(2)
    base = {n: generator.normal(size=(256, 256)).astype("f4") * np.float32(0.04) for n in FACTORS}
    whole = OWNERS.judge(DenseSuspect(merged(FACTORS, base, MERGED["merge, fp32"])))
    assert Strength.of(whole).lost == 0
    coarse = OWNERS.judge(DenseSuspect(merged(FACTORS, base, MERGED["merge, int4"])))
    assert Strength.of(coarse).worst < Strength.of(whole).worst


def test_erasing_moves_the_adapter_as_far_as_it_says() -> None:
    claim = outsider(CARRIER.targets(), 128, 0.6, 1).committed.claim
    thief = Overwriting(claim, 1)
    for method in ("noise", "overwriting"):
        weak, strong = (dict(erased(method, FACTORS, s, thief)) for s in (0.5, 2.0))
        assert moved(FACTORS, weak) == pytest.approx(0.5, rel=1e-3)
        found = [Strength.of(OWNERS.judge(LowRankSuspect(one))).worst for one in (weak, strong)]
        assert found[0] > found[1]
    cut = dict(erased("pruning", FACTORS, 0.9, thief))
    assert np.mean([np.mean(one.b == 0) for one in cut.values()]) == pytest.approx(0.9, abs=0.01)


def test_sign_marks_hold_until_the_gauge_changes() -> None:
    mark, plain = SignMark(64, 0.5, 1), host()
    written = mark.written(plain)
    assert mark.found(written).matches == 64
    assert mark.found(plain).matches < 50
    assert mark.found(LOW_RANK["pruning 25 %"](written)).matches > 60
    assert mark.found(LOW_RANK["gauge change"](written)).matches < 50
    assert mark.found(as_factors(LOW_RANK["SVD rank 8 to 4"](written), 8)).matches < 50
    products = {name: one.product() for name, one in written.items()}
    assert mark.found(from_merged(products, 8)).matches < 50


def test_statistics_of_many_keys() -> None:
    found = random_statistics(SMALL, 200, seed=1)
    assert abs(found.mean()) < 0.3
    assert found.std() == pytest.approx(1, abs=0.2)
    assert tail(np.array([0.5, 1.5, 2.5]), [1.0])[0]["share"] == pytest.approx(2 / 3)


def test_colluders_are_counted_by_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.mark_statistics.RECIPIENTS", 4)
    monkeypatch.setattr("benchmarks.mark_statistics.COPIES", 3)
    found = colluding(SMALL, [1, 2], seed=1)
    assert [(one["colluders"], one["sets"]) for one in found["sets"]] == [(1, 3), (2, 3)]
    assert found["sets"][0]["named"] == 3
    assert found["sets"][0]["weakest"] > found["sets"][1]["weakest"]


# ---- tables


def erasing(strength: float, accuracy: float, worst: float, seed: int = 1) -> dict[str, Any]:
    return {"kind": "erasing", "what": "noise", "strength": strength, "accuracy_before": 0.9,
            "accuracy": accuracy, "worst": worst, "consortium": 30.0,
            "worst_before": 16.0, "seed": seed}  # fmt: skip


ROWS = [erasing(1.0, 0.89, 10.0), erasing(2.0, 0.80, 4.0), erasing(1.0, 0.89, 12.0, 2),
        erasing(2.0, 0.80, 6.0, 2)]  # fmt: skip


def test_what_is_left_is_read_off_the_line_between_doses() -> None:
    points = curve(ROWS, "noise")
    assert [(round(x, 6), t) for _, x, t in points] == [(0.0, 16.0), (1.0, 11.0), (10.0, 5.0)]
    assert left_at(points, 5.5) == pytest.approx(8.0)
    assert left_at(points, 11) is None
    assert "| noise in B | 11.0 |" in tables(ROWS)


def test_intervals_are_students() -> None:
    mean, half = interval([0.1, 0.2, 0.3, 0.4, 0.5])
    assert mean == pytest.approx(0.3)
    assert half == pytest.approx(2.776 * np.std([0.1, 0.2, 0.3, 0.4, 0.5], ddof=1) / np.sqrt(5))
    assert interval([1.0]) == (1.0, None)


def test_the_picture_is_the_same_twice(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert draw(ROWS, tmp_path / "a.svg") == ["noise in B"]
    draw(ROWS, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_every_case_is_planned_once() -> None:
    keys = [tuple(case.key().items()) for case in cases(5, 2)]
    assert len(keys) == len(set(keys))
    assert sum(case.kind == "marking" for case in cases(5, 2)) == 5
    assert {case.seed for case in cases(5, 2) if case.kind == "erasing"} == {1, 2}
