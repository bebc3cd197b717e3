"""Sparse graphs: the (k, t) search against the reference values of another implementation, and
the graph's own promises."""

from __future__ import annotations

import math

import pytest
from fedfm_protocols.errors import CharterError
from fedfm_protocols.graph import find_parameters, graph_seed, neighbours

# Clients, adversarial share, dropout share -> degree, threshold: the expected values that
# google/federated-compute tests its own search against (semi-malicious server, security 2^-40,
# correctness 2^-20); where its threshold is an upper bound, ours may be lower.
REFERENCE = [
    (100, 0.3, 0.3, 92, 62),
    (1000, 0.3, 0.3, 872, 584),
    (100, 0.05, 0.33, 72, 39),
    (1000, 0.05, 0.33, 398, 223),
    (100, 0.33, 0.05, 42, 37),
    (1000, 0.33, 0.05, 132, 109),
    (10000, 0.33, 0.05, 178, 146),
    (100, 0.05, 0.05, 16, 11),
    (1000, 0.05, 0.05, 52, 37),
    (10000, 0.05, 0.05, 62, 44),
    (1000, 0.33, 0.0, 38, 37),
]
OURS = [(100, 10, 10, 32, 22), (1000, 100, 100, 96, 67), (10000, 1000, 1000, 122, 85)]


@pytest.mark.parametrize(("clients", "adversarial", "dropout", "degree", "threshold"), REFERENCE)
def test_search_finds_the_reference_degree(
    clients: int, adversarial: float, dropout: float, degree: int, threshold: int
) -> None:
    colluding = math.floor(adversarial * clients + 1e-9)
    found = find_parameters(
        clients, colluding, math.floor(dropout * clients + 1e-9), malicious=False
    )
    assert found.degree == degree
    assert found.threshold <= threshold
    assert 2 * found.threshold > found.degree


@pytest.mark.parametrize(("clients", "colluding", "dropouts", "degree", "threshold"), OURS)
def test_parameters_of_the_design(
    clients: int, colluding: int, dropouts: int, degree: int, threshold: int
) -> None:
    found = find_parameters(clients, colluding, dropouts, malicious=False)
    assert (found.degree, found.threshold) == (degree, threshold)


def test_infeasible_numbers_are_refused() -> None:
    with pytest.raises(CharterError, match="more neighbours than there are clients"):
        find_parameters(1000, 500, 400)
    with pytest.raises(CharterError, match="no sparse graph"):
        find_parameters(10, 6, 4)


def test_graph_is_symmetric_regular_and_depends_on_every_nonce() -> None:
    names = [f"client-{i:03d}" for i in range(100)]
    nonces = [bytes([i]) * 32 for i in range(100)]
    seed = graph_seed(b"context", nonces)
    graph = neighbours(names, seed, 32)
    for name, others in graph.items():
        assert len(others) == 32
        assert name not in others
        assert list(others) == sorted(set(others))
        assert all(name in graph[other] for other in others)
    nonces[57] = b"\xff" * 32
    assert neighbours(names, graph_seed(b"context", nonces), 32) != graph


def test_graph_does_not_depend_on_the_order_of_names() -> None:
    names = [f"client-{i:03d}" for i in range(70)]
    assert neighbours(names, b"seed", 16) == neighbours(names[::-1], b"seed", 16)


def test_small_rosters_get_the_complete_graph() -> None:
    graph = neighbours(["b", "a", "c"], b"seed", 32)
    assert graph == {"a": ("b", "c"), "b": ("a", "c"), "c": ("a", "b")}


def test_positions_on_the_ring_are_uniform() -> None:
    """Over many seeds every pair is joined equally often: expected k/(n-1) of the time."""
    names = [f"c{i:02d}" for i in range(20)]
    trials, degree = 2000, 4
    joined = sum(
        "c07" in neighbours(names, i.to_bytes(4, "big"), degree)["c03"] for i in range(trials)
    )
    expected = trials * degree / (len(names) - 1)
    assert abs(joined - expected) < 5 * math.sqrt(expected)
