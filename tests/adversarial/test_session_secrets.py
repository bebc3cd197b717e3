"""What the adversary can compute from everything that a session gives out, and what not.

The scenarios say which shares leave a client; these tests take them and try.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.lanes import from_lanes, unpack_lanes
from fedfm_crypto.mask import add_masks
from fedfm_crypto.secret import Secret
from fedfm_protocols import masking
from fedfm_protocols.catchup import verify_catch_up
from fedfm_protocols.errors import BelowThreshold, MalformedMessage, ProtocolError
from fedfm_protocols.key_ring import KeyRing
from fedfm_protocols.messages import CatchUp, KeyOffer, Unmask, Upload
from fedfm_protocols.shares import rebuild
from fedfm_protocols.simulation import Delivery, next_adapter
from tests.protocols.scripted import (
    START,
    RecordingSimulation,
    body_of,
    catch_up_round,
    exact_simulation,
    integers_of,
)

STEPS = 3
LAST = STEPS - 1
VICTIM = "client-03"


def lost_in(step: int, *names: str) -> RecordingSimulation:
    """A session in which uploads of these clients are lost in one step."""

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        header = envelope.header
        gone = sender in names and (header.type, header.step) == ("Upload", step)
        seen.append(envelope)
        return () if gone else ((recipient, envelope),)

    seen: list[Envelope] = []
    simulation = exact_simulation(5, session=STEPS, intercept=network)
    simulation.run_round(1)
    simulation.coordinator_received = seen  # an adversary on the wire sees what it drops as well
    return simulation


def said(simulation: RecordingSimulation, kind: str, sender: str, step: int = 0) -> Envelope:
    return next(
        e
        for e in simulation.coordinator_received
        if (e.header.type, e.header.sender, e.header.step) == (kind, sender, step)
    )


def mask_key_given_out(simulation: RecordingSimulation, step: int) -> AgreementKey:
    """The victim's mask key, from the shares of it that clients gave out in a step."""
    index, shares = simulation.federation.share_index, []
    for name in simulation.federation.clients:
        reveal = body_of(said(simulation, "Unmask", name, step), Unmask)
        shares += [(index[name], e.value) for e in reveal.key_shares if e.dealer == VICTIM]
    threshold = simulation.federation.thresholds.vote_quorum
    return AgreementKey.from_secret(rebuild(shares, threshold))


def seed_given_out(simulation: RecordingSimulation, step: int) -> Secret:
    """The victim's self-mask seed of a step that its update is in the sum of."""
    index, shares = simulation.federation.share_index, []
    for name in simulation.federation.clients:
        reveal = body_of(said(simulation, "Unmask", name, step), Unmask)
        shares += [(index[name], e.value) for e in reveal.seed_shares if e.dealer == VICTIM]
    return rebuild(shares, simulation.federation.thresholds.vote_quorum)


def unmasked(
    simulation: RecordingSimulation, step: int, key: AgreementKey, seed: Secret
) -> NDArray[np.int64]:
    """The victim's upload of a step without the masks that these secrets make."""
    envelope = said(simulation, "Upload", VICTIM, step)
    bits = simulation.federation.lanes.lane_bits
    words = unpack_lanes(body_of(envelope, Upload).words, bits)
    peers = {
        name: body_of(said(simulation, "KeyOffer", name), KeyOffer).steps[step].mask_key
        for name in simulation.federation.clients
    }
    masks = masking.mask_keys(
        context=envelope.header.context,
        client=VICTIM,
        step=step,
        secrets=masking.StepSecrets(key, seed),
        peers=peers,
    )
    add_masks(words, [(secret, -1 if sign == 1 else 1) for secret, sign in masks], bits)
    return from_lanes(words, bits)


def test_the_key_of_the_last_step_takes_no_mask_off_an_earlier_one() -> None:
    simulation = lost_in(LAST, VICTIM)
    key = mask_key_given_out(simulation, LAST)
    offered = body_of(said(simulation, "KeyOffer", VICTIM), KeyOffer)
    assert key.public == offered.steps[LAST].mask_key
    assert key.public not in [step.mask_key for step in offered.steps[:LAST]]
    section = simulation.federation.charter.quantiser
    for step in range(LAST):
        true = integers_of(section, VICTIM, 1, step)
        found = unmasked(simulation, step, key, seed_given_out(simulation, step))
        assert np.count_nonzero(found == true) < 3


