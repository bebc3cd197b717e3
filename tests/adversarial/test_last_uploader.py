"""Whoever may choose its wrapped key after it has seen the others' opens a victim's update.

First the attacks of PROTOCOL.md ("Why the order is what it is") on the primitives alone, with no
commitments before uploads: they work.  Then the same against the state machines: refused, and no
part of a key sum is given out.  The attacker has the coordinator's view and one client's: every
wrap, every upload, the group key, and so the opened key sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tenseal", reason="wrapped keys need TenSEAL (extra: federation)")
pytest.importorskip("numba", reason="wrapped keys need numba (extra: federation)")

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.lanes import from_lanes, to_lanes
from fedfm_crypto.lattice.bulk_keys import BulkKey, PublicPolynomials
from fedfm_crypto.lattice.collective import data_ring
from fedfm_crypto.lattice.key_additive import encrypt
from fedfm_crypto.lattice.wide_words import to_wide
from fedfm_crypto.lattice.wrapping import decode_slots, open_key_sum
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.errors import EquivocationError
from fedfm_protocols.key_messages import KeyRequest, WrappedKey
from fedfm_protocols.messages import UploadHash, UploadSet
from fedfm_protocols.simulation import Delivery
from tests.adversarial.key_attacks import (
    added,
    multiplied,
    opened_update,
    opened_with,
    secret_below_the_plaintext,
    shifted,
)
from tests.crypto.lattice.federation import make_federation
from tests.crypto.lattice.oracles import whole_secret
from tests.protocols.scripted import body_of, forge, key_of, keyed_simulation

SEED = b"\x07" * 32
VALUES = 30
VICTIM, MALLORY = "client-01", "client-05"
KEYS_FEDERATION = make_federation()


@dataclass
class WithoutCommitments:
    """Four honest uploads and their wraps on the table; the fifth client has not spoken yet."""

    keys: list[BulkKey]
    wraps: list[bytes]
    uploads: list[bytes]
    updates: list[NDArray[np.int64]]

    @classmethod
    def of(cls, honest: int = 4) -> WithoutCommitments:
        random, generator = SeededRandom(b"uploads"), np.random.default_rng(3)
        made = cls([], [], [], [])
        for _ in range(honest):
            key, update = BulkKey.generate(random), generator.integers(-999, 999, VALUES)
            made.keys.append(key)
            made.updates.append(update)
            made.wraps.append(KEYS_FEDERATION.wrapping.wrap(key))
            limbs = to_wide(to_lanes(update, 32), 32)
            parts = encrypt(limbs, key, PublicPolynomials(SEED), random)
            made.uploads.append(b"".join(parts))
        return made

    def opened_by_holders(self, last: bytes) -> NDArray[np.uint64]:
        """What the holders of the key open: the sum of all wraps, the last one included."""
        total = KEYS_FEDERATION.wrapping.new_sum()
        for wrap in (*self.wraps, last):
            total.add(wrap)
        return KEYS_FEDERATION.open(total.ciphertext(), (1, 2, 3))

    def exposes_victim(self, key: NDArray[np.int64]) -> bool:
        """Whether a key opens the victim's update."""
        words = opened_update(self.uploads[0], key, SEED, VALUES)
        return np.array_equal(from_lanes(words, 32), self.updates[0])


# ---------------------------------------------------------------- without the order


def test_a_scaled_wrap_shows_the_victims_key_above_all_others() -> None:
    table = WithoutCommitments.of()
    factor = 2 * 21 * 5 + 1  # above what four honest keys can add up to
    opened = table.opened_by_holders(multiplied(table.wraps[0], factor))
    slots = decode_slots(opened)[:4096]
    key = np.rint(slots / (factor + 1)).astype(np.int64)
    assert np.array_equal(key, table.keys[0].coefficients)
    assert table.exposes_victim(key)


def test_a_negated_wrap_leaves_the_victims_key_alone_in_the_sum() -> None:
    """Nothing about the opened sum looks odd: it is one proper key."""
    table = WithoutCommitments.of()
    opened = table.opened_by_holders(multiplied(added(table.wraps[1:]), -1))
    key = open_key_sum(opened, 5).coefficients
    assert np.array_equal(key, table.keys[0].coefficients)
    assert table.exposes_victim(key)


def test_a_crafted_wrap_shapes_the_sum_and_gives_the_whole_collective_key() -> None:
    """The last one makes the sum's second polynomial the constant 2^94: its opening is 2^94 s,
    and flooding of 2^90 a holder does not reach that far."""
    table = WithoutCommitments.of()
    amount = 1 << 94
    rest = multiplied(added(table.wraps), -1)
    opened = table.opened_by_holders(shifted(rest, amount))
    secret = secret_below_the_plaintext(opened, amount)
    expected = data_ring().inverse(whole_secret(KEYS_FEDERATION.secrets)[:2])[0]
    assert secret == _centred(expected)
    for wrap, key in zip(table.wraps, table.keys, strict=True):
        assert np.array_equal(opened_with(secret, wrap), key.coefficients)
    assert table.exposes_victim(opened_with(secret, table.wraps[0]))


