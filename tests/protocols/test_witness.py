"""Clients as witnesses: one history, or none (PROTOCOL.md step 15)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedfm_crypto.envelope import CheckpointSeen
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.merkle import consistency_proof, inclusion_proof, leaf_hash, tree_root
from fedfm_crypto.note import Checkpoint, NoteAlgorithm, add_signature, cosign, sign_checkpoint
from fedfm_crypto.verifier_key import format_vkey
from fedfm_protocols.charter import LogSection
from fedfm_protocols.errors import EquivocationError
from fedfm_protocols.messages import CheckpointOffer
from fedfm_protocols.witness import NOTHING_SEEN, extend_checkpoint, review_offer
from tests.protocols.federations import make_keys

KEYS = make_keys(3)
ORIGIN = "test/log"
LOG = LogSection(origin=ORIGIN, key=format_vkey(ORIGIN, KEYS.log.public, NoteAlgorithm.ED25519))
LEAVES = [b"leaf %d" % i for i in range(20)]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]


def _seen(size: int) -> CheckpointSeen:
    return CheckpointSeen(size, tree_root(HASHES[:size]))


def _note(
    size: int, key: IdentityKey = KEYS.log, origin: str = ORIGIN, fork: bool = False
) -> bytes:
    hashes = HASHES[:size]
    if fork:
        hashes = [leaf_hash(b"fork"), *hashes[1:]]
    return sign_checkpoint(Checkpoint(origin, size, tree_root(hashes)), origin, key)


def _proof(old: int, new: int) -> list[bytes]:
    return consistency_proof(HASHES[:new], old) if 0 < old < new else []


@pytest.mark.parametrize("old", range(21))
def test_every_growth_is_followed_with_its_proof(old: int) -> None:
    for new in range(old, 21):
        seen = _seen(old) if old else NOTHING_SEEN
        if new:
            extended = extend_checkpoint(seen, _note(new), _proof(old, new), LOG)
            assert extended == _seen(new)


def test_the_checkpoint_already_seen_is_seen_whatever_proof_comes_with_it() -> None:
    assert extend_checkpoint(_seen(7), _note(7), _proof(3, 7), LOG) == _seen(7)


@pytest.mark.parametrize(
    ("note", "proof"),
    [
        (_note(6), []),
        (_note(7, fork=True), []),
        (_note(12, fork=True), _proof(7, 12)),
        (_note(12), []),
        (_note(12), _proof(6, 12)),
        (_note(12), _proof(7, 12)[:-1]),
        (_note(12), [*_proof(7, 12), bytes(32)]),
        (_note(12), [bytes(32), *_proof(7, 12)[1:]]),
        (_note(12, key=KEYS.coordinator), _proof(7, 12)),
        (_note(12, origin="other/log"), _proof(7, 12)),
        (b"", []),
        (_note(12)[:-2], _proof(7, 12)),
        (_note(12) + _note(12), _proof(7, 12)),
        (_note(12).replace(b"12\n", b"13\n", 1), _proof(7, 12)),
    ],
    ids=[
        "rolled back",
        "same size, other root",
        "forked before",
        "no proof",
        "proof from another size",
        "proof cut short",
        "proof with a hash more",
        "proof with a false hash",
        "signed by another key",
        "another origin",
        "empty",
        "cut",
        "two notes",
        "size changed after signing",
    ],
)
def test_anything_else_is_a_split_view(note: bytes, proof: list[bytes]) -> None:
    with pytest.raises(EquivocationError):
        extend_checkpoint(_seen(7), note, proof, LOG)


def test_cosignatures_of_others_do_not_disturb_and_do_not_replace_the_log() -> None:
    witness = KEYS.clients["client-01"]
    note = _note(12)
    cosigned = add_signature(note, cosign(note, "test/client-01", witness, 1))
    assert extend_checkpoint(_seen(7), cosigned, _proof(7, 12), LOG) == _seen(12)
    body, _, _ = note.rpartition(b"\n\n")
    only_witness = body + b"\n\n" + cosign(note, "test/client-01", witness, 1)
    with pytest.raises(EquivocationError):
        extend_checkpoint(_seen(7), only_witness, _proof(7, 12), LOG)


# ---------------------------------------------------------------- offers


def _offer(old: int = 7, new: int = 12, index: int = 11) -> CheckpointOffer:
    return CheckpointOffer(
        checkpoint=_note(new),
        consistency=tuple(_proof(old, new)),
        leaf_index=index,
        leaf=LEAVES[index],
        inclusion=tuple(inclusion_proof(HASHES[:new], index)),
    )


@pytest.mark.parametrize("index", range(12))
def test_a_leaf_that_is_in_the_tree(index: int) -> None:
    assert review_offer(_seen(7), _offer(index=index), LOG) == _seen(12)


@pytest.mark.parametrize(
    "offer",
    [
        replace(_offer(), leaf=b"another statement"),
        replace(_offer(), leaf_index=10),
        replace(_offer(), leaf_index=12),
        replace(_offer(), leaf_index=2**32 - 1),
        replace(_offer(), inclusion=()),
        replace(_offer(), inclusion=(*_offer().inclusion, bytes(32))),
        replace(_offer(), leaf=b""),
        replace(_offer(), leaf=HASHES[10] + HASHES[11]),
    ],
    ids=[
        "other leaf",
        "other index",
        "past the end",
        "far past",
        "no proof",
        "long",
        "empty",
        "node",
    ],
)
def test_a_leaf_that_is_not_where_it_is_said_to_be(offer: CheckpointOffer) -> None:
    with pytest.raises(EquivocationError, match="not in the checkpoint"):
        review_offer(_seen(7), offer, LOG)


def test_an_offer_over_a_split_view_is_refused_before_its_leaf_is_looked_at() -> None:
    with pytest.raises(EquivocationError, match="does not extend"):
        review_offer(_seen(7), replace(_offer(), consistency=()), LOG)
