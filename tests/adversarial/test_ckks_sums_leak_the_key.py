"""Why no CKKS sum is ever published: two of them give away the secret key (Li and Micciancio 2021).

A CKKS decryption carries the noise in its low digits. Encoding a published sum again gives
m = c0 + c1 s as an exact integer polynomial, up to its imaginary part, which TenSEAL drops: one
linear equation for each conjugate pair of NTT values of s. Two sums give two equations for two
unknowns. The same attack on our key sum (BFV, exact integers) has nothing to hold: its plaintext
carries no noise, and what partial decryptions carry is drowned in flooding of 2^90.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tenseal", reason="the attack needs TenSEAL (extra: federation)")

import tenseal
from tenseal import sealapi

from fedfm_crypto.lattice.bulk_keys import BulkKey
from fedfm_crypto.lattice.collective import PARAMETERS, data_ring
from fedfm_crypto.lattice.ntt import ring
from fedfm_crypto.lattice.primes import ntt_primes
from fedfm_crypto.lattice.sampling import Sampler
from fedfm_crypto.lattice.seal_format import (
    Scheme,
    SealParameters,
    ciphertext_layout,
    public_key_layout,
)
from fedfm_crypto.lattice.tenseal_format import open_context, read_ciphertext, write_context
from fedfm_crypto.lattice.wrapping import open_key_sum
from fedfm_crypto.random_source import SeededRandom
from tests.crypto.lattice.federation import make_federation, sum_of
from tests.crypto.lattice.oracles import whole_secret

Words = NDArray[np.uint64]

DEGREE = 4096
NAIVE = SealParameters(
    Scheme.CKKS, DEGREE, (*ntt_primes(DEGREE, 54, 1), *ntt_primes(DEGREE, 55, 1))
)


def naive_owner(scale: float) -> tuple[Any, NDArray[np.int64]]:
    """The usual deployment: one CKKS key pair, whose holder publishes decrypted sums."""
    sampler, keys = Sampler.fresh(SeededRandom(1)), ring(DEGREE, NAIVE.primes)
    secret, noise = sampler.ternary(DEGREE), sampler.centred_binomial(DEGREE)
    transformed, public = keys.forward(keys.residues(secret)), sampler.uniform_polynomial(keys)
    b = keys.subtract(keys.forward(keys.residues(noise)), keys.multiply(public, transformed))
    context = write_context(
        NAIVE, public_key_layout(NAIVE).write(np.stack([b, public])),
        NAIVE.write_secret_key(transformed), scale,
    )  # fmt: skip
    return open_context(context), secret


def encode(values: list[float], scale: float) -> list[int]:
    """SEAL's encoding of real values, transformed, modulo the data prime."""
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus([sealapi.Modulus(q) for q in NAIVE.primes])
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    plain = sealapi.Plaintext()
    sealapi.CKKSEncoder(context).encode(values, scale, plain)
    return [plain[i] for i in range(DEGREE)]


def conjugates() -> NDArray[np.int64]:
    """For each position of the transform, the position of the inverse root of unity."""
    width = DEGREE.bit_length() - 1
    exponents = np.array([2 * int(f"{i:0{width}b}"[::-1], 2) + 1 for i in range(DEGREE)])
    position = np.zeros(2 * DEGREE, dtype=np.int64)
    position[exponents] = np.arange(DEGREE)
    found: NDArray[np.int64] = position[2 * DEGREE - exponents]
    return found


def solve(
    one: tuple[Words, Words, Any], other: tuple[Words, Words, Any], q: int
) -> NDArray[np.int64]:
    """Solve m = (c0 + c1 s) + its conjugate for s in two sums; return the coefficients of s."""
    pairs = conjugates()
    (a0, a1, am), (b0, b1, bm) = (
        tuple(np.array(part, dtype=object) for part in equation) for equation in (one, other)
    )
    left, right = (am - a0 - a0[pairs]) % q, (bm - b0 - b0[pairs]) % q
    determinant = (a1 * b1[pairs] - a1[pairs] * b1) % q
    inverse = np.array([pow(int(d), -1, q) if d else 0 for d in determinant], dtype=object)
    values = ((left * b1[pairs] - right * a1[pairs]) * inverse) % q
    base = ring(DEGREE, (q,))
    residues = base.inverse(values.astype(np.uint64).reshape(1, DEGREE))[0]
    signed = residues.astype(np.int64)
    centred: NDArray[np.int64] = np.where(residues > q // 2, signed - q, signed)
    return centred


@pytest.mark.parametrize("clients", [3, 10])
def test_two_published_ckks_sums_give_the_whole_key(clients: int) -> None:
    scale = 2.0**40
    owner, secret = naive_owner(scale)
    layout, generator = ciphertext_layout(NAIVE, scale), np.random.default_rng(0)
    q, equations = NAIVE.data_primes[0], []
    for _ in range(2):
        total = None
        for _ in range(clients):
            update = tenseal.ckks_vector(owner, generator.normal(0, 0.05, DEGREE // 2).tolist())
            total = update if total is None else total + update
        assert total is not None
        values = read_ciphertext(total, layout)
        # Twice the scale: p + conjugate(p) has integer coefficients.
        equations.append((values[0, 0], values[1, 0], encode(total.decrypt(), 2 * scale)))
    assert (solve(equations[0], equations[1], q) == secret).all()


def test_the_same_equations_on_opened_key_sums_give_nothing() -> None:
    """Ours: two key sums opened by threshold decryption, everything a client sees in hand."""
    federation, random = make_federation(), SeededRandom(2)
    secret = data_ring().inverse(whole_secret(federation.secrets)[:2])[0]
    first, ring_ = PARAMETERS.data_primes[0], data_ring()
    scaled = []
    for _ in range(2):
        keys = [BulkKey.generate(random) for _ in range(3)]
        ciphertext = federation.wrapped_sum(keys)
        opened = federation.open(ciphertext, (1, 2, 3))
        assert (open_key_sum(opened, 3).coefficients == sum_of(keys)).all()
        # The best guess of c0 + c1 s that the opened polynomial offers: itself.
        difference = ring_.forward(ring_.subtract(opened, ciphertext[0]))[0]
        scaled.append((ring_.forward(ciphertext[1])[0], difference))
    for c1, difference in scaled:
        pairs = zip(c1.tolist(), difference.tolist(), strict=True)
        guess = [d * pow(c, -1, first) % first if c else 0 for c, d in pairs]
        values = np.array(guess, dtype=np.uint64).reshape(1, -1)
        recovered = ring(PARAMETERS.degree, (first,)).inverse(values)[0]
        assert int(np.count_nonzero(recovered == secret)) == 0
