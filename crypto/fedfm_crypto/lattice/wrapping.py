"""A one-round bulk key inside one TenSEAL BFV ciphertext under the collective key.

The 4096 coefficients of a bulk key fill the 8192 slots of a batched BFV plaintext twice (TenSEAL
repeats short vectors anyway); TenSEAL encrypts it (with randomness of SEAL's own, from the
operating system), adds the wraps of all accepted clients, and decodes the sum that ``threshold``
opened. On the wire a wrap is a plain SEAL ciphertext of 262,257 bytes, read with ``seal_format``
before TenSEAL sees anything.

A sum of K keys is at most 21 K in magnitude, so it neither wraps around t nor hides an error: a
wrong decryption share, key or active set gives values uniform modulo t, whose two copies differ and
which exceed the bound; :func:`open_key_sum` raises.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CiphertextError, CryptoError, DecryptionError
from fedfm_crypto.lattice.bulk_format import DEGREE as BULK_DEGREE
from fedfm_crypto.lattice.bulk_keys import BulkKey, KeySum, check_clients
from fedfm_crypto.lattice.collective import PARAMETERS, PUBLIC_KEY, CollectivePublicKey
from fedfm_crypto.lattice.parameters import WRAP
from fedfm_crypto.lattice.tenseal_format import (
    load_vector,
    open_context,
    read_ciphertext,
    tenseal_vector,
    write_context,
)
from fedfm_crypto.lattice.threshold import FLOODING_BITS

__all__ = [
    "WRAP",
    "KeyWrapping",
    "WrapSum",
    "check_noise",
    "check_wrap",
    "decode_slots",
    "open_key_sum",
]

Words = NDArray[np.uint64]

_T = PARAMETERS.plain_modulus
# Twice what 1,000 wraps under a key of 1,000 parts can have (``threshold``).
_DECRYPTION_NOISE = 1 << 33
_COPIES = PARAMETERS.degree // BULK_DEGREE


def check_wrap(data: bytes | bytearray | memoryview) -> Words:
    """Return the residues [2, 2, N] of a received wrap or sum of wraps.

    Raises:
        CiphertextError: any byte outside the format, a residue not below its prime, or a second
            polynomial of zero, which would be no encryption at all.
    """
    values = WRAP.read(data)
    if not values[1].any():
        raise CiphertextError("the wrapped key's second polynomial is zero: it is not encrypted")
    return values


class KeyWrapping:
    """Wraps and adds under one collective public key; holds TenSEAL's context.

    Args:
        public_key: the collective key.
    """

    __slots__ = ("_context",)

    def __init__(self, public_key: CollectivePublicKey) -> None:
        self._context: Any = open_context(write_context(PARAMETERS, public_key.to_bytes()))

    def wrap(self, key: BulkKey) -> bytes:
        """Return the wrapped key; its noise is stated in ``threshold``."""
        slots = np.tile(key.coefficients, _COPIES).tolist()
        return WRAP.write(read_ciphertext(tenseal_vector(self._context, slots), WRAP))

    def new_sum(self) -> WrapSum:
        """Return an empty sum of wraps."""
        return WrapSum(self._context)


class WrapSum:
    """A running sum of wraps: one ciphertext of memory, added by TenSEAL."""

    __slots__ = ("_context", "_total", "clients")

    def __init__(self, context: Any) -> None:
        self._context = context
        self._total: Any = None
        self.clients = 0
        """Wraps added so far."""

    def add(self, wrap: bytes | bytearray | memoryview) -> None:
        """Add a received wrap.

        Raises:
            CiphertextError: it is malformed (before TenSEAL sees it), or it cancels the sum.
            CapacityError: there are more than a bulk sum can hold.
        """
        check_clients(self.clients + 1)
        vector = load_vector(self._context, WRAP, check_wrap(wrap), BULK_DEGREE)
        if self._total is None:
            self._total = vector
        else:
            # SEAL refuses to make a ciphertext whose second polynomial is zero.
            try:
                total = self._total + vector
            except (RuntimeError, ValueError) as error:
                raise CiphertextError(
                    "the wrapped key cancels the sum of the others; refuse its sender"
                ) from error
            self._total = total
        self.clients += 1

    def ciphertext(self) -> Words:
        """Return the residues [2, 2, N] of the sum.

        Raises:
            CryptoError: nothing was added.
        """
        if self._total is None:
            raise CryptoError("no wrapped keys were added, expected at least one")
        return read_ciphertext(self._total, WRAP)


def open_key_sum(opened: Words, clients: int) -> KeySum:
    """Return the key sum that a threshold decryption of a sum of wraps holds.

    Args:
        opened: what ``ThresholdDecryption.finalise`` returned, [2, N].
        clients: wraps in the sum.

    Raises:
        DecryptionError: the values are no sum of so many bulk keys.
        CapacityError: more clients than a bulk sum can hold.
    """
    check_clients(clients)
    copies = decode_slots(opened).reshape(_COPIES, BULK_DEGREE)
    if (copies != copies[0]).any():
        raise DecryptionError(
            "the copies of the key sum differ; a decryption share, the set of shares or a wrapped "
            "key is wrong"
        )
    return KeySum(copies[0].copy(), clients)


def check_noise(opened: Words, active: int) -> None:
    """Refuse an opened sum whose noise no sum of well-formed wraps has.

    A wrap whose second polynomial was shifted by d opens to the same key sum, and d times the
    collective secret stands in the noise, for every client to read. With d above 2^91, where one
    opening tells the secret, it is noticed here, after the fact and without a name: the collective
    key must be held for exposed. A smaller d is not noticed and tells a little, which adds up
    over the openings under one key (some hundred at 2^88).

    Args:
        opened: as for :func:`open_key_sum`, [2, N].
        active: parties whose flooding is in it.

    Raises:
        DecryptionError: a coefficient's noise is above active * 2^90 + 2^33.
    """
    first, second = PARAMETERS.data_primes
    modulus = first * second
    low, high = opened[0].astype(object), opened[1].astype(object)
    values = low + first * ((high - low) * pow(first, -1, second) % second)
    plain = (values * _T + modulus // 2) // modulus
    noise = values - (modulus * plain + (_T + 1) // 2) // _T
    bound = active * (1 << FLOODING_BITS) + _DECRYPTION_NOISE
    if max(int(noise.max()), -int(noise.min())) > bound:
        raise DecryptionError(
            "the opened key sum has more noise than well-formed wrapped keys leave: a client's "
            "wrap, or a decryption share, was crafted; make a new collective key before the next "
            "sum"
        )


def decode_slots(opened: Words) -> NDArray[np.int64]:
    """Return the slots of an opened ciphertext, unchecked: int64 [N], centred modulo t.

    For measurements and tests; :func:`open_key_sum` is what notices a wrong opening.
    """
    # (m, 0) decrypts to the same under every secret key, so a public one serves to decode it.
    transparent = np.stack([opened, np.zeros_like(opened)])
    vector = load_vector(_decoding_context(), WRAP, transparent, PARAMETERS.degree)
    slots = np.array(vector.decrypt(), dtype=np.int64) % _T
    slots[slots > _T // 2] -= _T
    return slots


@lru_cache(maxsize=1)
def _decoding_context() -> Any:
    """Return a context with the secret key 1 (its transform is 1 everywhere), public on purpose."""
    one = np.ones((len(PARAMETERS.primes), PARAMETERS.degree), dtype=np.uint64)
    public_key = PUBLIC_KEY.write(np.stack([one, one]))
    secret_key = PARAMETERS.write_secret_key(one)
    return open_context(write_context(PARAMETERS, public_key, secret_key))
