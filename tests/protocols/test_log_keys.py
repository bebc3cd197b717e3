"""A witness follows a change of the log's key, and takes nothing of the key before it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from fedfm_audit.charter_view import open_charter
from fedfm_audit.log_keys import LogKeys, vkey_text
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.merkle import consistency_proof, inclusion_proof, leaf_hash
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.client_states import ClientMemory
from fedfm_protocols.errors import EquivocationError
from fedfm_protocols.federation import Federation
from fedfm_protocols.log_keys import log_in_force
from fedfm_protocols.messages import CheckpointOffer, LogKeyChange
from fedfm_protocols.witness import NOTHING_SEEN, take_offer
from tests.audit.simulated import founded
from tests.audit.test_log_keys import Rotated, note

SECOND, THIRD, STRANGER = (IdentityKey.generate(SeededRandom(b"key %d" % n)) for n in range(3))
FEDERATION = Federation.of(founded(3).charter)
START = ClientMemory(0, 0, 0, bytes(32), NOTHING_SEEN)


@pytest.fixture
def rotated() -> Rotated:
    return Rotated()


def offered(
    rotated: Rotated, size: int, known: int, key: IdentityKey, changes: tuple[int, ...]
) -> CheckpointOffer:
    """The head of ``size`` leaves for who knows ``known``, with the leaves ``changes``."""
    leaves = rotated.leaves[:size]
    hashes = [leaf_hash(leaf) for leaf in leaves]
    return CheckpointOffer(
        note(leaves, key),
        tuple(consistency_proof(hashes, known)) if 0 < known < size else (),
        size - 1,
        leaves[-1],
        tuple(inclusion_proof(hashes, size - 1)),
        tuple(
            LogKeyChange(index, leaves[index], tuple(inclusion_proof(hashes, index)))
            for index in changes
        ),
    )


def test_one_change_after_the_other_or_both_at_once(rotated: Rotated) -> None:
    before = take_offer(FEDERATION, START, offered(rotated, 5, 0, rotated.old, ()))
    once = take_offer(FEDERATION, before, offered(rotated, 6, 5, SECOND, (5,)))
    twice = take_offer(FEDERATION, once, offered(rotated, 7, 6, THIRD, (6,)))
    at_once = take_offer(FEDERATION, before, offered(rotated, 7, 5, THIRD, (5, 6)))
    late = take_offer(FEDERATION, START, offered(rotated, 7, 0, THIRD, (5, 6)))
    assert twice == at_once == late
    assert twice.log_changes == tuple(rotated.leaves[5:])
    assert log_in_force(FEDERATION, twice.log_changes).key == vkey_text(rotated.keys.last)


def test_a_known_change_may_be_shown_again(rotated: Rotated) -> None:
    once = take_offer(FEDERATION, START, offered(rotated, 6, 0, SECOND, (5,)))
    again = take_offer(FEDERATION, once, offered(rotated, 7, 6, THIRD, (5, 6)))
    assert len(again.log_changes) == 2


def _old_key_again(rotated: Rotated) -> CheckpointOffer:
    return offered(rotated, 7, 6, rotated.old, ())


def _skipped_key(rotated: Rotated) -> CheckpointOffer:
    return offered(rotated, 7, 6, THIRD, ())


def _key_in_force_without_its_change(rotated: Rotated) -> CheckpointOffer:
    return offered(rotated, 7, 6, STRANGER, (6,))


def _by_a_stranger(rotated: Rotated) -> CheckpointOffer:
    rotated.leaves[6] = rotated.change(STRANGER, sequence=2)
    return offered(rotated, 7, 6, STRANGER, (6,))


def _by_the_old_key_to_another(rotated: Rotated) -> CheckpointOffer:
    rotated.leaves[6] = rotated.change(rotated.old)
    return offered(rotated, 7, 6, STRANGER, (6,))


def _not_in_the_tree(rotated: Rotated) -> CheckpointOffer:
    offer = offered(rotated, 7, 6, THIRD, (6,))
    (change,) = offer.changes
    other = LogKeys.of(open_charter(rotated.evidence.envelope)).follow(rotated.leaves[5], 5)
    leaf = other.sign_change(SECOND, STRANGER.public)
    forged = offered(rotated, 7, 6, STRANGER, (6,))
    return replace(forged, changes=(replace(change, leaf=leaf),))


def _at_another_index(rotated: Rotated) -> CheckpointOffer:
    offer = offered(rotated, 7, 6, THIRD, (6,))
    return replace(offer, changes=(replace(offer.changes[0], leaf_index=7),))


def _in_what_was_seen(rotated: Rotated) -> CheckpointOffer:
    offer = offered(rotated, 7, 6, THIRD, (6,))
    return replace(offer, changes=(replace(offer.changes[0], leaf_index=3),))


def _no_statement(rotated: Rotated) -> CheckpointOffer:
    rotated.leaves[6] = b"{}"
    return offered(rotated, 7, 6, THIRD, (6,))


LIES = [
    _old_key_again,
    _skipped_key,
    _key_in_force_without_its_change,
    _by_a_stranger,
    _by_the_old_key_to_another,
    _not_in_the_tree,
    _at_another_index,
    _in_what_was_seen,
    _no_statement,
]


@pytest.mark.parametrize("lie", LIES, ids=[lie.__name__ for lie in LIES])
def test_a_false_change_changes_nothing(
    rotated: Rotated, lie: Callable[[Rotated], CheckpointOffer]
) -> None:
    once = take_offer(FEDERATION, START, offered(rotated, 6, 0, SECOND, (5,)))
    with pytest.raises(EquivocationError):
        take_offer(FEDERATION, once, lie(rotated))


def test_changes_out_of_order_are_refused(rotated: Rotated) -> None:
    offer = offered(rotated, 7, 0, THIRD, (5, 6))
    with pytest.raises(EquivocationError):
        take_offer(FEDERATION, START, replace(offer, changes=offer.changes[::-1]))


def test_an_offer_with_changes_has_one_encoding(rotated: Rotated) -> None:
    offer = offered(rotated, 7, 0, THIRD, (5, 6))
    assert decode(CheckpointOffer, encode(offer)) == offer
