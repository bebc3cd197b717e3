"""SEAL's byte formats against SEAL itself, through TenSEAL's bindings."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from tenseal import sealapi

from fedfm_crypto.errors import CiphertextError
from fedfm_crypto.lattice.collective import PARAMETERS, PUBLIC_KEY
from fedfm_crypto.lattice.primes import ntt_primes
from fedfm_crypto.lattice.seal_format import Scheme, SealParameters, ciphertext_layout
from fedfm_crypto.lattice.tenseal_format import (
    load_vector,
    open_context,
    read_ciphertext,
    tenseal_vector,
    write_context,
    write_vector,
)
from fedfm_crypto.lattice.wrapping import WRAP

CKKS = SealParameters(Scheme.CKKS, 4096, (*ntt_primes(4096, 54, 1), *ntt_primes(4096, 55, 1)))


def seal_context(parameters: SealParameters) -> sealapi.SEALContext:
    made = sealapi.EncryptionParameters(
        sealapi.SCHEME_TYPE.BFV if parameters.scheme is Scheme.BFV else sealapi.SCHEME_TYPE.CKKS
    )
    made.set_poly_modulus_degree(parameters.degree)
    made.set_coeff_modulus([sealapi.Modulus(q) for q in parameters.primes])
    if parameters.plain_modulus:
        made.set_plain_modulus(parameters.plain_modulus)
    return sealapi.SEALContext(made, True, sealapi.SEC_LEVEL_TYPE.TC128)


@pytest.mark.parametrize("parameters", [PARAMETERS, CKKS], ids=["BFV", "CKKS"])
def test_parameter_ids_are_seals(parameters: SealParameters) -> None:
    context = seal_context(parameters)
    assert context.parameters_set()  # SEAL's own check for 128 bits of security passes
    for identifier, primes in [
        (context.key_parms_id(), parameters.primes),
        (context.first_parms_id(), parameters.data_primes),
    ]:
        assert struct.pack("<4Q", *identifier) == parameters.identifier(primes)


def test_seal_reads_a_ciphertext_that_we_wrote(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    values = np.stack(
        [generator.integers(0, q, (2, 8192), dtype=np.uint64) for q in PARAMETERS.data_primes],
        axis=1,
    )
    path = tmp_path / "ciphertext"
    path.write_bytes(WRAP.write(values))
    loaded = sealapi.Ciphertext()
    loaded.load(seal_context(PARAMETERS), str(path))
    assert [loaded[i] for i in range(0, values.size, 97)] == values.reshape(-1)[::97].tolist()
    assert (loaded.scale, loaded.is_ntt_form(), loaded.size()) == (1.0, False, 2)
    assert (WRAP.read(path.read_bytes()) == values).all()


def test_keys_that_we_wrote_work_together_in_tenseal() -> None:
    """The secret key 1 and the public key (-a, a): encrypt, read, write, load, decrypt."""
    one = np.ones((3, 8192), dtype=np.uint64)
    minus_a = np.stack([np.full(8192, q - 1, dtype=np.uint64) for q in PARAMETERS.primes])
    context = open_context(
        write_context(
            PARAMETERS, PUBLIC_KEY.write(np.stack([minus_a, one])), PARAMETERS.write_secret_key(one)
        )
    )
    vector = tenseal_vector(context, [5, -7, 11])
    values = read_ciphertext(vector, WRAP)
    assert load_vector(context, WRAP, values, 3).decrypt() == [5, -7, 11]
    assert open_context(
        write_context(PARAMETERS, PUBLIC_KEY.write(np.stack([minus_a, one])))
    ).is_public()


def test_a_ckks_layout_has_its_scale_and_form(tmp_path: Path) -> None:
    layout = ciphertext_layout(CKKS, scale=2.0**40)
    values = np.ones(layout.shape, dtype=np.uint64)
    path = tmp_path / "ciphertext"
    path.write_bytes(layout.write(values))
    loaded = sealapi.Ciphertext()
    loaded.load(seal_context(CKKS), str(path))
    assert (loaded.scale, loaded.is_ntt_form()) == (2.0**40, True)
    for scale in (2.0**41, float("nan"), -(2.0**40)):
        with pytest.raises(CiphertextError, match="scale"):
            layout.read(ciphertext_layout(CKKS, scale).write(values))


def test_objects_for_other_parameters_are_refused() -> None:
    other = SealParameters(Scheme.BFV, 8192, PARAMETERS.primes, 786433)
    values = np.ones(WRAP.shape, dtype=np.uint64)
    with pytest.raises(CiphertextError, match="parameter id"):
        WRAP.read(ciphertext_layout(other).write(values))
    with pytest.raises(CiphertextError, match="expected exactly"):
        WRAP.read(PUBLIC_KEY.write(np.ones(PUBLIC_KEY.shape, dtype=np.uint64)))


def test_writing_checks_what_reading_would() -> None:
    with pytest.raises(CiphertextError, match="expected uint64"):
        WRAP.write(np.zeros((2, 3, 8192), dtype=np.uint64))
    with pytest.raises(CiphertextError, match="not below its prime"):
        WRAP.write(np.full(WRAP.shape, 2**60, dtype=np.uint64))


def test_the_vector_envelope_is_protobuf() -> None:
    assert write_vector(300, b"ab") == bytes([10, 2, 0xAC, 0x02, 18, 2]) + b"ab"
    assert write_vector(1, b"", 1.0) == bytes([10, 1, 1, 18, 0, 25]) + struct.pack("<d", 1.0)


def test_a_tenseal_vector_of_another_shape_is_refused() -> None:
    one = np.ones((3, 8192), dtype=np.uint64)
    context = open_context(write_context(PARAMETERS, PUBLIC_KEY.write(np.stack([one, one]))))
    vector = tenseal_vector(context, [1])
    with pytest.raises(CiphertextError, match="TenSEAL holds"):
        read_ciphertext(vector, ciphertext_layout(CKKS))
