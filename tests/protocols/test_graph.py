"""Sparse graphs: the (k, t) search against the reference values of another implementation, and
the graph's own promises."""

from __future__ import annotations

import math
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm_protocols.errors import CharterError
from fedfm_protocols.graph import MAX_WITHHELD, Ring, find_parameters, graph_seed

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


def _names(clients: int) -> list[str]:
    return [f"client-{i:03d}" for i in range(clients)]


def _graph(ring: Ring) -> dict[str, tuple[str, ...]]:
    return {name: ring.neighbours(name) for name in ring.order}


def test_graph_is_symmetric_regular_and_depends_on_every_nonce() -> None:
    nonces = {name: bytes([i]) * 32 for i, name in enumerate(_names(100))}
    graph = _graph(Ring.draw(tuple(nonces), graph_seed(b"context", nonces), 32))
    for name, others in graph.items():
        assert len(others) == 32
        assert name not in others
        assert list(others) == sorted(set(others))
        assert all(name in graph[other] for other in others)
    for name in nonces:
        changed = {**nonces, name: b"\xff" * 32}
        assert graph_seed(b"context", changed) != graph_seed(b"context", nonces)
    changed = {**nonces, "client-057": b"\xff" * 32}
    assert _graph(Ring.draw(tuple(nonces), graph_seed(b"context", changed), 32)) != graph


def test_the_seed_names_who_takes_part() -> None:
    """Two participants with one nonce: leaving out the one or the other draws another ring."""
    nonces = {"a": b"1" * 32, "b": b"2" * 32, "c": b"2" * 32}
    without_b = {name: nonce for name, nonce in nonces.items() if name != "b"}
    without_c = {name: nonce for name, nonce in nonces.items() if name != "c"}
    assert graph_seed(b"context", without_b) != graph_seed(b"context", without_c)
    assert graph_seed(b"context", nonces) != graph_seed(b"another", nonces)


def test_graph_does_not_depend_on_the_order_of_names() -> None:
    names = _names(70)
    assert Ring.draw(names, b"seed", 16) == Ring.draw(names[::-1], b"seed", 16)


def test_small_rosters_get_the_complete_graph() -> None:
    ring = Ring.draw(["b", "a", "c"], b"seed", 32)
    assert _graph(ring) == {"a": ("b", "c"), "b": ("a", "c"), "c": ("a", "b")}
    assert ring.lonely(("a", "b"), 1) == ()
    assert ring.lonely(("a", "b"), 2) == ("a", "b")


def test_positions_on_the_ring_are_uniform() -> None:
    """Over many seeds every pair is joined equally often: expected k/(n-1) of the time."""
    names = [f"c{i:02d}" for i in range(20)]
    trials, degree = 2000, 4
    joined = sum(
        "c07" in Ring.draw(names, i.to_bytes(4, "big"), degree).neighbours("c03")
        for i in range(trials)
    )
    expected = trials * degree / (len(names) - 1)
    assert abs(joined - expected) < 5 * math.sqrt(expected)


@settings(deadline=None, max_examples=60)
@given(st.integers(8, 40), st.integers(1, 3), st.integers(0, 7), st.randoms(use_true_random=False))
def test_lonely_counts_the_accepted_neighbours(
    clients: int, half: int, least: int, random: Random
) -> None:
    ring = Ring.draw(_names(clients), random.randbytes(8), 2 * half)
    accepted = [name for name in ring.order if random.random() < 0.7]
    slowly = [n for n in accepted if len(set(ring.neighbours(n)) & set(accepted)) < least]
    assert ring.lonely(accepted, least) == tuple(sorted(slowly))


# ---------------------------------------------------------------- what the parameters promise

FEDERATIONS = [(70, 5, 5), (100, 10, 10), (100, 1, 10), (300, 30, 30), (1000, 100, 100)]


@pytest.mark.parametrize(("clients", "colluding", "dropouts"), FEDERATIONS)
def test_a_coordinator_may_choose_among_rings_and_dropouts(
    clients: int, colluding: int, dropouts: int
) -> None:
    """The bounds by brute force over the tails: exact fractions instead of logarithms."""
    found = find_parameters(clients, colluding, dropouts)
    least = find_parameters(clients, colluding, dropouts, malicious=False)
    assert found.degree > least.degree
    rings = sum(math.comb(clients + MAX_WITHHELD, left_out) for left_out in range(5))

    def tail(drawn: int, more_than: int) -> Fraction:
        ways = sum(
            math.comb(colluding, hits) * math.comb(clients - colluding, drawn - hits)
            for hits in range(more_than + 1, min(drawn, colluding) + 1)
        )
        return Fraction(ways, math.comb(clients, drawn))

    # So many of the k + 1 holders would have to answer both ways for both secrets to be rebuilt.
    both_ways = 2 * found.threshold - (found.degree + 1)
    assert both_ways >= 1
    assert rings * clients * tail(found.degree, both_ways - 1) <= Fraction(1, 2**40)
    # So many accepted colluders on one side would let an end of a cut-off arc look well connected.
    one_side = found.min_neighbours - found.degree // 2
    assert rings * clients * tail(found.degree // 2, one_side - 1) <= Fraction(1, 2**40)


@pytest.mark.parametrize(("clients", "colluding", "dropouts"), FEDERATIONS)
def test_colluders_and_a_dealer_cannot_give_out_both_secrets(
    clients: int, colluding: int, dropouts: int
) -> None:
    """k neighbours and the dealer itself hold shares; the honest answer once."""
    found = find_parameters(clients, colluding, dropouts)
    holders = found.degree + 1
    both_ways = 2 * found.threshold - holders - 1  # the most colluders that do not suffice
    for honest_for_seed in range(holders - both_ways + 1):
        honest_for_key = holders - both_ways - honest_for_seed
        assert min(honest_for_seed, honest_for_key) + both_ways < found.threshold


def test_an_arc_around_a_victim_leaves_its_ends_lonely() -> None:
    """Whoever is cut out of the ring with up to k of its neighbours removed, somebody notices."""
    found = find_parameters(100, 10, 10)
    ring = Ring.draw(_names(100), b"seed", found.degree)
    half = found.degree // 2
    for arc in (1, 3, half, found.degree):
        # The victim and arc - 1 others between two gaps of half a degree each.
        removed = {*ring.order[:half], *ring.order[half + arc : 2 * half + arc]}
        accepted = [name for name in ring.order if name not in removed]
        alone = ring.lonely(accepted, found.min_neighbours)
        assert {ring.order[half], ring.order[half + arc - 1]} <= set(alone)
        # The ends of the rest notice, too, whatever happens to the arc.
        assert {ring.order[2 * half + arc], ring.order[-1]} <= set(alone)
