"""Slow, independent arithmetic: polynomials as Python integers, and the holder of a whole key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.lattice.collective import (
    PARAMETERS,
    CollectivePublicKey,
    SecretContribution,
    key_ring,
)
from fedfm_crypto.lattice.tenseal_format import load_vector, open_context, write_context
from fedfm_crypto.lattice.wrapping import WRAP

Words = NDArray[np.uint64]


def schoolbook_product(a: Sequence[int], b: Sequence[int], modulus: int) -> list[int]:
    """a b modulo x^N + 1 and ``modulus``, term by term."""
    degree = len(a)
    product = [0] * degree
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            if i + j < degree:
                product[i + j] += x * y
            else:
                product[i + j - degree] -= x * y
    return [value % modulus for value in product]


def big_integer_product(a: Sequence[int], b: Sequence[int], modulus: int) -> list[int]:
    """The same by one multiplication of two very long integers (Kronecker substitution)."""
    degree = len(a)
    size = (2 * modulus.bit_length() + degree.bit_length()) // 8 + 1

    def evaluate(values: Sequence[int]) -> int:
        return int.from_bytes(
            b"".join((v % modulus).to_bytes(size, "little") for v in values), "little"
        )

    octets = (evaluate(a) * evaluate(b)).to_bytes(2 * degree * size, "little")
    terms = [int.from_bytes(octets[i * size : (i + 1) * size], "little") for i in range(2 * degree)]
    return [(terms[i] - terms[i + degree]) % modulus for i in range(degree)]


def combine(residues: Words, primes: Sequence[int]) -> list[int]:
    """Residues [2, N] as integers modulo the product of two primes, centred."""
    whole = primes[0] * primes[1]
    inverse = pow(primes[0], -1, primes[1])
    values = []
    for low, high in zip(residues[0].tolist(), residues[1].tolist(), strict=True):
        value = low + primes[0] * ((high - low) * inverse % primes[1])
        values.append(value - whole if value > whole // 2 else value)
    return values


def whole_secret(secrets: Sequence[SecretContribution]) -> Words:
    """The secret key that nobody should hold: the sum of all contributions, transformed."""
    total = secrets[0].transformed
    for secret in secrets[1:]:
        total = key_ring().add(total, secret.transformed)
    return total


def ideal_decrypt(secret: Words, public_key: CollectivePublicKey, ciphertext: Words) -> list[int]:
    """TenSEAL's own decryption under the whole secret key, 4096 slots."""
    context = open_context(
        write_context(PARAMETERS, public_key.to_bytes(), PARAMETERS.write_secret_key(secret))
    )
    slots: list[int] = load_vector(context, WRAP, ciphertext, 4096).decrypt()
    return slots


def decode_slots(opened: Words) -> NDArray[np.int64]:
    """The slots of an opened polynomial, whatever they are (no plausibility check)."""
    one: Any = np.ones((len(PARAMETERS.primes), PARAMETERS.degree), dtype=np.uint64)
    key = CollectivePublicKey(np.stack([one, one]))
    transparent = np.stack([opened, np.zeros_like(opened)])
    return np.array(ideal_decrypt(one, key, transparent), dtype=np.int64)
