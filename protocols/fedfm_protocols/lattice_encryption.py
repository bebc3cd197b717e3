"""The protocol's homomorphic encryption, carried out with ``fedfm_crypto.lattice``.

The one module of this package that needs numba and TenSEAL (extra ``federation``); nothing here
imports it, whoever runs a federation with encryption passes :class:`LatticeEncryption` in.
Source: protocols/README.md, sections "Key epochs" and "The bulk layer"; crypto/README.md for the
parameters, the noise and the security estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CiphertextError, CryptoError
from fedfm_crypto.lattice.bulk_format import POLYNOMIAL_BYTES, check_polynomials
from fedfm_crypto.lattice.bulk_keys import BulkKey, PublicPolynomials
from fedfm_crypto.lattice.collective import (
    CollectivePublicKey,
    PublicKeyGeneration,
    PublicKeyShare,
    SecretContribution,
)
from fedfm_crypto.lattice.key_additive import (
    PreparedCiphertext,
    RunningSum,
    decrypt,
    polynomials_for,
)
from fedfm_crypto.lattice.threshold import (
    DecryptionShare,
    KeyShare,
    KeySharing,
    ThresholdDecryption,
)
from fedfm_crypto.lattice.wide_words import (
    LIMBS,
    Limbs,
    add_wide,
    add_wide_masks,
    from_wide,
    to_wide,
    wide_size,
)
from fedfm_crypto.lattice.wrapping import KeyWrapping, check_noise, check_wrap, open_key_sum
from fedfm_crypto.random_source import RandomSource
from fedfm_protocols.encryption import (
    ActiveSet,
    KeyContribution,
    LaneWords,
    Masks,
    ProtectedUpdate,
)

# Polynomials opened at a time: 0.4 MiB of ciphertext, 1.2 MiB of words.
_BATCH = 8


@lru_cache(maxsize=2)
def _generation(context: bytes) -> PublicKeyGeneration:
    return PublicKeyGeneration(context, context)


@lru_cache(maxsize=2)
def _wrapping(public_key: bytes) -> KeyWrapping:
    """TenSEAL's context of a collective key; making one costs more than using it."""
    return KeyWrapping(CollectivePublicKey.from_bytes(public_key))


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An upload without its words: the ciphertext of nothing, the masks, and the wrapped key."""

    ciphertext: PreparedCiphertext = field(repr=False)
    masks: Limbs = field(repr=False)
    wrap: bytes = field(repr=False)


class LatticeEncryption:
    """Key-additive RLWE for the bulk, TenSEAL's BFV for the one-step keys, t of n open their sum.

    Holds no state of its own; every method is documented in
    :class:`~fedfm_protocols.encryption.Encryption`.

    Source: protocols/README.md, section "The bulk layer".
    """

    # ---- key epochs

    def contribute(self, context: bytes, random: RandomSource) -> KeyContribution:
        secret = SecretContribution.generate(random)
        share = _generation(context).gen_share(secret, random)
        return KeyContribution(secret, share.to_bytes())

    def commitment(self, context: bytes, name: str, public_share: bytes) -> bytes:
        return _generation(context).commitment(name, PublicKeyShare.from_bytes(public_share))

    def public_key(self, context: bytes, public_shares: Sequence[bytes]) -> bytes:
        generation = _generation(context)
        shares = [PublicKeyShare.from_bytes(share) for share in public_shares]
        return generation.finalise(generation.aggregate(shares)).to_bytes()

    def deal(
        self,
        contribution: KeyContribution,
        threshold: int,
        points: Sequence[int],
        random: RandomSource,
    ) -> tuple[bytes, ...]:
        if not isinstance(contribution.secret, SecretContribution):
            raise CryptoError("the contribution was not made by this kind of encryption")
        shares = KeySharing(threshold, points).gen_shares(contribution.secret, random)
        return tuple(share.to_bytes() for share in shares)

    def collect(self, point: int, shares: Sequence[bytes]) -> bytes:
        parts = [KeyShare.from_bytes(point, share) for share in shares]
        return KeySharing.aggregate(parts).to_bytes()

    # ---- one step

    def prepare(
        self,
        *,
        values: int,
        lane_bits: int,
        masks: Masks,
        seed: bytes,
        public_key: bytes,
        random: RandomSource,
    ) -> _Prepared:
        words = wide_size(values, lane_bits)
        limbs = np.zeros(LIMBS * words, dtype=np.uint32)
        add_wide_masks(limbs, masks)
        key = BulkKey.generate(random)
        wrap = _wrapping(public_key).wrap(key)
        return _Prepared(
            PreparedCiphertext(words, key, PublicPolynomials(seed), random), limbs, wrap
        )

    def protect(self, prepared: _Prepared, words: LaneWords, lane_bits: int) -> ProtectedUpdate:
        limbs = to_wide(words, lane_bits)
        if limbs.size != prepared.masks.size:
            raise CryptoError(f"{words.size} lanes are not what this upload was prepared for")
        add_wide(limbs, prepared.masks)
        return ProtectedUpdate(b"".join(prepared.ciphertext.encrypt(limbs)), prepared.wrap)

    def check_upload(self, bulk: bytes, values: int, lane_bits: int) -> None:
        expected = _polynomials(values, lane_bits)
        if len(bulk) != expected * POLYNOMIAL_BYTES:
            raise CiphertextError(
                f"a ciphertext of {len(bulk)} bytes, {values} values of {lane_bits} bits take "
                f"{expected * POLYNOMIAL_BYTES}"
            )
        check_polynomials(bulk)

    def check_wrap(self, wrap: bytes) -> None:
        check_wrap(wrap)

    def add(self, total: RunningSum | None, bulk: bytes) -> RunningSum:
        result = RunningSum(len(bulk) // POLYNOMIAL_BYTES) if total is None else total.copy()
        result.add(bulk)
        return result

    def peel(self, total: RunningSum, masks: Masks, values: int, lane_bits: int) -> bytes:
        # The masks to take off, as the negative of what is to be added to the sum.
        limbs = np.zeros(LIMBS * wide_size(values, lane_bits), dtype=np.uint32)
        add_wide_masks(limbs, ((key, 1 if sign == -1 else -1) for key, sign in masks))
        result = total.copy()
        result.subtract_words(limbs)
        return b"".join(result.chunks())

    def open_share(
        self,
        wraps: Sequence[bytes],
        *,
        public_key: bytes,
        share: bytes,
        point: int,
        active: ActiveSet,
        random: RandomSource,
    ) -> bytes:
        total = _wrapping(public_key).new_sum()
        for wrap in wraps:
            total.add(wrap)
        ciphertext = total.ciphertext()
        decryption = ThresholdDecryption(active.threshold, active.points)
        partial = decryption.gen_share(KeyShare.from_bytes(point, share), ciphertext, random)
        values: NDArray[np.uint64] = partial.values
        if point == active.points[0]:
            values = decryption.finalise(ciphertext, values)
        return DecryptionShare(point, values).to_bytes()

    def open_sum(
        self,
        bulk: bytes,
        *,
        shares: Sequence[tuple[int, bytes]],
        active: ActiveSet,
        clients: int,
        seed: bytes,
        values: int,
        lane_bits: int,
    ) -> LaneWords:
        expected = _polynomials(values, lane_bits)
        if len(bulk) != expected * POLYNOMIAL_BYTES:
            raise CiphertextError(
                f"a ciphertext sum of {len(bulk)} bytes, {values} values of {lane_bits} bits take "
                f"{expected * POLYNOMIAL_BYTES}"
            )
        parts = [DecryptionShare.from_bytes(point, data) for point, data in shares]
        opened = ThresholdDecryption(active.threshold, active.points).aggregate(parts)
        check_noise(opened, len(active.points))
        key, public = open_key_sum(opened, clients), PublicPolynomials(seed)
        limbs = np.empty(LIMBS * wide_size(values, lane_bits), dtype=np.uint32)
        view = memoryview(bulk)
        done = 0
        for first in range(0, expected, _BATCH):
            chunk = view[first * POLYNOMIAL_BYTES : (first + _BATCH) * POLYNOMIAL_BYTES]
            part = decrypt(chunk, key, public, first)[: limbs.size - done]
            limbs[done : done + part.size] = part
            done += part.size
        return from_wide(limbs, lane_bits, values)


def _polynomials(values: int, lane_bits: int) -> int:
    return polynomials_for(wide_size(values, lane_bits))
