"""The table of the design: what a coordinator and c clients learn in each suite, cell by cell.

Every attacker here has the coordinator's whole view (each message, its last state) and everything
that its member clients have on their disks and in their states; it does what it can with that.
Five clients, ``colluding`` = 1: key threshold 2, mask threshold 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tenseal", reason="encryption needs TenSEAL (extra: federation)")
pytest.importorskip("numba", reason="encryption needs numba (extra: federation)")

from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.lanes import from_lanes, unpack_lanes
from fedfm_crypto.lattice.bulk_format import read_polynomials
from fedfm_crypto.lattice.wide_words import LIMBS, from_wide, wide_size
from fedfm_crypto.lattice.wrapping import decode_slots
from fedfm_protocols.client_states import Committed
from fedfm_protocols.key_messages import WrappedKey
from fedfm_protocols.messages import Upload, UploadHash, body_hash
from fedfm_protocols.simulation import Delivery, Intercept
from tests.adversarial.collusion import Collusion
from tests.adversarial.key_attacks import (
    multiplied,
    opened_with,
    secret_below_the_plaintext,
    shifted,
)
from tests.protocols.scripted import (
    RecordingSimulation,
    body_of,
    exact_simulation,
    forge,
    integer_update,
    key_of,
    keyed_simulation,
    plain_sum,
)

VALUES = 100_000
VICTIM, MALLORY = "client-01", "client-05"
GROUP_OF_TWO = ("client-04", "client-05")


@cache
def played(suite: str) -> RecordingSimulation:
    section = {"values": VALUES}
    if suite == "masked":
        simulation = exact_simulation(5, quantiser=section)
        simulation.run_round(1)
    else:
        simulation = keyed_simulation(5, suite=suite, quantiser=section)
    assert simulation.run_round(2).outcome == "completed"
    return simulation


def victims_update() -> NDArray[np.int64]:
    return integer_update(VICTIM, 2, values=VALUES)


def correlation(guess: NDArray[Any], truth: NDArray[Any]) -> float:
    guess, truth = guess[:VALUES].astype(np.float64), truth.astype(np.float64)
    return abs(float(np.corrcoef(guess, truth)[0, 1]))


def guesses(data: bytes) -> list[NDArray[Any]]:
    """What may be read out of protected bytes without a key."""
    words = np.frombuffer(data[: len(data) // 8 * 8], "<u4")
    residues = read_polynomials(data) if len(data) % 55_296 == 0 else None
    found: list[NDArray[Any]] = [words.astype(np.int32), words[1:].astype(np.int32)]
    if residues is not None:
        flat = np.ascontiguousarray(residues[:, 0, :]).reshape(-1)
        limbs = np.zeros(LIMBS * flat.size, np.uint32)
        limbs[0::3], limbs[1::3] = flat & 0xFFFFFFFF, flat >> 32
        limbs = limbs[: LIMBS * wide_size(VALUES, 32)].copy()
        found.append(from_lanes(from_wide(limbs, 32, VALUES), 32))
    return [guess for guess in found if guess.size >= VALUES]


# ---------------------------------------------------------------- the coordinator alone


def test_in_masked_the_coordinator_alone_learns_the_aggregate_and_no_update() -> None:
    simulation = played("masked")
    words = Collusion(simulation, ()).aggregate().words
    total = from_lanes(unpack_lanes(words, 32), 32)
    assert np.array_equal(total, plain_sum(simulation, simulation.federation.clients, 2))
    upload = body_of(Collusion(simulation, ()).received("Upload", VICTIM), Upload).words
    assert all(correlation(guess, victims_update()) < 0.01 for guess in guesses(upload))


@pytest.mark.parametrize("suite", ["sealed", "layered"])
def test_encrypted_the_coordinator_alone_learns_neither_update_nor_aggregate(suite: str) -> None:
    simulation = played(suite)
    alone = Collusion(simulation, ())
    total = plain_sum(simulation, simulation.federation.clients, 2)
    for data, truth in (
        (alone.aggregate().words, total),
        (body_of(alone.received("Upload", VICTIM), Upload).words, victims_update()),
    ):
        tried = guesses(data)
        assert len(tried) >= 2
        assert all(correlation(guess, truth) < 0.01 for guess in tried)
    # No key is in anything that the coordinator holds or keeps.
    held = [client.state.memory.keys.current for client in simulation.clients.values()]
    secrets = {part for keys in held if keys for part in (keys.group, keys.share[:32])}
    assert len(secrets) == 6
    seen = b"".join(envelope.encode() for envelope in simulation.coordinator_received)
    assert not any(secret in seen for secret in secrets)


# ---------------------------------------------------------------- with as many as tolerated


@pytest.mark.parametrize("suite", ["sealed", "layered"])
def test_one_key_share_opens_no_coefficient(suite: str) -> None:
    collusion = Collusion(played(suite), (MALLORY,))
    key = collusion.key_of(VICTIM, (MALLORY,))
    true = Collusion(played(suite), GROUP_OF_TWO).key_of(VICTIM, GROUP_OF_TWO)
    assert np.abs(true).max() <= 21  # two shares do open it
    assert np.count_nonzero(key == true) <= 2  # of 4096; by chance 4096 / 2^20


@pytest.mark.parametrize("suite", ["masked", "sealed", "layered"])
def test_with_one_client_the_coordinator_learns_the_aggregate(suite: str) -> None:
    simulation = played(suite)
    total = simulation.clients[MALLORY].totals[-1] * 65536
    assert np.array_equal(total, plain_sum(simulation, simulation.federation.clients, 2))


@pytest.mark.parametrize("suite", ["sealed", "layered"])
def test_below_key_threshold_two_of_seven_open_no_coefficient(suite: str) -> None:
    """c_max = 2: two shares interpolated as if they were enough."""
    simulation = keyed_simulation(
        7, suite=suite, quantiser={"values": 12}, limits={"colluding": 2, "dropouts": 1}
    )
    assert simulation.run_round(2).outcome == "completed"
    members = ("client-05", "client-06", "client-07")
    collusion = Collusion(simulation, members)
    true = collusion.key_of(VICTIM, members)
    assert np.abs(true).max() <= 21
    for pair in (members[:2], members[1:]):
        assert np.count_nonzero(collusion.key_of(VICTIM, pair) == true) <= 2


# ---------------------------------------------------------------- with more than tolerated


def test_in_sealed_two_holders_open_every_single_update() -> None:
    collusion = Collusion(played("sealed"), GROUP_OF_TWO)
    for name in ("client-01", "client-02", "client-03"):
        update = collusion.upload_under(name, collusion.key_of(name, GROUP_OF_TWO), [])
        assert np.array_equal(update, integer_update(name, 2, values=VALUES))


def test_in_layered_two_holders_open_a_masked_update_and_no_more() -> None:
    """The self-mask comes off (its seed was opened for the sum), and the masks that the victim
    shares with the two; those that it shares with the others do not."""
    collusion = Collusion(played("layered"), GROUP_OF_TWO)
    key = collusion.key_of(VICTIM, GROUP_OF_TWO)
    for masks in ([], collusion.masks_of(VICTIM, GROUP_OF_TWO)):
        assert correlation(collusion.upload_under(VICTIM, key, masks), victims_update()) < 0.01
    everything = collusion.masks_of(VICTIM, played("layered").federation.clients)
    assert np.array_equal(collusion.upload_under(VICTIM, key, everything), victims_update())


# ---------------------------------------------------------------- a crafted wrap, committed to


def committing(simulation: RecordingSimulation, wrap: Callable[[bytes], bytes]) -> Intercept:
    """MALLORY commits to ``wrap`` of its own wrapped key, and sends that."""

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        client = simulation.clients.get(sender)
        if sender != MALLORY or envelope.header.type != "UploadHash" or client is None:
            return ((recipient, envelope),)
        assert isinstance(client.state, Committed)
        own = client.state.upload
        body = WrappedKey(wrap(decode(WrappedKey, own.wrap).wrap))
        changed = replace(own, wrap=encode(body), wrap_hash=body_hash(body))
        client.state = replace(client.state, upload=changed)
        committed = UploadHash(own.upload_hash, changed.wrap_hash)
        return ((recipient, forge(key_of(simulation, MALLORY), envelope, committed)),)

    return network


def with_crafted_wrap(suite: str) -> tuple[RecordingSimulation, list[int]]:
    """MALLORY wraps its own key properly, adds 2^94 to the second polynomial, and reads the
    collective secret key below the plaintext of the sum that everybody opens."""
    simulation, amount = keyed_simulation(5, suite=suite, quantiser={"values": VALUES}), 1 << 94
    simulation.intercept = committing(simulation, lambda wrap: shifted(wrap, amount))
    # Noticed by everyone, but afterwards: what was opened has been read.
    assert simulation.run_round(2).outcome == "void"
    for client in simulation.clients.values():
        assert "more noise than well-formed wrapped keys leave" in str(client.violations[0])
    opened = Collusion(simulation, (MALLORY,)).opened_polynomial(MALLORY)
    return simulation, secret_below_the_plaintext(opened, amount)


def test_a_wrap_crafted_blindly_opens_single_updates_in_sealed() -> None:
    """What the order of messages does not prevent, and why `sealed` is for clients that follow
    the protocol: one client, one round, and every update of the epoch is open.  The round is
    void and the next one has a new key; what was uploaded under the old one is read."""
    simulation, secret = with_crafted_wrap("sealed")
    collusion = Collusion(simulation, (MALLORY,))
    for name in ("client-01", "client-02", "client-03", "client-04"):
        wrap = body_of(collusion.received("WrappedKey", name), WrappedKey).wrap
        update = collusion.upload_under(name, opened_with(secret, wrap), [])
        assert np.array_equal(update, integer_update(name, 2, values=VALUES))


def test_a_wrap_crafted_blindly_opens_no_update_in_layered() -> None:
    """The same key in hand: what it opens is masked, and the sum of all is what a client knows."""
    simulation, secret = with_crafted_wrap("layered")
    collusion = Collusion(simulation, (MALLORY,))
    wrap = body_of(collusion.received("WrappedKey", VICTIM), WrappedKey).wrap
    key = opened_with(secret, wrap)
    for masks in ([], collusion.masks_of(VICTIM, (MALLORY,))):
        assert correlation(collusion.upload_under(VICTIM, key, masks), victims_update()) < 0.01
    everything = collusion.masks_of(VICTIM, simulation.federation.clients)
    assert np.array_equal(collusion.upload_under(VICTIM, key, everything), victims_update())


@pytest.mark.parametrize("suite", ["sealed", "layered"])
def test_a_wrap_of_an_earlier_round_opens_that_rounds_upload(suite: str) -> None:
    """Scaled, and committed to like any other.  The round is void, and the victim's key of the
    round before is in what was opened: in `sealed` its update, in `layered` a masked one."""
    simulation = keyed_simulation(5, suite=suite, quantiser={"values": VALUES})
    assert simulation.run_round(2).outcome == "completed"
    before = Collusion(simulation, (MALLORY,))
    kept = before.received("Upload", VICTIM)
    wrap = body_of(before.received("WrappedKey", VICTIM), WrappedKey).wrap
    masks = before.masks_of(VICTIM, (MALLORY,)) if suite == "layered" else []
    factor = 2 * 21 * 4 + 1
    simulation.intercept = committing(simulation, lambda _: multiplied(wrap, factor))
    assert simulation.run_round(3).outcome == "void"
    for client in simulation.clients.values():
        assert "the sum does not open" in str(client.violations[0])
    after = Collusion(simulation, (MALLORY,))
    slots = decode_slots(after.opened_polynomial(MALLORY))[:4096]
    key = np.rint(slots / factor).astype(np.int64)
    simulation.coordinator_received.append(kept)
    update = after.upload_under(VICTIM, key, masks)
    if suite == "sealed":
        assert np.array_equal(update, victims_update())
    else:
        assert correlation(update, victims_update()) < 0.01
