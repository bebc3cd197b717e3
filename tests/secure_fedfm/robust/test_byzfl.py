"""Our rules against byzfl's answers on the same vectors (``tests/vectors/byzfl_rules.py``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secure_fedfm.robust.coordinatewise import coordinate_median, trimmed_mean
from secure_fedfm.robust.distances import mixing_matrix, weiszfeld
from secure_fedfm.robust.krum import Krum, MultiKrum
from secure_fedfm.robust.registry import make_rule
from secure_fedfm.robust.rule import Rule
from secure_fedfm.robust.score_matrix import ScoreMatrix

FILE = Path(__file__).parents[2] / "vectors" / "byzfl_rules.json"
CASES: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))["cases"]

every_case = pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))


def vectors_of(case: dict[str, Any]) -> NDArray[np.float64]:
    return np.array(case["vectors"], dtype=np.float64)


def scores_of(vectors: NDArray[np.float64]) -> ScoreMatrix:
    return ScoreMatrix(tuple(f"client-{i:02}" for i in range(len(vectors))), vectors @ vectors.T)


def average(case: dict[str, Any], rule: Rule) -> NDArray[np.float64]:
    """The average that a rule's weights make of the vectors."""
    vectors = vectors_of(case)
    found: NDArray[np.float64] = rule.judge(scores_of(vectors)).weights @ vectors
    return found


@every_case
def test_krum(case: dict[str, Any]) -> None:
    """byzfl's f counts one neighbour more: its f is Blanchard's f + 1."""
    rule = Krum(case["byzantine"] - 1)
    assert average(case, rule) == pytest.approx(case["outputs"]["krum"], abs=1e-6)


@every_case
def test_multi_krum(case: dict[str, Any]) -> None:
    byzantine = case["byzantine"]
    rule = MultiKrum(byzantine - 1, keep=len(case["vectors"]) - byzantine)
    assert average(case, rule) == pytest.approx(case["outputs"]["multi-krum"], abs=1e-6)


@every_case
def test_minimum_diameter(case: dict[str, Any]) -> None:
    rule = make_rule("minimum-diameter", {"byzantine": case["byzantine"]})
    assert average(case, rule) == pytest.approx(case["outputs"]["minimum-diameter"], abs=1e-6)


@every_case
@pytest.mark.parametrize("iterations", [3, 100])
def test_geometric_median(case: dict[str, Any], iterations: int) -> None:
    """byzfl starts at the origin and stops after so many iterations."""
    vectors = vectors_of(case)
    weights = weiszfeld(vectors @ vectors.T, 0.1, iterations, np.zeros(len(vectors)))
    expected = case["outputs"][f"geometric-median, {iterations} iterations"]
    assert weights @ vectors == pytest.approx(expected, abs=1e-6)


@every_case
def test_the_geometric_median_rule_is_the_converged_one(case: dict[str, Any]) -> None:
    expected = case["outputs"]["geometric-median, 100 iterations"]
    found = average(case, make_rule("geometric-median", {}))
    assert found == pytest.approx(expected, abs=1e-2)


@every_case
def test_nearest_neighbour_mixing(case: dict[str, Any]) -> None:
    vectors = vectors_of(case)
    scores = scores_of(vectors)
    keep = len(vectors) - case["byzantine"]
    mixed = mixing_matrix(scores.squared_distances, keep, scores.names) @ vectors
    assert mixed == pytest.approx(np.array(case["outputs"]["nearest-neighbour-mixing"]), abs=1e-6)


@every_case
def test_coordinatewise(case: dict[str, Any]) -> None:
    vectors, outputs = vectors_of(case), case["outputs"]
    assert coordinate_median(vectors) == pytest.approx(outputs["coordinate-median"], abs=1e-6)
    found = trimmed_mean(vectors, case["byzantine"])
    assert found == pytest.approx(outputs["trimmed-mean"], abs=1e-6)