def _centred(residues: NDArray[np.uint64]) -> list[int]:
    prime = data_ring().primes[0]
    return [v - prime if v > prime // 2 else v for v in residues.tolist()]


def test_a_copied_ciphertext_counts_the_victim_twice() -> None:
    """Copied with its wrap, it opens like any other, and weighs as its sender wants."""
    table = WithoutCommitments.of(2)
    opened = table.opened_by_holders(table.wraps[0])
    twice = open_key_sum(opened, 3).coefficients
    assert np.array_equal(twice, 2 * table.keys[0].coefficients + table.keys[1].coefficients)


# ---------------------------------------------------------------- with the order


def _forged_wraps(wraps: dict[str, bytes]) -> dict[str, bytes]:
    others = [wraps[name] for name in sorted(wraps) if name not in (MALLORY, VICTIM)]
    everybody = [wraps[name] for name in sorted(wraps) if name != MALLORY]
    return {
        "scaled": multiplied(wraps[VICTIM], 2 * 21 * 5 + 1),
        "negated": multiplied(added(others), -1),
        "crafted": shifted(multiplied(added(everybody), -1), 1 << 94),
        "copied": wraps[VICTIM],
    }


@pytest.mark.parametrize("suite", ["sealed", "layered"])
@pytest.mark.parametrize("forgery", ["scaled", "negated", "crafted", "copied"])
def test_a_wrap_made_after_the_others_were_seen_opens_nothing(forgery: str, suite: str) -> None:
    """The coordinator has MALLORY's wrap made and signed anew once it has the others'; the holders
    ask for what was committed to, and give out no part of the sum."""
    simulation = keyed_simulation(5, suite=suite, quantiser={"values": VALUES})
    wraps: dict[str, bytes] = {}

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        kind = envelope.header.type
        if kind == "WrappedKey":
            wraps[sender] = body_of(envelope, WrappedKey).wrap
        if kind == "KeyRequest":
            request = body_of(envelope, KeyRequest)
            honest = [Envelope.decode(data) for data in request.wraps]
            place = [e.header.sender for e in honest].index(MALLORY)
            false = forge(
                key_of(simulation, MALLORY),
                honest[place],
                WrappedKey(_forged_wraps(wraps)[forgery]),
            )
            changed = (*request.wraps[:place], false.encode(), *request.wraps[place + 1 :])
            lie = forge(key_of(simulation, sender), envelope, KeyRequest(request.active, changed))
            return ((recipient, lie),)
        return ((recipient, envelope),)

    simulation.intercept = network
    finished = simulation.run_round(2)
    assert finished.accepted == simulation.federation.clients
    assert finished.outcome == "aborted"
    assert not _openings(simulation)
    asked = [client for client in simulation.clients.values() if client.violations]
    assert len(asked) == 4  # two sets, and nobody in them answers
    for client in asked:
        assert isinstance(client.violations[0], EquivocationError)
        assert "is not the one it committed to" in str(client.violations[0])
    assert not any(client.totals for client in simulation.clients.values())


@pytest.mark.parametrize("forgery", ["scaled", "negated", "crafted", "copied"])
def test_a_wrap_made_after_the_others_were_seen_is_not_in_the_sum(forgery: str) -> None:
    """Before an honest coordinator: MALLORY alone waits, and is out."""
    simulation = keyed_simulation(5, quantiser={"values": VALUES})
    wraps: dict[str, bytes] = {}

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if envelope.header.type == "WrappedKey":
            wraps[sender] = body_of(envelope, WrappedKey).wrap
            if sender == MALLORY:
                body = WrappedKey(_forged_wraps(wraps)[forgery])
                return ((recipient, forge(key_of(simulation, MALLORY), envelope, body)),)
        return ((recipient, envelope),)

    simulation.intercept = network
    finished = simulation.run_round(2)
    assert (finished.outcome, finished.removed) == ("completed", (MALLORY,))
    assert any("is not the one whose hash it committed to" in str(e) for e in simulation.refused)


def test_a_copied_commitment_is_refused_by_every_client() -> None:
    """A copy of what nobody has seen yet can only be copied by its hash."""
    simulation = keyed_simulation(5, suite="sealed", quantiser={"values": VALUES})

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if envelope.header.type != "UploadSet":
            return ((recipient, envelope),)
        hashes = [Envelope.decode(data) for data in body_of(envelope, UploadSet).hashes]
        first = body_of(hashes[0], UploadHash)
        copied = forge(key_of(simulation, MALLORY), hashes[-1], first).encode()
        body = UploadSet((*(e.encode() for e in hashes[:-1]), copied))
        return ((recipient, forge(key_of(simulation, sender), envelope, body)),)

    simulation.intercept = network
    assert simulation.run_round(2).outcome == "aborted"
    assert not [e for e in simulation.coordinator_received if e.header.type == "WrappedKey"
                and e.header.sender != MALLORY and e.header.sequence > 2]  # fmt: skip
    for name, client in simulation.clients.items():
        if name != MALLORY:
            assert "the same upload" in str(client.violations[0])


def _openings(simulation: object) -> list[Envelope]:
    received: list[Envelope] = getattr(simulation, "coordinator_received", [])
    return [envelope for envelope in received if envelope.header.type == "KeyOpening"]
