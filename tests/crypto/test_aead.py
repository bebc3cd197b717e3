"""AES-256-GCM sealing: Wycheproof and NIST vectors through our wrapper, and every alteration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfm_crypto.aead import NONCE_SIZE, OVERHEAD, open_sealed, seal
from fedfm_crypto.errors import CryptoError, DecryptionError, InvalidKeyError
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret

KEY = Secret(bytes(range(32)))


def fixed(nonce: bytes, count: int) -> bytes:
    """A random source that returns the nonce of a vector."""
    assert count == NONCE_SIZE
    return nonce


def test_wycheproof(wycheproof: Callable[[str], list[dict[str, Any]]]) -> None:
    """Policy: 256-bit keys and 96-bit nonces only; other sizes cannot be expressed or are refused.

    A wrong key size is refused by name. A nonce of another size would move the border between
    nonce and ciphertext, so that the message does not authenticate.
    """
    outcomes: Counter[str] = Counter()
    for case in wycheproof("aes_gcm"):
        key, nonce, aad, message, tagged = (
            bytes.fromhex(text)
            for text in (
                case["key"],
                case["iv"],
                case["aad"],
                case["msg"],
                case["ct"] + case["tag"],
            )
        )
        if len(key) != 32:
            outcomes["key size refused"] += 1
            with pytest.raises(InvalidKeyError, match="expected 32"):
                open_sealed(Secret(key), nonce + tagged, aad)
        elif len(nonce) != NONCE_SIZE:
            outcomes["nonce size refused"] += 1
            with pytest.raises(DecryptionError):
                open_sealed(Secret(key), nonce + tagged, aad)
        elif case["result"] == "valid":
            outcomes["valid"] += 1
            assert open_sealed(Secret(key), nonce + tagged, aad) == message
            assert seal(Secret(key), message, aad, partial(fixed, nonce)) == nonce + tagged
        else:
            outcomes["invalid"] += 1
            with pytest.raises(DecryptionError):
                open_sealed(Secret(key), nonce + tagged, aad)
    assert outcomes == {
        "valid": 39,
        "invalid": 27,
        "key size refused": 211,
        "nonce size refused": 39,
    }


def test_nist_decryption_vectors(vector_file: Callable[[str], str]) -> None:
    checked: Counter[bool] = Counter()
    for block in vector_file("ciphers/AES/GCM/gcmDecrypt256.rsp").split("[Keylen = 256]")[1:]:
        if "[IVlen = 96]" not in block or "[Taglen = 128]" not in block:
            continue
        for vector in block.split("Count = ")[1:]:
            fields = dict(line.partition(" =")[::2] for line in vector.splitlines() if " =" in line)
            parts = {name: bytes.fromhex(value.strip()) for name, value in fields.items()}
            sealed = parts["IV"] + parts["CT"] + parts["Tag"]
            valid = "FAIL" not in vector
            checked[valid] += 1
            if valid:
                assert open_sealed(Secret(parts["Key"]), sealed, parts["AAD"]) == parts["PT"]
            else:
                with pytest.raises(DecryptionError):
                    open_sealed(Secret(parts["Key"]), sealed, parts["AAD"])
    assert min(checked[True], checked[False]) > 50


@given(plaintext=st.binary(max_size=80), associated=st.binary(max_size=80))
def test_round_trip(plaintext: bytes, associated: bytes) -> None:
    sealed = seal(KEY, plaintext, associated, SeededRandom(1))
    assert len(sealed) == len(plaintext) + OVERHEAD
    assert open_sealed(KEY, sealed, associated) == plaintext


def test_every_flipped_bit_and_every_cut_is_refused(random: SeededRandom) -> None:
    sealed = seal(KEY, b"share", b"round 1", random)
    for bit in range(8 * len(sealed)):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecryptionError):
            open_sealed(KEY, bytes(altered), b"round 1")
    for length in range(len(sealed)):
        with pytest.raises(DecryptionError):
            open_sealed(KEY, sealed[:length], b"round 1")


def test_another_key_or_associated_data_is_refused(random: SeededRandom) -> None:
    sealed = seal(KEY, b"share", b"round 1", random)
    for key, associated in ((Secret(bytes(32)), b"round 1"), (KEY, b"round 2"), (KEY, b"")):
        with pytest.raises(DecryptionError, match="authenticate"):
            open_sealed(key, sealed, associated)


def test_each_seal_draws_a_fresh_nonce_and_a_short_source_is_refused(random: SeededRandom) -> None:
    assert seal(KEY, b"x", b"", random) != seal(KEY, b"x", b"", random)
    with pytest.raises(CryptoError, match="random source"):
        seal(KEY, b"x", b"", lambda count: bytes(count - 1))
    with pytest.raises(InvalidKeyError):
        seal(Secret(bytes(16)), b"x", b"", random)
