"""Encrypted sketches against TenSEAL's own decryption; sums and the binding check."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tenseal
from tenseal import sealapi

from fedfm_crypto.errors import CapacityError, CiphertextError, CryptoError
from fedfm_crypto.lattice.seal_format import ciphertext_layout
from fedfm_crypto.lattice.sketch_encryption import (
    SketchEncryption,
    binding_holds,
    open_sum,
    sum_sketches,
)
from fedfm_crypto.lattice.sketch_format import (
    PARAMETERS,
    SCALE,
    SKETCH,
    SKETCH_SUM,
    SketchScale,
)
from fedfm_crypto.lattice.sketch_keys import PUBLIC_KEY, data_ring
from fedfm_crypto.lattice.tenseal_format import open_context, write_context, write_vector
from fedfm_crypto.sketch import SLOTS
from tests.crypto.lattice.sketching import NORM, example_scale, example_sketch, make_validator

SKETCHES = [example_sketch(seed) for seed in range(4)]


def client(scale: SketchScale | None = None) -> SketchEncryption:
    return SketchEncryption(make_validator().encryption, scale or example_scale())


def owner() -> Any:
    """TenSEAL's context with the validator's secret key."""
    validator = make_validator()
    return open_context(
        write_context(
            PARAMETERS, PUBLIC_KEY.write(validator.encryption.pair),
            PARAMETERS.write_secret_key(validator.secret.transformed()), SCALE,
        )
    )  # fmt: skip


def test_tenseal_decrypts_what_a_client_sends() -> None:
    data = client().encrypt(SKETCHES[0])
    assert len(data) == SKETCH.size == 294_952
    seal = ciphertext_layout(PARAMETERS, SCALE).write(SKETCH.read(data))
    found = tenseal.ckks_vector_from(owner(), write_vector(SLOTS, seal, SCALE)).decrypt()
    expected = SKETCHES[0] * example_scale().amplitude
    assert np.abs(np.array(found) - expected).max() < 1e-3 * example_scale().amplitude


def test_encryption_is_randomised_and_one_form_is_accepted() -> None:
    one, other = client().encrypt(SKETCHES[0]), client().encrypt(SKETCHES[0])
    assert one != other
    assert SKETCH.write(SKETCH.read(one)) == one


@pytest.mark.parametrize("groups", [1, 8])
def test_a_sum_opens_to_exact_integers_in_tenseals_order_of_slots(groups: int) -> None:
    scale = example_scale(groups)
    total = sum_sketches([client(scale).encrypt(values) for values in SKETCHES])
    assert len(total) == SKETCH_SUM.size
    opened = open_sum(make_validator().secret, total, scale)
    assert np.abs(opened - sum(SKETCHES)).max() < 1e-3


def test_binding_accepts_the_sum_and_nothing_else() -> None:
    secret, scale = make_validator().secret, example_scale()
    total = sum_sketches([client().encrypt(values) for values in SKETCHES])
    expected = np.sum(SKETCHES, axis=0)
    assert binding_holds(secret, total, expected, scale)
    for slot in (0, 1, 2048, SLOTS - 1):
        off_by_one = expected.copy()
        off_by_one[slot] += 1
        assert not binding_holds(secret, total, off_by_one, scale)
    assert not binding_holds(secret, total, np.sum(SKETCHES[:3], axis=0), scale)


def test_binding_at_the_largest_norms() -> None:
    """Sketches 38 times an ordinary one, and steps so fine that norms reach 2^40."""
    for norm in (NORM, 2.0**35):
        scale = SketchScale(32 * norm)
        large = [example_sketch(seed, norm=32 * norm) for seed in range(3)]
        total = sum_sketches([client(scale).encrypt(values) for values in large])
        assert binding_holds(make_validator().secret, total, np.sum(large, axis=0), scale)


def complex_encryption(values: np.ndarray[Any, Any]) -> bytes:
    """What a dishonest client can send: slots with imaginary parts, encrypted with SEAL itself."""
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(8192)
    parameters.set_coeff_modulus([sealapi.Modulus(q) for q in PARAMETERS.primes])
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    plain = sealapi.Plaintext()
    sealapi.CKKSEncoder(context).encode(values.tolist(), SCALE, plain)
    message = np.array([plain[i] for i in range(3 * 8192)], dtype=np.uint64).reshape(3, 8192)
    zero = SKETCH.read(client().encrypt(np.zeros(SLOTS, dtype=np.int64)))
    zero[0] = data_ring().add(zero[0], message)
    return SKETCH.write(zero)


def test_imaginary_parts_break_the_binding() -> None:
    """They would lower the measured norm, and TenSEAL's decryption does not show them."""
    scale = example_scale()
    hidden = SKETCHES[0] + 1j * SKETCHES[1]
    honest = [client().encrypt(values) for values in SKETCHES[2:]]
    expected = SKETCHES[0] + SKETCHES[2] + SKETCHES[3]
    total = sum_sketches([complex_encryption(hidden * scale.amplitude), *honest])
    opened = open_sum(make_validator().secret, total, scale)
    assert np.abs(opened.real - expected).max() < 0.5
    assert not binding_holds(make_validator().secret, total, expected, scale)
    real = complex_encryption(SKETCHES[0] * scale.amplitude + 0j)
    assert binding_holds(make_validator().secret, sum_sketches([real, *honest]), expected, scale)


def test_a_sketch_above_the_bound_is_refused_by_its_own_client() -> None:
    client().encrypt(example_sketch(1, norm=1.15 * 32 * NORM))
    with pytest.raises(CapacityError, match=r"1.25 times the largest"):
        client().encrypt(example_sketch(1, norm=1.25 * 32 * NORM))


def test_scales_out_of_range_are_refused() -> None:
    for bound in (0.0, 0.5, float("nan"), float("inf"), 2.0**41):
        with pytest.raises(CapacityError, match="largest measured norm"):
            SketchScale(bound)
    with pytest.raises(CryptoError, match="3 sketch groups"):
        SketchScale(100.0, 3)


def test_one_sketch_is_no_sum() -> None:
    with pytest.raises(CryptoError, match="at least two"):
        sum_sketches([client().encrypt(SKETCHES[0])])


def test_malformed_ciphertexts_are_refused_by_name() -> None:
    data = client().encrypt(SKETCHES[0])
    cases = {
        "expected exactly": data + b"\0",
        "parameter id": SKETCH_SUM._head + data[40:],
        "scale": data[:32] + np.array([2.0**41]).tobytes() + data[40:],
        "second polynomial is zero": data[: 40 + 18 * 8192] + bytes(18 * 8192),
        "not below its prime": data[:40] + b"\xff" * 8 + data[48:],
    }
    for message, damaged in cases.items():
        with pytest.raises(CiphertextError, match=message):
            SKETCH.read(damaged)
    with pytest.raises(CiphertextError, match="expected uint64"):
        SKETCH.write(np.zeros((2, 2, 8192), dtype=np.uint64))
    wrong = np.zeros(SLOTS, dtype=np.float64)
    with pytest.raises(CryptoError, match="expected int64"):
        client().encrypt(wrong)  # type: ignore[arg-type]
    with pytest.raises(CryptoError, match="expected int64"):
        binding_holds(make_validator().secret, b"", wrong, example_scale())  # type: ignore[arg-type]
