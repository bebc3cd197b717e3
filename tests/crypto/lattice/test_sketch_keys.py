"""The validator's keys: SEAL's parameters, keys that TenSEAL accepts, nothing secret in them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from tenseal import sealapi

from fedfm_crypto.errors import CiphertextError, CryptoError, InvalidKeyError
from fedfm_crypto.lattice.scores import ScoreEvaluation
from fedfm_crypto.lattice.sketch_format import PARAMETERS, SCALE
from fedfm_crypto.lattice.sketch_keys import (
    PUBLIC_KEY,
    EncryptionKey,
    EvaluationKey,
    SketchSecretKey,
    key_ring,
)
from fedfm_crypto.lattice.tenseal_format import open_context, tenseal_reals, write_context
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from tests.crypto.lattice.sketching import make_validator


def test_the_chain_is_seals_choice() -> None:
    chain = sealapi.CoeffModulus.Create(8192, [60, 40, 40, 60])
    assert tuple(modulus.value() for modulus in chain) == PARAMETERS.primes


def test_tenseal_works_with_our_keys() -> None:
    validator = make_validator()
    context = open_context(
        write_context(
            PARAMETERS, PUBLIC_KEY.write(validator.encryption.pair),
            PARAMETERS.write_secret_key(validator.secret.transformed()), SCALE,
        )
    )  # fmt: skip
    values = [1.5, -2.25, 1000.0]
    assert tenseal_reals(context, values).decrypt() == pytest.approx(values, abs=1e-6)


def test_the_evaluation_key_holds_the_square_of_the_secret() -> None:
    """b_j + a_j s - P s^2 (modulo q_j only) is a centred binomial error."""
    validator, ring = make_validator(), key_ring()
    secret = validator.secret.transformed()
    square = ring.scale(ring.multiply(secret, secret), [PARAMETERS.primes[-1]] * 4)
    for j, (b, a) in enumerate(validator.evaluation.pairs):
        only = ring.zeros()
        only[j] = square[j]
        rest = ring.inverse(ring.subtract(ring.add(b, ring.multiply(a, secret)), only))
        for row, prime in zip(rest, PARAMETERS.primes, strict=True):
            signed = np.where(row > prime // 2, row.astype(np.int64) - prime, row.astype(np.int64))
            assert int(np.abs(signed).max()) <= 21
            assert 9 < float(signed.var()) < 12


def test_keys_follow_from_the_seed_and_epochs_differ() -> None:
    one, same = make_validator(), SketchSecretKey.generate(SeededRandom(1)).public_keys()
    other = SketchSecretKey.generate(SeededRandom(2))
    assert same[0].to_bytes() == one.encryption.to_bytes()
    assert same[1].to_bytes() == one.evaluation.to_bytes()
    assert (one.secret.ternary() != other.ternary()).any()
    assert other.public_keys()[0].seed != one.encryption.seed


def test_the_wire_form_is_exact() -> None:
    validator = make_validator()
    encryption, evaluation = validator.encryption.to_bytes(), validator.evaluation.to_bytes()
    assert (len(encryption), len(evaluation)) == (262_176, 786_464)
    assert (EncryptionKey.from_bytes(encryption).b == validator.encryption.b).all()
    assert (EvaluationKey.from_bytes(evaluation).b == validator.evaluation.b).all()
    for damaged in (encryption[:-1], encryption + b"\0", encryption[:31], b""):
        with pytest.raises(CiphertextError):
            EncryptionKey.from_bytes(damaged)


def test_keys_of_different_epochs_do_not_mix() -> None:
    other = SketchSecretKey.generate(SeededRandom(2)).public_keys()
    with pytest.raises(CryptoError, match="different seeds"):
        ScoreEvaluation(make_validator().encryption, other[1])


def test_the_secret_does_not_show() -> None:
    secret = make_validator().secret
    assert "redacted" in repr(secret)
    assert secret.seed.reveal().hex() not in repr(secret) + repr(make_validator().encryption)
    with pytest.raises(InvalidKeyError, match="31 bytes"):
        SketchSecretKey(Secret(bytes(31)))
    with pytest.raises(InvalidKeyError, match="public seed"):
        EncryptionKey(b"", make_validator().encryption.b)


def test_the_formats_need_neither_numba_nor_tenseal() -> None:
    code = (
        "import sys, fedfm_crypto.lattice.sketch_format; "
        "sys.exit(bool({'numba', 'tenseal'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
