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
    alice = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
    alice_public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    bob = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
    bob_public = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert AgreementKey.from_secret(Secret(bytes.fromhex(alice))).public.hex() == alice_public
    assert AgreementKey.from_secret(Secret(bytes.fromhex(bob))).public.hex() == bob_public
    assert agree(alice, bob_public).hex() == agree(bob, alice_public).hex() == shared


def test_wycheproof(wycheproof: Callable[[str], list[dict[str, Any]]]) -> None:
    """Policy: refuse what is not canonical or has low order; compute everything else right.

    All vectors with a non-zero result are right answers of X25519, the "acceptable" ones too:
    points on the twist are accepted, as RFC 7748 allows.
    """
    outcomes: Counter[str] = Counter()
    for case in wycheproof("x25519"):
        canonical = int.from_bytes(bytes.fromhex(case["public"]), "little") < P
        if "NonCanonicalPublic" in case["flags"]:
            assert not canonical
        if canonical and "LowOrderPublic" not in case["flags"]:
            outcomes["computed"] += 1
            assert agree(case["private"], case["public"]) == bytes.fromhex(case["shared"])
        else:
            outcomes["not canonical" if not canonical else "low order"] += 1
            with pytest.raises(InvalidKeyError):
                agree(case["private"], case["public"])
        assert case["result"] in {"valid", "acceptable"}
        assert canonical or case["result"] == "acceptable"
    # 19 flagged NonCanonicalPublic and 10 low-order ones that are not canonical either.
    assert outcomes == {"computed": 474, "not canonical": 29, "low order": 15}


def test_the_library_accepts_13_of_the_19_non_canonical_vectors(
    wycheproof: Callable[[str], list[dict[str, Any]]],
) -> None:
    accepted = 0
    for case in wycheproof("x25519"):
        if "NonCanonicalPublic" in case["flags"]:
            private = X25519PrivateKey.from_private_bytes(bytes.fromhex(case["private"]))
            try:
                private.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(case["public"])))
            except ValueError:
                continue
            accepted += 1
    assert accepted == 13


def double(u: int) -> int | None:
    """u of twice the point with this u on y^2 = x^3 + A x^2 + x, or None for infinity."""
    below = 4 * u * (u * u + A * u + 1) % P
    return None if below == 0 else (u * u - 1) ** 2 * pow(below, -1, P) % P


@pytest.mark.parametrize(
    ("u", "doublings"), [(0, 1), (1, 2), (P - 1, 2), (ORDER_8[0], 3), (ORDER_8[1], 3)]
)
def test_low_order_points_are_refused(u: int, doublings: int) -> None:
    point: int | None = u
    for _ in range(doublings):
        assert point is not None
        point = double(point)
    assert point is None  # independent evidence that the order is at most 2^doublings
    with pytest.raises(InvalidKeyError, match="small order"):
        check_agreement_public(u.to_bytes(32, "little"))


def test_no_other_u_doubles_into_the_list() -> None:
    # u of order 8 solve (u^2 - 1)^2 = +-4 u (u^2 + A u + 1), a palindromic quartic: with
    # z = u + 1/u it is z^2 - 4 = +-4 (z + A), and u^2 - z u + 1 = 0. Solve both, collect all u.
    found = set()
    for sign in (1, -1):
        # z^2 - 4 sign z - 4 - 4 sign A = 0
        for z in square_roots_of_shifted(4 + 4 + 4 * sign * A, 2 * sign):
            found.update(square_roots_of_shifted(z * z * pow(4, -1, P) - 1, z * pow(2, -1, P)))
    assert found == set(ORDER_8)


def square_roots_of_shifted(square: int, centre: int) -> list[int]:
    """The solutions x of (x - centre)^2 = square mod P."""
    square %= P
    root = pow(square, (P + 3) // 8, P)
    if root * root % P != square:
        root = root * pow(2, (P - 1) // 4, P) % P
    return [(centre + s * root) % P for s in (1, -1)] if root * root % P == square else []


@pytest.mark.parametrize("u", [P, P + 9, 2**255 - 1, 2**255, 2**255 + 9, 2**256 - 1])
def test_non_canonical_values_are_refused(u: int) -> None:
    with pytest.raises(InvalidKeyError, match="not canonical"):
        check_agreement_public(u.to_bytes(32, "little"))


def test_wrong_lengths_are_refused(random: SeededRandom) -> None:
    for length in (0, 31, 33):
        with pytest.raises(InvalidKeyError, match="expected 32"):
            check_agreement_public(bytes(length))
        with pytest.raises(InvalidKeyError, match="expected 32"):
            AgreementKey.from_secret(Secret(bytes(length or 1)))
    key = AgreementKey.generate(random)
    check_agreement_public(key.public)
    assert repr(key) == f"AgreementKey(public={key.public.hex()})"
    assert AgreementKey.from_secret(key.secret).public == key.public


def test_both_sides_agree_and_others_do_not(random: SeededRandom) -> None:
    alice, bob, eve = (AgreementKey.generate(random) for _ in range(3))
    assert alice.exchange(bob.public) == bob.exchange(alice.public)
    assert alice.exchange(bob.public) != eve.exchange(bob.public)
