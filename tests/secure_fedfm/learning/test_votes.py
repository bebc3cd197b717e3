"""Votes: who moves a value, by how much, and that all clients arrive at the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from secure_fedfm.errors import ConfigurationError, ModelError
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.learning.server_optimiser import AdapterUpdater, OptimiserState, read_optimiser
from secure_fedfm.learning.votes import VoteSpec, voted_step

SPEC = VoteSpec(adapter_step=0.5, head_step=2.0, schedule_rounds=2, final_factor=0.0)
HEAD, LORA = 320, 640
LAYOUT = TensorLayout(("head.weight", "x.lora_B.weight"), ((HEAD,), (LORA,)))
MIDDLE_OF_FIRST = 0.75  # of two rounds with steps that fall to nothing


def signs(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice([-1.0, 1.0], (count, HEAD + LORA))


def sum_of(updates: np.ndarray) -> np.ndarray:
    """The opened sum of these updates' ballots, on a grid as quantisers have."""
    total = np.sum([SPEC.ballot(one, LAYOUT) for one in updates], axis=0, dtype=float)
    return np.asarray(np.rint(total * (1 << 16)) / (1 << 16))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7])
def test_a_value_moves_where_all_agree_however_far_each_wants_to_go(count: int) -> None:
    """Against counting by hand; sizes differ by client and tensor, as honest ones' do."""
    found = signs(count, count)
    sizes = np.random.default_rng(1).uniform(0.8, 1.2, (count, 1))
    moved = np.random.default_rng(2).exponential(1.0, found.shape) * sizes * found
    step = voted_step(SPEC, LAYOUT, 0, sum_of(moved), count)
    agreed = np.abs(found.sum(axis=0)) == count
    assert 0 < agreed.mean() < 0.6
    eta = np.where(np.arange(HEAD + LORA) < HEAD, 2.0, 0.5) * MIDDLE_OF_FIRST
    np.testing.assert_array_equal(step, (agreed * found[0] * eta).astype(np.float32))


def test_one_client_alone_moves_nothing_with_a_proper_ballot() -> None:
    honest, poison = signs(4, 3), signs(1, 4)
    step = voted_step(SPEC, LAYOUT, 0, sum_of(np.vstack([honest, poison])), 5)
    agreed = np.abs(honest.sum(axis=0)) == 4
    assert step.any()
    assert not step[~agreed].any()
    assert (np.sign(step[step != 0]) == honest[0][step != 0]).all()
    # Ten times as long it decides alone: lengths are the validator's business.
    loud = voted_step(SPEC, LAYOUT, 0, sum_of(np.vstack([honest, 10 * poison])), 5)
    assert loud[~agreed].any()


def test_who_knew_all_ballots_could_take_the_measure_of_agreement_away() -> None:
    """A limit, stated in the ADR: voting against all values on which all others agree, it makes
    four of five the most agreement there is. Ballots are hidden when it must commit to its own."""
    honest, poison = signs(4, 3), signs(1, 4)[0]
    total = honest.sum(axis=0)
    against = np.where(np.abs(total) == 4, -np.sign(total), poison)
    step = voted_step(SPEC, LAYOUT, 0, sum_of(np.vstack([honest, against])), 5)
    assert step[np.abs(total) == 2].any()


def test_several_votes_for_few_values_move_them_alone() -> None:
    """The other limit: as long as an honest ballot, which is all that a validator sees."""
    honest, poison = signs(4, 3), np.zeros(HEAD + LORA)
    poison[HEAD : HEAD + 20] = np.sqrt((HEAD + LORA) / 20)
    total = np.sum([SPEC.ballot(one, LAYOUT) for one in honest], axis=0, dtype=float) + poison
    assert np.linalg.norm(poison) == pytest.approx(np.linalg.norm(honest[0]))
    assert (voted_step(SPEC, LAYOUT, 0, total, 5)[HEAD : HEAD + 20] > 0).all()


def test_a_tenth_of_many_is_outvoted() -> None:
    everybody = np.ones((20, HEAD + LORA))
    everybody[0, ::2] = -1  # one against half of it: 18 of 20
    everybody[:3, 1::2] = -1  # three against the other half: 14 of 20
    # Somebody to find the size of all ballots on: a few values where all agree.
    everybody[:, :5] = 1
    everybody[:, HEAD : HEAD + 5] = 1
    step = voted_step(SPEC, LAYOUT, 0, sum_of(everybody), 20)
    assert (step[6::2] > 0).all()
    assert not step[HEAD + 7 :: 2].any()


def test_steps_fall_over_applied_rounds_and_stay_there() -> None:
    factors = [VoteSpec(schedule_rounds=4, final_factor=0.1).factor(n) for n in range(6)]
    assert factors == pytest.approx([0.8875, 0.6625, 0.4375, 0.2125, 0.1, 0.1])


def test_nobody_moved_and_nothing_moves() -> None:
    assert not voted_step(SPEC, LAYOUT, 0, np.zeros(HEAD + LORA), 3).any()
    assert not SPEC.ballot(np.zeros(HEAD + LORA), LAYOUT).any()


def test_a_ballot_is_as_long_as_the_work_in_each_tensor() -> None:
    delta = np.random.default_rng(4).normal(size=HEAD + LORA)
    delta[:HEAD] *= 7
    found = SPEC.ballot(delta, LAYOUT)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.sign(found), np.sign(delta))
    for part in (slice(HEAD), slice(HEAD, None)):
        np.testing.assert_allclose(np.abs(found[part]), np.abs(delta[part]).mean(), rtol=1e-6)
    np.testing.assert_allclose(SPEC.ballot(3 * delta, LAYOUT), 3 * found, rtol=1e-6)


def test_the_updater_counts_rounds_and_wants_sums() -> None:
    adapter = Adapter({"head.weight": np.zeros(HEAD, "f"), "x.lora_B.weight": np.zeros(LORA, "f")})
    updater = AdapterUpdater(LAYOUT, SPEC)
    state = updater.initial_state()
    total = sum_of(np.ones((3, HEAD + LORA)))
    for _ in range(2):
        adapter, state = updater.advance(adapter, state, total, 3)
    assert state.count == 2
    assert OptimiserState.from_bytes(state.to_bytes()).hash() == state.hash()
    assert set(adapter["head.weight"].tolist()) == {2.0}  # 2 * 0.75 + 2 * 0.25
    with pytest.raises(ModelError, match="votes have no mean"):
        updater.apply(adapter, state, total)
    with pytest.raises(ModelError, match="shape"):
        updater.advance(adapter, state, total[:5], 3)
    with pytest.raises(ModelError, match="not finite"):
        updater.advance(adapter, state, total * np.nan, 3)


def test_a_charter_s_section_is_read_strictly() -> None:
    assert read_optimiser(SPEC.to_json()) == SPEC
    for change in ({"share": 0}, {"share": 1.1}, {"final_factor": 2.0}, {"head_step": -1.0}):
        with pytest.raises(ConfigurationError):
            read_optimiser(SPEC.to_json() | change)
    with pytest.raises(ConfigurationError):
        read_optimiser(SPEC.to_json() | {"tau": 1.0})
