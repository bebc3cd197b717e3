"""Shamir sharing: the prime, precomputed shares of others, properties, refusals."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfm_crypto import shamir
from fedfm_crypto.errors import ShareError
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from fedfm_crypto.shamir import PRIME, SHARE_SIZE, Share, reconstruct, split


def is_probable_prime(n: int) -> bool:
    """Miller-Rabin with the first 40 primes as bases: error below 4^-40 for a random n."""
    small = [p for p in range(2, 174) if all(p % q for q in range(2, int(p**0.5) + 1))]
    if any(n % p == 0 for p in small):
        return n in small
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in small:
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def test_the_field_is_the_smallest_prime_above_2_to_256() -> None:
    assert [k for k in range(1, 298) if is_probable_prime(2**256 + k)] == [297]
    assert PRIME == 2**256 + 297
    # The test can tell: known primes pass, known strong pseudoprimes and composites do not.
    assert is_probable_prime(2**255 - 19)
    assert not is_probable_prime(3215031751)
    assert not is_probable_prime((2**61 - 1) * (2**89 - 1))


# google-parfait/federated-compute, fcp/secagg/shared/shamir_secret_sharing_test.cc: the secret
# {0, 0, 0, 33} as two subsecrets modulo 2147483659, shares at x = 1..5, threshold 3.
FCP_PRIME = 2147483659
FCP_SHARES = [
    (1892644398, 1859430940),
    (815842732, 652972492),
    (1064562320, 675592007),
    (491319503, 1927289485),
    (1243597940, 113097608),
]


@pytest.mark.parametrize("chosen", list(itertools.combinations(range(5), 3)))
def test_fcp_precomputed_shares(chosen: tuple[int, ...]) -> None:
    xs = tuple(i + 1 for i in chosen)
    secrets = [
        shamir._interpolate(xs, [FCP_SHARES[i][part] for i in chosen], 0, FCP_PRIME)
        for part in (0, 1)
    ]
    assert sorted(secrets) == [0, 33]
    for other in range(5):
        for part in (0, 1):
            ys = [FCP_SHARES[i][part] for i in chosen]
            assert shamir._interpolate(xs, ys, other + 1, FCP_PRIME) == FCP_SHARES[other][part]


def test_rfc_9591_appendix_e_1_ed25519_shares() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    secret, coefficient, *shares = (
        int.from_bytes(bytes.fromhex(text), "little")
        for text in (
            "7b1c33d3f5291d85de664833beb1ad469f7fb6025a0ec78b3a790c6e13a98304",
            "178199860edd8c62f5212ee91eff1295d0d670ab4ed4506866bae57e7030b204",
            "929dcc590407aae7d388761cddb0c0db6f5627aea8e217f4a033f2ec83d93509",
            "a91e66e012e4364ac9aaa405fcafd370402d9859f7b6685c07eed76bf409e80d",
            "d3cb090a075eb154e82fdb4b3cb507f110040905468bb9c46da8bdea643a9a02",
        )
    )
    for x, share in enumerate(shares, start=1):
        assert shamir._evaluate([secret, coefficient], x, order) == share
    for pair in itertools.combinations(range(3), 2):
        xs = tuple(i + 1 for i in pair)
        assert shamir._interpolate(xs, [shares[i] for i in pair], 0, order) == secret


@given(
    secret=st.binary(min_size=32, max_size=32),
    threshold=st.integers(2, 7),
    extra=st.integers(0, 4),
    data=st.data(),
)
def test_any_threshold_shares_in_any_order_give_the_secret(
    secret: bytes, threshold: int, extra: int, data: st.DataObject
) -> None:
    count = threshold + extra
    point = st.integers(1, 60) | st.integers(1, PRIME - 1)
    xs = data.draw(st.lists(point, min_size=count, max_size=count, unique=True))
    shares = split(Secret(secret), threshold, xs, SeededRandom(data.draw(st.integers(0, 99))))
    assert [share.x for share in shares] == xs
    chosen = data.draw(st.permutations(shares))
    assert reconstruct(chosen[:threshold], threshold).reveal() == secret
    assert reconstruct(chosen, threshold).reveal() == secret
    wire = [Share.from_bytes(share.x, share.y_bytes) for share in shares]
    assert tuple(wire) == shares


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(31) + b"\x01"])
def test_the_extreme_secrets_survive(secret: bytes) -> None:
    shares = split(Secret(secret), 3, [1, 2, 3], SeededRandom(1))
    assert reconstruct(shares, 3).reveal() == secret


def test_one_share_too_few_fits_every_secret() -> None:
    """Perfect secrecy, concretely: for t - 1 shares and ANY secret there is a polynomial."""
    shares = split(Secret(b"s" * 32), 3, [1, 2, 3], SeededRandom(1))
    for other in (0, 1, 2**256 - 1):
        point = (0, 1, 2)
        y3 = shamir._interpolate(point, [other, shares[0].y, shares[1].y], 3, PRIME)
        forged = [shares[0], shares[1], Share(3, y3)]
        assert int.from_bytes(reconstruct(forged, 3).reveal(), "big") == other


def test_coefficients_are_uniform_by_rejection_over_the_whole_field() -> None:
    # 257 bits from 33 bytes; a draw of p or more is thrown away, not reduced.
    draws = iter([b"\xff" * 33, (PRIME << 7).to_bytes(33, "big"), ((PRIME - 1) << 7).to_bytes(33)])
    assert shamir._draw_element(lambda _: next(draws)) == PRIME - 1
    elements = [shamir._draw_element(SeededRandom(seed)) for seed in range(400)]
    assert sum(element > PRIME // 2 for element in elements) in range(140, 261)
    shares = [split(Secret(bytes(32)), 2, [1, 2], SeededRandom(seed))[0].y for seed in range(50)]
    assert len(set(shares)) == 50


def test_a_corrupt_share_is_noticed_where_there_are_more_than_the_threshold() -> None:
    shares = list(split(Secret(b"s" * 32), 3, [1, 2, 3, 4], SeededRandom(1)))
    shares[1] = Share(2, (shares[1].y + 1) % PRIME)
    with pytest.raises(ShareError, match="x = 4 does not fit"):
        reconstruct(shares, 3)


def test_a_result_that_is_no_secret_is_refused() -> None:
    ys = [shamir._evaluate([2**256 + 5, 17], x, PRIME) for x in (1, 2)]
    with pytest.raises(ShareError, match="no 32-byte secret"):
        reconstruct([Share(1, ys[0]), Share(2, ys[1])], 2)


def test_non_canonical_shares_and_points_are_refused() -> None:
    assert Share.from_bytes(1, (PRIME - 1).to_bytes(SHARE_SIZE, "big")).y == PRIME - 1
    for y in (PRIME, PRIME + 1, 2**264 - 1):
        with pytest.raises(ShareError, match="not canonical"):
            Share.from_bytes(1, y.to_bytes(SHARE_SIZE, "big"))
    for length in (0, 32, 34):
        with pytest.raises(ShareError, match="expected 33"):
            Share.from_bytes(1, bytes(length))
    for x in (0, -1, PRIME, PRIME + 1):
        with pytest.raises(ShareError, match=r"expected 1\.\.p-1"):
            Share(x, 1)
        with pytest.raises(ShareError, match=r"expected 1\.\.p-1"):
            split(Secret(bytes(32)), 2, [1, x], SeededRandom(1))


def test_repeated_points_bad_thresholds_and_too_few_shares_are_refused() -> None:
    secret = Secret(b"s" * 32)
    shares = split(secret, 3, [1, 2, 3], SeededRandom(1))
    with pytest.raises(ShareError, match=r"points \[2\] appear more than once"):
        split(secret, 2, [1, 2, 2], SeededRandom(1))
    with pytest.raises(ShareError, match="more than once"):
        reconstruct([shares[0], shares[0], shares[1]], 3)
    with pytest.raises(ShareError, match="2 shares, expected at least 3"):
        reconstruct(shares[:2], 3)
    for threshold in (-1, 0, 1):
        with pytest.raises(ShareError, match="threshold"):
            split(secret, threshold, [1, 2, 3], SeededRandom(1))
        with pytest.raises(ShareError, match="threshold"):
            reconstruct(shares, threshold)
    with pytest.raises(ShareError, match="threshold 4"):
        split(secret, 4, [1, 2, 3], SeededRandom(1))
    for length in (31, 33):
        with pytest.raises(ShareError, match="expected 32"):
            split(Secret(bytes(length)), 2, [1, 2], SeededRandom(1))
