"""HKDF-SHA-256 through our wrapper: RFC 5869 and Wycheproof vectors, and label separation."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from fedfm_crypto.errors import CryptoError
from fedfm_crypto.hashing import length_prefixed
from fedfm_crypto.kdf import MAX_DERIVED, derive_key, hkdf_sha256
from fedfm_crypto.labels import Label
from fedfm_crypto.secret import Secret


def test_rfc_5869(nist_vectors: Callable[[str], list[dict[str, str]]]) -> None:
    vectors = nist_vectors("KDF/rfc-5869-HKDF-SHA256.txt")
    assert len(vectors) == 3
    for vector in vectors:
        derived = hkdf_sha256(
            Secret(bytes.fromhex(vector["IKM"])),
            salt=bytes.fromhex(vector.get("salt", "")),
            info=bytes.fromhex(vector.get("info", "")),
            length=int(vector["L"]),
        )
        assert derived.reveal().hex() == vector["OKM"]


def test_wycheproof(wycheproof: Callable[[str], list[dict[str, Any]]]) -> None:
    outcomes: Counter[str] = Counter()
    for case in wycheproof("hkdf_sha256"):
        outcomes[case["result"]] += 1
        secret = Secret(bytes.fromhex(case["ikm"]))
        arguments = {name: bytes.fromhex(case[name]) for name in ("salt", "info")}
        if case["result"] == "valid":
            derived = hkdf_sha256(secret, length=case["size"], **arguments)
            assert derived.reveal().hex() == case["okm"]
        else:
            with pytest.raises(CryptoError, match="HKDF length"):
                hkdf_sha256(secret, length=case["size"], **arguments)
    assert outcomes == {"valid": 83, "invalid": 3}


def test_derive_key_is_hkdf_with_the_label_in_info() -> None:
    secret = Secret(bytes(range(32)))
    info = length_prefixed(Label.SHARE_KEY, b"dealer", b"recipient")
    extracted = hmac.digest(bytes(32), secret.reveal(), hashlib.sha256)
    expected = hmac.digest(extracted, info + b"\x01", hashlib.sha256)
    assert derive_key(Label.SHARE_KEY, secret, b"dealer", b"recipient").reveal() == expected


def test_keys_differ_by_secret_label_and_context() -> None:
    secret = Secret(bytes(range(32)))
    keys = [
        derive_key(Label.SHARE_KEY, secret, b"a", b"bc"),
        derive_key(Label.SHARE_KEY, secret, b"ab", b"c"),
        derive_key(Label.SHARE_KEY, secret, b"abc"),
        derive_key(Label.SHARE_KEY, secret),
        derive_key(Label.SELF_MASK, secret, b"a", b"bc"),
        derive_key(Label.SHARE_KEY, Secret(bytes(32)), b"a", b"bc"),
    ]
    assert len({key.reveal() for key in keys}) == len(keys)
    assert all(len(key) == 32 for key in keys)


@pytest.mark.parametrize("length", [0, -1, MAX_DERIVED + 1])
def test_impossible_lengths_are_refused(length: int) -> None:
    with pytest.raises(CryptoError, match="expected 1"):
        derive_key(Label.SELF_MASK, Secret(bytes(32)), length=length)
    assert len(derive_key(Label.SELF_MASK, Secret(bytes(32)), length=MAX_DERIVED)) == MAX_DERIVED
