"""The utility benchmark resumes by case, and its table says what was not measured."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks.privacy_utility import (
    ADAPTERS,
    EPSILONS,
    Case,
    cases,
    chosen_rates,
    epsilon_text,
    noise_for,
    table,
)
from benchmarks.results import RowFile


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
