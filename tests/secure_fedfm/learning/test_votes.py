"""Votes: who moves a value, by how much, and that all clients arrive at the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fedfm.errors import ConfigurationError, ModelError
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.learning.server_optimiser import AdapterUpdater, OptimiserState, read_optimiser
from secure_fedfm.learning.votes import VoteSpec, voted_step

SPEC = VoteSpec(adapter_step=0.5, head_step=2.0, schedule_rounds=2, final_factor=0.0)
LAYOUT = TensorLayout(("head.weight", "x.lora_B.weight"), ((2,), (4,)))
MIDDLE_OF_FIRST = 0.75  # of two rounds with steps that fall to nothing


def sum_of(*signs: list[float]) -> np.ndarray:
    return np.asarray(np.sum([SPEC.ballot(np.array(one)) for one in signs], axis=0, dtype=float))


def test_a_value_moves_where_enough_agree_however_far_each_wants_to_go() -> None:
    mine = [5.0, -1e-9, 1.0, -1.0, 1.0, 0.0]
    others = [[1.0, -2.0, 1.0, -1.0, 1.0, 0.0]] * 3
    against = [3.0, -1.0, -1e9, 1.0, 0.0, 1.0]
    step = voted_step(SPEC, LAYOUT, 0, sum_of(mine, *others, against), 5)
    # Five agree; five; one is against, twice; one abstains; one alone.
    expected = np.array([2.0, -2.0, 0, 0, 0.5, 0]) * MIDDLE_OF_FIRST
    np.testing.assert_array_equal(step, expected.astype(np.float32))


def test_steps_fall_over_applied_rounds_and_stay_there() -> None:
    factors = [VoteSpec(schedule_rounds=4, final_factor=0.1).factor(n) for n in range(6)]
    assert factors == pytest.approx([0.8875, 0.6625, 0.4375, 0.2125, 0.1, 0.1])


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 30),
    st.floats(0.05, 1.0),
    st.integers(0, 2**32 - 1),
)
def test_the_threshold_is_the_share_of_the_accepted(count: int, share: float, seed: int) -> None:
    """Against counting by hand, on sums that were rounded to a grid."""
    random = np.random.default_rng(seed)
    ballots = np.sign(random.integers(-1, 2, (count, 6)))
    spec = VoteSpec(share=share, head_step=1.0, adapter_step=1.0, schedule_rounds=1000)
    total = np.rint(ballots.sum(axis=0) * spec.vote * 999) / 999
    moved = voted_step(spec, LAYOUT, 0, total, count) != 0
    for value, column in zip(moved, ballots.T, strict=True):
        outweigh = abs(int((column > 0).sum()) - int((column < 0).sum()))
        assert value == (outweigh > 0 and outweigh >= share * count - 1e-6)


def test_one_client_alone_moves_nothing_with_an_ordinary_ballot() -> None:
    random = np.random.default_rng(3)
    honest = random.choice([-1.0, 1.0], (4, 6))
    honest[0] = -honest[1]
    for _ in range(20):
        poison = random.choice([-1.0, 1.0], 6)
        assert not voted_step(SPEC, LAYOUT, 0, sum_of(*honest, poison), 5).any()


def test_the_updater_counts_rounds_and_wants_sums() -> None:
    adapter = Adapter({"head.weight": np.zeros(2, np.float32), "x.lora_B.weight": np.zeros(4, "f")})
    updater = AdapterUpdater(LAYOUT, SPEC)
    state = updater.initial_state()
    total = sum_of(*[[1.0] * 6] * 3)
    for _ in range(2):
        adapter, state = updater.advance(adapter, state, total, 3)
    assert state.count == 2
    assert OptimiserState.from_bytes(state.to_bytes()).hash() == state.hash()
    np.testing.assert_array_equal(adapter["head.weight"], np.float32([2.0, 2.0]))
    with pytest.raises(ModelError, match="votes have no mean"):
        updater.apply(adapter, state, total)
    with pytest.raises(ModelError, match="shape"):
        updater.advance(adapter, state, total[:5], 3)
    with pytest.raises(ModelError, match="not finite"):
        updater.advance(adapter, state, total * np.nan, 3)


def test_a_charter_s_section_is_read_strictly() -> None:
    assert read_optimiser(SPEC.to_json()) == SPEC
    for change in ({"share": 0}, {"share": 1.1}, {"vote": 2.0}, {"head_step": -1.0}, {"tau": 1.0}):
        with pytest.raises(ConfigurationError):
            read_optimiser(SPEC.to_json() | change)


def test_a_ballot_is_as_long_as_every_other() -> None:
    random = np.random.default_rng(4)
    for scale in (1e-6, 1.0, 1e6):
        found = SPEC.ballot(scale * random.normal(size=10_000))
        assert found.dtype == np.float32
        assert np.linalg.norm(found) == pytest.approx(SPEC.vote * 100)
