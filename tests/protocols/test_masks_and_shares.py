"""Masks cancel exactly, shares open exactly one way, and derivations are byte for byte as written.

The expected values are recomputed here from the formulas of protocols/README.md with hashlib and
pyca/cryptography alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.codec import encode
from fedfm_crypto.errors import ShareError
from fedfm_crypto.mask import add_masks
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from fedfm_protocols import masking, shares
from fedfm_protocols.context import Names, RoundIdentity, context1, dealers_hash
from fedfm_protocols.masking import RoundSecrets
from fedfm_protocols.messages import RevealedShare, ShareContents

CONTEXT = bytes(range(32))
NAMES = ("a", "b", "c", "d")


def _prefixed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _hash(label: str, *parts: bytes) -> bytes:
    return hashlib.sha256(_prefixed(b"secure-fedfm/v1/" + label.encode(), *parts)).digest()


def _hkdf(label: str, secret: bytes, *parts: bytes) -> bytes:
    info = _prefixed(b"secure-fedfm/v1/" + label.encode(), *parts)
    return HKDF(SHA256(), 32, None, info).derive(secret)


def _stream(key: bytes, size: int) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))


def _secrets(steps: int = 1) -> dict[str, RoundSecrets]:
    random = SeededRandom(5)
    return {name: RoundSecrets.draw(steps, random) for name in NAMES}


# ---------------------------------------------------------------- contexts


def _names(*names: str) -> bytes:
    coded = b"".join(len(n).to_bytes(4, "big") + n.encode() for n in names)
    return len(names).to_bytes(4, "big") + coded


def test_contexts_byte_for_byte() -> None:
    identity = RoundIdentity(b"c" * 32, 0, 7, 1, "train", ("a", "bb"), b"d" * 32, b"e" * 32)
    expected = _hash(
        "context-round",
        b"c" * 32,
        bytes(4),
        b"\x00\x00\x00\x07",
        b"\x00\x01",
        b"train",
        _names("a", "bb"),
        b"d" * 32,
        b"e" * 32,
    )
    assert identity.context0() == expected
    assert encode(Names(("a", "bb"))) == _names("a", "bb")
    assert context1(expected, b"r" * 32) == _hash("context-keys", expected, b"r" * 32, bytes(32))
    assert dealers_hash(CONTEXT, ("a", "bb")) == _hash("dealers", CONTEXT, _names("a", "bb"))


@pytest.mark.parametrize(
    "change",
    [
        {"charter_hash": b"x" * 32},
        {"key_epoch": 1},
        {"round": 8},
        {"steps": 2},
        {"kind": "unlearn"},
        {"invited": ("a",)},
        {"invited": ("a", "b")},
        {"adapter_hash": b"x" * 32},
        {"config_hash": b"x" * 32},
    ],
)
def test_every_fact_about_a_round_changes_its_context(change: dict[str, Any]) -> None:
    identity = RoundIdentity(b"c" * 32, 0, 7, 1, "train", ("a", "bb"), b"d" * 32, b"e" * 32)
    assert replace(identity, **change).context0() != identity.context0()


# ---------------------------------------------------------------- masks


def test_mask_keys_and_commitments_byte_for_byte() -> None:
    secrets = _secrets()
    own, peer = secrets["b"].steps[0], secrets["a"].steps[0]
    seed = own.seed.reveal()
    assert masking.self_mask_key(CONTEXT, "b", 0, own.seed).reveal() == _hkdf(
        "self-mask", seed, CONTEXT, b"b", bytes(2)
    )
    shared = own.mask_key.exchange(peer.mask_key.public).reveal()
    expected = _hkdf("pairwise-mask", shared, CONTEXT, b"a", b"b", b"\x00\x03")
    for mine, other, key, public in (
        ("b", "a", own.mask_key, peer.mask_key.public),
        ("a", "b", peer.mask_key, own.mask_key.public),
    ):
        derived = masking.pairwise_mask_key(CONTEXT, mine, key, other, public, 3)
        assert derived.reveal() == expected
    assert masking.seed_commitment(CONTEXT, "b", 0, own.seed) == _hash(
        "commit-seed", CONTEXT, b"b", bytes(2), seed
    )
    nonce = secrets["b"].nonce
    assert masking.nonce_commitment(CONTEXT, "b", nonce) == _hash(
        "commit-nonce", CONTEXT, b"b", nonce.reveal()
    )


@pytest.mark.parametrize("lane_bits", [24, 32])
def test_a_masked_upload_byte_for_byte(lane_bits: int) -> None:
    secrets = _secrets()
    count, width = 10, lane_bits // 8
    words = np.arange(count, dtype=np.uint32)
    masks_of_b = masking.mask_keys(
        context=CONTEXT,
        client="b",
        step=0,
        secrets=secrets["b"].steps[0],
        peers={name: secrets[name].steps[0].mask_key.public for name in NAMES},
    )
    add_masks(words, masks_of_b, lane_bits)

    def lanes(key: bytes) -> list[int]:
        stream = _stream(key, count * width)
        return [int.from_bytes(stream[i * width : (i + 1) * width], "little") for i in range(count)]

    own = secrets["b"].steps[0]
    expected = list(range(count))
    masks = [(1, _hkdf("self-mask", own.seed.reveal(), CONTEXT, b"b", bytes(2)))]
    for peer in ("a", "c", "d"):
        shared = own.mask_key.exchange(secrets[peer].steps[0].mask_key.public).reveal()
        low, high = sorted(("b", peer))
        key = _hkdf("pairwise-mask", shared, CONTEXT, low.encode(), high.encode(), bytes(2))
        masks.append((1 if peer > "b" else -1, key))
    for sign, key in masks:
        expected = [
            (x + sign * m) % 2**lane_bits for x, m in zip(expected, lanes(key), strict=True)
        ]
    assert words.tolist() == expected


@pytest.mark.parametrize("removed", [(), ("b",), ("a", "d")])
def test_masks_come_off_the_sum_and_only_with_the_right_secrets(removed: tuple[str, ...]) -> None:
    secrets = _secrets()
    public = {name: secrets[name].steps[0].mask_key.public for name in NAMES}
    total = np.zeros(1000, np.uint32)
    for name in NAMES:
        words = np.full(1000, 7, np.uint32)
        masks = masking.mask_keys(
            context=CONTEXT,
            client=name,
            step=0,
            secrets=secrets[name].steps[0],
            peers=public,
        )
        add_masks(words, masks, 32)
        if name not in removed:
            total += words
    accepted = [name for name in NAMES if name not in removed]
    seeds = {name: secrets[name].steps[0].seed for name in accepted}
    keys = {name: secrets[name].steps[0].mask_key for name in removed}

    def opened(seeds: dict[str, Secret], keys: dict[str, AgreementKey], context: bytes) -> Any:
        result = total.copy()
        masks = masking.peeling_keys(
            context=context,
            step=0,
            seeds=seeds,
            removed_keys=keys,
            neighbours=lambda _: NAMES,
            public_keys=public,
        )
        add_masks(result, masks, 32)
        return result

    assert (opened(seeds, keys, CONTEXT) == 7 * len(accepted)).all()
    wrong_seed = {**seeds, accepted[0]: Secret(bytes([1]) * 32)}
    assert len(set(opened(wrong_seed, keys, CONTEXT).tolist())) > 990
    assert len(set(opened(seeds, keys, bytes(32)).tolist())) > 990
    if removed:
        assert len(set(opened(seeds, {}, CONTEXT).tolist())) > 990


def test_steps_never_share_a_key_or_a_mask() -> None:
    secrets = _secrets(steps=3)["a"]
    keys = [step.mask_key.public for step in secrets.steps] + [secrets.share_key.public]
    assert len(set(keys)) == 4
    assert len({step.seed.reveal() for step in secrets.steps}) == 3
    seed = secrets.steps[0].seed
    derived = {masking.self_mask_key(CONTEXT, "a", step, seed).reveal() for step in range(3)}
    assert len(derived) == 3


# ---------------------------------------------------------------- shares


def _dealt(steps: int = 1) -> tuple[dict[str, RoundSecrets], Any]:
    secrets = _secrets(steps)
    bundle = shares.deal(
        context=CONTEXT,
        dealer="b",
        secrets=secrets["b"],
        share_keys={name: secrets[name].share_key.public for name in reversed(NAMES)},
        share_index={name: i + 1 for i, name in enumerate(NAMES)},
        threshold=3,
        random=SeededRandom(9),
    )
    return secrets, bundle


def _open(secrets: dict[str, RoundSecrets], entry: Any, **changes: Any) -> ShareContents:
    arguments: dict[str, Any] = {
        "context": CONTEXT,
        "dealer": "b",
        "recipient": entry.recipient,
        "sealed": entry.sealed,
        "own_key": secrets[entry.recipient].share_key,
        "dealer_public": secrets["b"].share_key.public,
        "steps": len(secrets["b"].steps),
        "commitments": entry.commitments,
    }
    return shares.open_shares(**{**arguments, **changes})


@pytest.mark.parametrize("steps", [1, 3])
def test_any_three_of_four_rebuild_both_secrets_of_each_step(steps: int) -> None:
    secrets, bundle = _dealt(steps)
    assert [entry.recipient for entry in bundle.shares] == list(NAMES)
    contents = [_open(secrets, entry) for entry in bundle.shares]
    for step in range(steps):
        for left_out in range(4):
            points = [(x + 1, c.steps[step]) for x, c in enumerate(contents) if x != left_out]
            seed = shares.rebuild([(x, s.seed) for x, s in points], 3)
            key = shares.rebuild([(x, s.key) for x, s in points], 3)
            assert seed == secrets["b"].steps[step].seed
            assert key == secrets["b"].steps[step].mask_key.secret
    with pytest.raises(ShareError, match="2 shares"):
        shares.rebuild([(1, contents[0].steps[0].seed), (2, contents[1].steps[0].seed)], 3)


def test_sealing_byte_for_byte() -> None:
    secrets, bundle = _dealt()
    entry = bundle.shares[0]
    shared = secrets["a"].share_key.exchange(secrets["b"].share_key.public).reveal()
    key = _hkdf("share-key", shared, CONTEXT, b"b", b"a")
    associated = _hash("share-key", CONTEXT, b"b", b"a")
    plain = AESGCM(key).decrypt(entry.sealed[:12], entry.sealed[12:], associated)
    opened = _open(secrets, entry)
    own = opened.steps[0]
    assert plain == (
        (1).to_bytes(4, "big")
        + (33).to_bytes(4, "big")
        + own.seed
        + own.seed_salt
        + (33).to_bytes(4, "big")
        + own.key
        + own.key_salt
    )
    for which, salt, value, commitment in (
        (b"seed", own.seed_salt, own.seed, entry.commitments[0].seed),
        (b"key", own.key_salt, own.key, entry.commitments[0].key),
    ):
        assert commitment == _hash(
            "commit-share", CONTEXT, b"b", b"a", bytes(2), which, salt, value
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"context": bytes(32)},
        {"dealer": "c"},
        {"recipient": "c"},
        {"sealed": b""},
        {"sealed": bytes(200)},
        {"steps": 2},
        {"commitments": ()},
        {"dealer_public": AgreementKey.from_secret(Secret(b"x" * 32)).public},
        {"own_key": AgreementKey.from_secret(Secret(b"y" * 32))},
    ],
)
def test_sealed_shares_open_in_their_place_only(changes: dict[str, Any]) -> None:
    secrets, bundle = _dealt()
    assert _open(secrets, bundle.shares[0])
    with pytest.raises(ShareError):
        _open(secrets, bundle.shares[0], **changes)


def test_commitments_of_another_entry_do_not_fit() -> None:
    secrets, bundle = _dealt()
    with pytest.raises(ShareError, match="do not open the commitments"):
        _open(secrets, bundle.shares[0], commitments=bundle.shares[1].commitments)


def test_the_ledger_takes_a_share_only_from_its_holder_for_its_purpose() -> None:
    secrets, bundle = _dealt()
    ledger = shares.ShareLedger(
        bytes(32), CONTEXT, {"b": {e.recipient: e.commitments for e in bundle.shares}}
    )
    own = _open(secrets, bundle.shares[0]).steps[0]
    seed = RevealedShare("b", own.seed, own.seed_salt)
    key = RevealedShare("b", own.key, own.key_salt)
    assert ledger.matches("a", 0, shares.SEED, seed)
    assert ledger.matches("a", 0, shares.KEY, key)
    for holder, step, which, share in (
        ("a", 0, shares.KEY, seed),
        ("a", 0, shares.SEED, key),
        ("c", 0, shares.SEED, seed),
        ("eve", 0, shares.SEED, seed),
        ("a", 1, shares.SEED, seed),
        ("a", 0, shares.SEED, replace(seed, dealer="c")),
        ("a", 0, shares.SEED, replace(seed, salt=bytes(32))),
        ("a", 0, shares.SEED, replace(seed, value=bytes(33))),
    ):
        assert not ledger.matches(holder, step, which, share)


def test_share_values_out_of_the_field_are_refused_on_opening() -> None:
    """A dealer that seals y >= p would otherwise blow up the rebuilding, far from its cause."""
    secrets, bundle = _dealt()
    own = _open(secrets, bundle.shares[0])
    bad = ShareContents((replace(own.steps[0], seed=b"\xff" * 33),))
    shared = secrets["a"].share_key.exchange(secrets["b"].share_key.public).reveal()
    key = _hkdf("share-key", shared, CONTEXT, b"b", b"a")
    associated = _hash("share-key", CONTEXT, b"b", b"a")
    sealed = bytes(12) + AESGCM(key).encrypt(bytes(12), encode(bad), associated)
    with pytest.raises(ShareError, match="not canonical"):
        _open(
            secrets,
            bundle.shares[0],
            sealed=sealed,
            commitments=shares.commit(CONTEXT, "b", "a", bad),
        )