def test_with_the_step_s_own_key_it_would() -> None:
    """The same computation with the key that nobody gave out: the test above can fail."""
    simulation = lost_in(LAST, VICTIM)
    shared = next(
        state
        for name, state, _ in simulation.client_tape
        if name == VICTIM and type(state).__name__ == "Shared"
    )
    own = shared.secrets.steps[0]  # type: ignore[union-attr]
    found = unmasked(simulation, 0, own.mask_key, seed_given_out(simulation, 0))
    true = integers_of(simulation.federation.charter.quantiser, VICTIM, 1, 0)
    assert np.array_equal(found, true)


def test_two_steps_with_different_members_are_no_difference() -> None:
    """The sum of step 0 less that of step 1, which the victim is not in, is not its update."""
    simulation = lost_in(1, VICTIM)
    totals = simulation.clients["client-01"].totals
    scale = simulation.federation.charter.quantiser.scale
    difference = np.rint((totals[0] - totals[1]) * scale).astype(np.int64)
    for step in range(STEPS):
        true = integers_of(simulation.federation.charter.quantiser, VICTIM, 1, step)
        assert np.count_nonzero(difference == true) < 3


def test_a_client_keeps_nothing_of_a_step_that_is_over_or_of_who_is_left_out() -> None:
    simulation = lost_in(0, VICTIM)
    for name, state, _ in simulation.client_tape:
        session = getattr(state, "session", None)
        later = getattr(state, "later", None)
        if name == VICTIM or session is None or later is None:
            continue
        assert len(later) == STEPS - 1 - session.step
        if session.step:
            assert VICTIM not in state.held  # type: ignore[union-attr]
            assert all(VICTIM not in keys.held for keys in later)
            assert all(VICTIM not in keys.mask_keys for keys in later)
    left_out = [s for n, s, _ in simulation.client_tape if n == VICTIM][-1]
    assert type(left_out).__name__ == "LeftOut"
    assert not hasattr(left_out, "held")


# ---------------------------------------------------------------- catching up


@pytest.mark.parametrize(
    ("sums", "error", "text"),
    [
        ((), MalformedMessage, "0 sums of missed round 1, which had 3 steps"),
        ((0, 1, 2, 2), MalformedMessage, "4 sums of missed round 1, which had 3 steps"),
        ((0, 1), ProtocolError, "is of step 2, expected 1"),
        ((0, 1, 1), BelowThreshold, "no quorum of 4 clients acknowledges one result of round 1"),
    ],
)
def test_missed_sums_that_are_not_those_of_the_good_steps(
    sums: tuple[int, ...], error: type[ProtocolError], text: str
) -> None:
    simulation = lost_in(LAST)
    record = catch_up_round(simulation.records[0])
    false = replace(record, aggregates=tuple(record.aggregates[step] for step in sums))
    with pytest.raises(error, match=text):
        list(verified(simulation, CatchUp((false,))))


def test_an_exchanged_earlier_sum_leads_to_another_adapter_than_the_quorum_s() -> None:
    """Only the last sum is named by the acknowledgements; the adapter that they name covers all."""
    simulation = lost_in(LAST)
    record = catch_up_round(simulation.records[0])
    first, second, last = record.aggregates
    for aggregates in ((second, first, last), (first, first, last)):
        (missed,) = verified(simulation, CatchUp((replace(record, aggregates=aggregates),)))
        adapter = missed.adapter_before
        for step in missed.sums:
            adapter = next_adapter(adapter, step.total)
        assert adapter != missed.adapter_after
    (missed,) = verified(simulation, CatchUp((record,)))
    assert missed.adapter_after == simulation.adapter_hash


def verified(simulation: RecordingSimulation, catch_up: CatchUp) -> list:  # type: ignore[type-arg]
    return list(
        verify_catch_up(
            simulation.federation,
            catch_up,
            last_applied=0,
            adapter_hash=START,
            keys=KeyRing(),
            encryption=None,
        )
    )
