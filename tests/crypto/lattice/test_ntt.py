"""The transform against schoolbook and big-integer products; all the ring's operations."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_crypto.errors import CryptoError
from fedfm_crypto.lattice import bulk_format
from fedfm_crypto.lattice.collective import PARAMETERS
from fedfm_crypto.lattice.ntt import Ring, ring, shoup_table
from fedfm_crypto.lattice.primes import minimal_root, ntt_primes
from tests.crypto.lattice.oracles import big_integer_product, schoolbook_product

Words = NDArray[np.uint64]
SMALL = ring(16, ntt_primes(16, 30, 2))
RINGS = [SMALL, ring(4096, bulk_format.PRIMES), ring(8192, PARAMETERS.primes)]


def extremes_and_noise(of: Ring, seed: int) -> Words:
    """Residues with 0, 1 and q - 1 among them."""
    generator = np.random.default_rng(seed)
    rows = [generator.integers(0, q, of.degree, dtype=np.uint64) for q in of.primes]
    for row, q in zip(rows, of.primes, strict=True):
        row[:4] = (q - 1, q - 1, 0, 1)
    return np.stack(rows)


def product(of: Ring, a: Words, b: Words) -> list[list[int]]:
    got: list[list[int]] = of.inverse(of.multiply(of.forward(a), of.forward(b))).tolist()
    return got


@pytest.mark.parametrize("degree", [2, 4, 16, 64])
@pytest.mark.parametrize("bits", [20, 54, 60])
def test_a_product_is_the_schoolbook_product(degree: int, bits: int) -> None:
    of = ring(degree, ntt_primes(degree, bits, 3))
    a, b = extremes_and_noise(ring(64, ntt_primes(64, bits, 3)), 1), None
    a = a[:, :degree] % np.array(of.primes, dtype=np.uint64).reshape(-1, 1)
    b = a[:, ::-1].copy()
    expected = [
        schoolbook_product(a[k].tolist(), b[k].tolist(), q) for k, q in enumerate(of.primes)
    ]
    assert product(of, np.ascontiguousarray(a), b) == expected


@pytest.mark.parametrize("of", RINGS[1:], ids=["bulk", "collective"])
def test_a_product_of_full_size_is_the_big_integer_product(of: Ring) -> None:
    a, b = extremes_and_noise(of, 2), extremes_and_noise(of, 3)
    got = product(of, a, b)
    for k in (0, len(of.primes) - 1):
        assert got[k] == big_integer_product(a[k].tolist(), b[k].tolist(), of.primes[k])


def test_the_big_integer_oracle_agrees_with_the_schoolbook() -> None:
    a, b = extremes_and_noise(SMALL, 4)[0].tolist(), extremes_and_noise(SMALL, 5)[0].tolist()
    q = SMALL.primes[0]
    assert big_integer_product(a, b, q) == schoolbook_product(a, b, q)


def test_position_i_holds_the_value_at_the_bit_reversed_odd_power() -> None:
    values = extremes_and_noise(SMALL, 6)
    transformed = SMALL.forward(values)
    for k, q in enumerate(SMALL.primes):
        psi = minimal_root(16, q)
        for i in range(16):
            point = pow(psi, 2 * int(f"{i:04b}"[::-1], 2) + 1, q)
            value = sum(int(c) * pow(point, j, q) for j, c in enumerate(values[k])) % q
            assert int(transformed[k, i]) == value


@pytest.mark.parametrize("of", RINGS, ids=["small", "bulk", "collective"])
def test_operations_agree_with_python_integers(of: Ring) -> None:
    a, b = extremes_and_noise(of, 7), extremes_and_noise(of, 8)
    factors = [q - 2 for q in of.primes]
    results = {
        "add": of.add(a, b), "subtract": of.subtract(a, b), "multiply": of.multiply(a, b),
        "scale": of.scale(a, factors), "back": of.inverse(of.forward(a)),
    }  # fmt: skip
    for k, q in enumerate(of.primes):
        pairs = list(zip(a[k].tolist(), b[k].tolist(), strict=True))
        expected = {
            "add": [(x + y) % q for x, y in pairs], "subtract": [(x - y) % q for x, y in pairs],
            "multiply": [x * y % q for x, y in pairs],
            "scale": [x * (q - 2) % q for x, _ in pairs], "back": [x for x, _ in pairs],
        }  # fmt: skip
        for name, values in results.items():
            assert values[k].tolist() == expected[name], name


def test_a_batch_is_its_members_and_arguments_stay_as_they_were() -> None:
    batch = np.stack([extremes_and_noise(SMALL, seed) for seed in range(6)]).reshape(2, 3, 2, 16)
    before = batch.copy()
    transformed = SMALL.forward(batch)
    back = SMALL.inverse(transformed)
    assert (transformed[1, 2] == SMALL.forward(batch[1, 2])).all()
    assert (back == before).all()
    assert (batch == before).all()
    # A slice that is not contiguous, whose in-place transform would be lost.
    assert (SMALL.forward(batch[:, 1]) == transformed[:, 1]).all()


def test_signed_integers_become_residues() -> None:
    signed = np.arange(-8, 8, dtype=np.int64)
    for k, q in enumerate(SMALL.primes):
        assert SMALL.residues(signed)[k].tolist() == [int(v) % q for v in signed]
    with pytest.raises(CryptoError, match="as large as a prime"):
        SMALL.residues(signed + min(SMALL.primes))


def test_shoup_constants_are_exact() -> None:
    for of in RINGS:
        values = extremes_and_noise(of, 9)
        table = shoup_table(values, of.primes)
        for k, q in enumerate(of.primes):
            expected = [(int(v) << 64) // q for v in values[k][:64]]
            assert table[k][:64].tolist() == expected


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 16)), np.zeros((3, 16), np.uint64), np.zeros(16, np.uint64)],
    ids=["floats", "three primes", "one dimension"],
)
def test_other_arrays_are_refused(array: Words) -> None:
    with pytest.raises(CryptoError, match="expected uint64"):
        SMALL.forward(array)


def test_unfit_rings_are_refused() -> None:
    with pytest.raises(CryptoError, match="distinct"):
        Ring(16, [97, 97])
    with pytest.raises(CryptoError, match="no prime"):
        Ring(16, [101])
    with pytest.raises(CryptoError, match="60 bits"):
        Ring(16, [2**61 - 1])
    with pytest.raises(CryptoError, match="shapes"):
        SMALL.add(SMALL.zeros(1), SMALL.zeros(2))
