"""CountSketch: exact, linear, unbiased, with the variance that theory gives; refused when small."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedfm_crypto.errors import CapacityError, CryptoError
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.labels import Label
from fedfm_crypto.sketch import SLOTS, SketchGroup, SketchLayout, inner_products, sketch

SIZE = 16 * SLOTS
WHOLE = SketchLayout.whole(SIZE)
BEACON = bytes(range(32))


def vector(seed: int, size: int = SIZE) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(-(2**20), 2**20, size)


def four_groups(size: int) -> SketchLayout:
    """Groups of several spans, out of order and of unequal sizes."""
    e = size // 8
    return SketchLayout(
        size,
        (
            SketchGroup("head", ((0, 2 * e),)),
            SketchGroup("b", ((2 * e, 3 * e), (7 * e, size))),
            SketchGroup("a", ((3 * e, 4 * e), (5 * e, 6 * e))),
            SketchGroup("rest", ((4 * e, 5 * e), (6 * e, 7 * e))),
        ),
    )


def test_it_is_the_definition_row_by_row() -> None:
    values = vector(1)
    rows = np.zeros((8, 512), dtype=np.int64)
    for row in range(8):
        place = (0).to_bytes(8, "big") + row.to_bytes(8, "big")
        key = hash_parts(Label.SKETCH, BEACON, WHOLE.to_bytes(), place)
        stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        words = np.frombuffer(stream.update(bytes(2 * SIZE)), dtype="<u2")
        signs = 1 - 2 * (words >> 9 & 1).astype(np.int64)
        np.add.at(rows[row], words & 511, signs * values)
    assert (sketch(values, BEACON, WHOLE) == rows.reshape(-1)).all()


def test_the_format_does_not_move() -> None:
    digest = hashlib.sha256(sketch(vector(1), BEACON, WHOLE).astype("<i8").tobytes()).hexdigest()
    assert digest.startswith("8f85c3521073e202")


@pytest.mark.parametrize("layout", [WHOLE, four_groups(SIZE)], ids=["one", "four"])
def test_it_is_linear_exactly(layout: SketchLayout) -> None:
    one, other = vector(1), vector(2)
    combined = sketch(3 * one - other, BEACON, layout)
    assert (combined == 3 * sketch(one, BEACON, layout) - sketch(other, BEACON, layout)).all()


def test_the_largest_values_are_exact_and_larger_ones_refused() -> None:
    values = np.full(SIZE, 2**36, dtype=np.int64)
    assert (sketch(values, BEACON, WHOLE) == 2**36 * sketch(values >> 36, BEACON, WHOLE)).all()
    for large in (2**36 + 1, -(2**36) - 1, np.iinfo(np.int64).min):
        values[5] = large
        with pytest.raises(CapacityError, match="cannot be sketched exactly"):
            sketch(values, BEACON, WHOLE)


def estimates(one: NDArray[np.int64], other: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Estimates of <u, v> under many beacons, relative to |u| |v|."""
    scale = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    beacons = [number.to_bytes(32, "big") for number in range(count)]
    found = [
        inner_products(sketch(one, b, WHOLE), sketch(other, b, WHOLE))[0] / scale for b in beacons
    ]
    return np.array(found)


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_inner_products_are_unbiased_with_the_variance_of_theory(share: float) -> None:
    one = vector(1) + 2**20  # a mean that signs must cancel
    other = (share * one + np.sqrt(1 - share**2) * vector(2)).astype(np.int64)
    u, v = one.astype(float), other.astype(float)
    product, scale = float(u @ v), float(u @ u) * float(v @ v)
    theory = (1 + product**2 / scale - 2 * float(u**2 @ v**2) / scale) / SLOTS
    found = estimates(one, other, 50)
    error = found - product / np.sqrt(scale)
    # Four standard errors; the variance of 50 samples is within 20 % (one standard deviation).
    assert abs(float(error.mean())) < 4 * np.sqrt(theory / found.size)
    assert 0.45 < float((error**2).mean()) / theory < 1.8


def test_each_group_is_estimated_by_itself() -> None:
    layout = four_groups(SIZE * 2)
    values = vector(3, SIZE * 2)
    values[: 2 * values.size // 8] *= 100
    sketched = sketch(values, BEACON, layout)
    estimated = inner_products(sketched, sketched, groups=4)
    for number, group in enumerate(layout.groups):
        part = np.concatenate([values[a:b] for a, b in group.spans]).astype(float)
        assert estimated[number] == pytest.approx(part @ part, rel=0.2)
    assert estimated[0] > 1000 * estimated[1]


def test_what_is_outside_a_group_does_not_touch_its_slots() -> None:
    layout, values = four_groups(SIZE), vector(4)
    changed = values.copy()
    changed[: SIZE // 4] += 1  # "head"
    difference = sketch(changed, BEACON, layout) - sketch(values, BEACON, layout)
    assert difference.reshape(-1, 4)[:, 0].any()
    assert not difference.reshape(-1, 4)[:, 1:].any()


def test_beacon_and_layout_fix_the_projection() -> None:
    values = vector(5)
    renamed = SketchLayout(SIZE, (SketchGroup("other", ((0, SIZE),)),))
    first = sketch(values, BEACON, WHOLE)
    for other in (sketch(values, bytes(32), WHOLE), sketch(values, BEACON, renamed)):
        assert np.count_nonzero(first == other) < 40


def test_small_payloads_are_refused() -> None:
    with pytest.raises(CryptoError, match=r"65535 values for 4096 slots.*no sketch"):
        SketchLayout.whole(SIZE - 1)
    groups = (SketchGroup("head", ((0, 30_000),)), SketchGroup("rest", ((30_000, 10**6),)))
    with pytest.raises(CryptoError, match="'head' has 30000 values for 2048 slots"):
        SketchLayout(10**6, groups)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([((0, 500_000),), ((499_999, 10**6),)], "exactly one group"),
        ([((0, 500_000),), ((500_001, 10**6),)], "exactly one group"),
        ([((0, 500_000),), ((500_000, 10**6 - 1),)], "cover 999999"),
        ([((0, 10**6),)] * 3, "3 sketch groups"),
        ([((0, 10**6),), ((10**6, 10**6),)], "exactly one group"),
    ],
)
def test_groups_that_do_not_cover_the_vector_once_are_refused(
    spans: list[tuple[tuple[int, int], ...]], message: str
) -> None:
    groups = tuple(SketchGroup(str(n), part) for n, part in enumerate(spans))
    with pytest.raises(CryptoError, match=message):
        SketchLayout(10**6, groups)


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(CryptoError, match="expected int64"):
        sketch(vector(1).astype(np.int32), BEACON, WHOLE)
    with pytest.raises(CryptoError, match="expected int64"):
        sketch(vector(1, SIZE + 1), BEACON, WHOLE)
    with pytest.raises(CryptoError, match="beacon of 31"):
        sketch(vector(1), bytes(31), WHOLE)
    with pytest.raises(CryptoError, match="distinct names"):
        SketchLayout(SIZE, (SketchGroup("", ((0, SIZE),)),))
    with pytest.raises(CryptoError, match="at most"):
        SketchLayout.whole(2**26 + 1)
