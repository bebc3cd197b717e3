"""Thresholds against brute force (PROTOCOL.md, section "Before the first round")."""

from __future__ import annotations

from math import floor

import pytest

from fedfm_protocols.errors import CharterError
from fedfm_protocols.graph import find_parameters
from fedfm_protocols.thresholds import MAX_CLIENTS, MAX_COMPLETE_GRAPH, Thresholds


def _valid() -> list[Thresholds]:
    found = []
    for n in range(1, MAX_COMPLETE_GRAPH + 1):
        for c in range(-1, n + 2):
            for d in range(-1, n + 1):
                try:
                    found.append(Thresholds(n, c, d))
                except CharterError:
                    continue
    return found


VALID = _valid()  # on complete graphs
SPARSE = [
    Thresholds(n, n // share, n // share)
    for n in (65, 70, 100, 101, 300, 1000, MAX_CLIENTS)
    for share in (10, 20)
]


def test_the_published_example() -> None:
    five = Thresholds(5, 1, 1)
    assert (five.share_threshold, five.key_threshold) == (4, 2)
    assert (five.vote_quorum, five.min_honest, five.min_accepted) == (4, 3, 4)
    # c_max + 2 alone would be 3; the noise promise of n - d makes it 4 here.
    assert Thresholds(3, 1, 0).min_accepted == 3
    assert Thresholds(20, 1, 6).share_threshold == 14


def test_formulas_as_written_in_the_design() -> None:
    for t in VALID:
        n, c = t.clients, t.colluding
        assert t.share_threshold == max(floor(2 * n / 3) + 1, floor((n + c) / 2) + 1)
        assert t.vote_quorum == t.share_threshold
        assert t.min_honest == n - c - t.dropouts


def test_on_sparse_graphs_votes_stay_global_and_shares_are_the_neighbourhoods() -> None:
    for t in SPARSE:
        n, c = t.clients, t.colluding
        assert t.vote_quorum == max(floor(2 * n / 3) + 1, floor((n + c) / 2) + 1)
        graph = t.graph(n)
        assert t.share_threshold == graph.threshold
        assert graph.threshold <= graph.degree + 1 < n
        assert graph.threshold <= graph.min_neighbours <= graph.degree


def test_who_is_missing_on_a_sparse_graph_counts_as_a_dropout() -> None:
    t = Thresholds(100, 10, 10)
    assert t.graph(100) == find_parameters(100, 10, 10)
    assert t.graph(96) == find_parameters(96, 10, 6)
    assert t.graph(90) == find_parameters(90, 10, 0)
    assert t.graph(85) == find_parameters(85, 10, 0)
    with pytest.raises(CharterError):
        t.graph(20)  # colluders would be half of them


def test_two_quorums_share_more_than_the_colluders() -> None:
    for t in (*VALID, *SPARSE):
        assert 2 * t.vote_quorum - t.clients > t.colluding


def test_seed_and_mask_key_of_one_client_cannot_both_be_rebuilt() -> None:
    """Colluders give out both kinds of share, honest clients one: a of them the one, the rest the
    other."""
    for t in VALID:
        honest = t.clients - t.colluding
        for seed_side in range(honest + 1):
            both = (seed_side + t.colluding, honest - seed_side + t.colluding)
            assert min(both) < t.share_threshold


def test_a_sum_always_holds_two_honest_updates_and_tolerated_dropouts_do_not_stop_it() -> None:
    for t in (*VALID, *SPARSE):
        assert t.min_accepted - t.colluding >= 2
        assert t.clients - t.dropouts >= t.vote_quorum >= t.share_threshold
        assert t.min_accepted <= t.clients
        assert t.clients - t.dropouts >= t.min_accepted


def test_colluders_alone_never_reach_a_threshold() -> None:
    for t in (*VALID, *SPARSE):
        assert t.colluding < t.vote_quorum
        assert t.colluding < t.key_threshold
    for t in VALID:  # on sparse graphs with overwhelming probability: see test_graph
        assert t.colluding < t.share_threshold


def test_every_size_up_to_the_limit_has_a_valid_choice() -> None:
    assert {t.clients for t in VALID} == set(range(3, MAX_COMPLETE_GRAPH + 1))
    assert {t.dropouts for t in VALID if t.clients == 3} == {0}


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((2, 1, 0), "2 clients"),
        ((4097, 1, 0), "4097 clients"),
        ((65, 30, 2), "30 colluding and 2 dropping out need more neighbours"),
        ((5, 0, 0), "colluding is 0"),
        ((5, -1, 0), "colluding is -1"),
        ((5, 1, -1), "dropouts is -1"),
        ((5, 1, 2), "at most 1 may vanish"),
        ((3, 1, 1), "at most 0 may vanish"),
        ((5, 4, 0), "cannot tolerate 4 colluding"),
        ((5, 5, 0), "cannot tolerate 5 colluding"),
        ((3, 2, 0), "cannot tolerate 2 colluding"),
    ],
)
def test_numbers_that_leave_no_round(numbers: tuple[int, int, int], text: str) -> None:
    with pytest.raises(CharterError, match=text):
        Thresholds(*numbers)
