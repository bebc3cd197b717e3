"""Ed25519 through our wrapper: RFC 8032 and Wycheproof vectors, and what the library accepts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedfm_crypto.errors import InvalidKeyError, SignatureError
from fedfm_crypto.identity import IdentityKey, IdentityPublicKey
from fedfm_crypto.labels import Label
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]


def add(a: Point, b: Point) -> Point:
    """Affine addition on edwards25519 (RFC 8032 5.1.4 without the speed)."""
    (x1, y1), (x2, y2) = a, b
    k = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P
    return x, y


def multiply(scalar: int, point: Point) -> Point:
    result = (0, 1)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def lift(y: int) -> Point | None:
    """A point with this y, if there is one (RFC 8032 5.1.3)."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x, y) if x * x % P == square else None


def encoded(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def small_order_points() -> set[Point]:
    """The eight points of the torsion group: multiples of L * Q of order 8, for some point Q."""
    y = 2
    while True:
        y += 1
        point = lift(y)
        if point is None:
            continue
        generator = multiply(L, point)
        if multiply(4, generator) != (0, 1):
            return {multiply(i, generator) for i in range(8)}


def test_rfc_8032_and_ed25519_reference_vectors(vector_file: Callable[[str], str]) -> None:
    lines = vector_file("asymmetric/Ed25519/sign.input").splitlines()
    assert len(lines) == 1024
    for line in lines[::4]:
        secret, public, message, signed = (bytes.fromhex(part) for part in line.split(":")[:4])
        key = IdentityKey.from_secret(Secret(secret[:32]))
        assert key.public.raw == public
        assert key.sign_raw(message) == signed[:64]
        key.public.verify_raw(signed[:64], message)


def test_wycheproof(wycheproof: Callable[[str], list[dict[str, Any]]]) -> None:
    outcomes: Counter[str] = Counter()
    for case in wycheproof("ed25519"):
        public = IdentityPublicKey(bytes.fromhex(case["group"]["publicKey"]["pk"]))
        signature, message = bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"])
        outcomes[case["result"]] += 1
        if case["result"] == "valid":
            public.verify_raw(signature, message)
        else:
            with pytest.raises(SignatureError):
                public.verify_raw(signature, message)
    assert outcomes == {"valid": 88, "invalid": 63}


def test_every_small_order_point_is_refused_and_the_library_accepts_them() -> None:
    points = small_order_points()
    assert len(points) == 8
    for point in points:
        raw = encoded(point)
        Ed25519PublicKey.from_public_bytes(raw)  # why we check
        with pytest.raises(InvalidKeyError, match="small order"):
            IdentityPublicKey(raw)


def test_the_library_verifies_anything_under_the_identity_point() -> None:
    identity = encoded((0, 1))
    Ed25519PublicKey.from_public_bytes(identity).verify(identity + bytes(32), b"any message")
    with pytest.raises(InvalidKeyError):
        IdentityPublicKey(identity)


@pytest.mark.parametrize("y", [P, P + 1, P + 2, P + 3, P + 18])
@pytest.mark.parametrize("sign", [0, 1 << 255])
def test_non_canonical_y_is_refused(y: int, sign: int) -> None:
    with pytest.raises(InvalidKeyError, match="not canonical"):
        IdentityPublicKey((y | sign).to_bytes(32, "little"))


@pytest.mark.parametrize("y", [1, P - 1])
def test_a_sign_bit_on_x_zero_is_refused(y: int) -> None:
    with pytest.raises(InvalidKeyError):
        IdentityPublicKey((y | 1 << 255).to_bytes(32, "little"))


def test_values_that_are_no_points_are_refused_and_points_are_not() -> None:
    counts: Counter[bool] = Counter()
    for y in range(2, 60):
        raw = y.to_bytes(32, "little")
        is_point = lift(y) is not None
        counts[is_point] += 1
        if is_point:
            assert IdentityPublicKey(raw).raw == raw
        else:
            with pytest.raises(InvalidKeyError, match="not a point"):
                IdentityPublicKey(raw)
    assert min(counts.values()) > 10


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_wrong_lengths_are_refused(length: int) -> None:
    with pytest.raises(InvalidKeyError, match=f"found {length} bytes, expected 32"):
        IdentityPublicKey(bytes(length))
    with pytest.raises(InvalidKeyError, match="expected 32"):
        IdentityKey.from_secret(Secret(bytes(length or 1)))


def test_a_signature_with_small_order_r_is_refused_though_the_library_accepts_it(
    random: SeededRandom,
) -> None:
    key = IdentityKey.generate(random)
    message = b"signed with nonce 0"
    identity = encoded((0, 1))
    half = bytearray(hashlib.sha512(key.secret.reveal()).digest()[:32])
    half[0] &= 248
    half[31] = half[31] & 127 | 64
    challenge = hashlib.sha512(identity + key.public.raw + message).digest()
    s = int.from_bytes(challenge, "little") * int.from_bytes(half, "little") % L
    signature = identity + s.to_bytes(32, "little")
    Ed25519PublicKey.from_public_bytes(key.public.raw).verify(signature, message)
    with pytest.raises(SignatureError, match="small order"):
        key.public.verify_raw(signature, message)


def test_s_plus_the_group_order_is_refused(random: SeededRandom) -> None:
    key = IdentityKey.generate(random)
    signature = key.sign_raw(b"m")
    s = int.from_bytes(signature[32:], "little") + L
    with pytest.raises(SignatureError, match="S >= L"):
        key.public.verify_raw(signature[:32] + s.to_bytes(32, "little"), b"m")


def test_labelled_signatures_bind_label_message_and_key(random: SeededRandom) -> None:
    key, other = IdentityKey.generate(random), IdentityKey.generate(random)
    signature = key.sign(Label.ENVELOPE, b"message")
    key.public.verify(Label.ENVELOPE, signature, b"message")
    key.public.verify_raw(
        signature, bytes([len(Label.ENVELOPE.value)]) + Label.ENVELOPE.value + b"message"
    )
    for public, label, signed, message in (
        (key.public, Label.DEALERS, signature, b"message"),
        (key.public, Label.ENVELOPE, signature, b"messagf"),
        (other.public, Label.ENVELOPE, signature, b"message"),
        (key.public, Label.ENVELOPE, signature[:-1], b"message"),
        (key.public, Label.ENVELOPE, signature + b"\0", b"message"),
        (key.public, Label.ENVELOPE, key.sign_raw(b"message"), b"message"),
    ):
        with pytest.raises(SignatureError):
            public.verify(label, signed, message)


def test_public_keys_compare_and_print_by_value(random: SeededRandom) -> None:
    key = IdentityKey.generate(random)
    same = IdentityPublicKey.from_hex(key.public.hex)
    assert same == key.public
    assert hash(same) == hash(key.public)
    assert repr(same) == f"IdentityPublicKey({key.public.raw.hex()})"
    assert repr(key) == f"IdentityKey(public={key.public.hex})"
    assert IdentityKey.from_secret(key.secret).public == key.public
    for wrong in (key.public.hex.upper(), key.public.hex + " ", "zz", ""):
        with pytest.raises(InvalidKeyError):
            IdentityPublicKey.from_hex(wrong)
