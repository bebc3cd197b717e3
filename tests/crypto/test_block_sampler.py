"""Block tables against 60-digit arithmetic of another library, and the rare exact paths."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_crypto.block_sampler import BlockTable, WordStream, build_table
from fedfm_crypto.noise_laws import DIGITS, GaussianLaw, Law, PoissonLaw
from fedfm_crypto.secret import Secret

ONE = 1 << 128


@pytest.fixture(autouse=True)
def _digits() -> Iterator[None]:
    with mpmath.workdps(110):
        yield


def weight(law: Law, position: int) -> Any:
    """Unnormalised probability by mpmath: exp, log and loggamma of its own."""
    variance = mpmath.mpf(law.variance.numerator) / law.variance.denominator
    if isinstance(law, GaussianLaw):
        return mpmath.exp(-(mpmath.mpf(position) ** 2) / (2 * variance))
    mode = law.variance.numerator // law.variance.denominator
    if mode + position < 0:
        return mpmath.mpf(0)
    shift = mpmath.loggamma(mode + 1) - mpmath.loggamma(mode + position + 1)
    return mpmath.exp(position * mpmath.log(variance) + shift)


def law_of(kind: str, sigma: float) -> GaussianLaw | PoissonLaw:
    variance = Fraction(sigma) ** 2
    return GaussianLaw(variance) if kind == "gaussian" else PoissonLaw(variance)


@cache
def table_of(law: GaussianLaw | PoissonLaw) -> BlockTable:
    return build_table(law)


def table_mass(table: BlockTable) -> list[int]:
    """Probability of each block, times 2^128."""
    edges = [0, *table.boundaries, ONE]
    return [above - below for below, above in pairwise(edges)]


@pytest.mark.parametrize("sigma", [0.05, 1.0, 33.3])
@pytest.mark.parametrize("kind", ["gaussian", "poisson"])
def test_a_table_without_rejection_is_as_close_as_it_says(kind: str, sigma: float) -> None:
    law = law_of(kind, sigma)
    table = build_table(law)
    assert table.block_bits == 0
    reach = math.ceil(20 * sigma) + 60
    total = mpmath.fsum(weight(law, x) for x in range(-reach, reach + 1))
    inside = mpmath.mpf(0)
    difference = mpmath.mpf(0)
    for start, mass in zip(table.starts.tolist(), table_mass(table), strict=True):
        ideal = weight(law, start) / total
        inside += ideal
        difference += abs(ideal - mpmath.mpf(mass) / ONE)
    distance = (difference + (1 - inside)) / 2
    assert distance < table.distance < 2.0**-112


@pytest.mark.parametrize("sigma", [64.0, 1e6, 2.0**40])
@pytest.mark.parametrize("kind", ["gaussian", "poisson"])
def test_block_weights_and_acceptance_ratios_match_another_library(kind: str, sigma: float) -> None:
    law = law_of(kind, sigma)
    table = table_of(law)
    assert 32 <= sigma / (1 << table.block_bits) < 64
    starts, masses = table.starts.tolist(), table_mass(table)
    weights = [weight(law, start) for start in starts]
    total = mpmath.fsum(weights)
    beyond = mpmath.mpf(0)
    for end, step in ((starts[0], -1), (starts[-1], 1)):
        following = weight(law, end + (step << table.block_bits))
        beyond += following / (1 - following / weight(law, end))
    difference = mpmath.fsum(
        abs(w / total - mpmath.mpf(mass) / ONE) for w, mass in zip(weights, masses, strict=True)
    )
    assert difference + 2 * beyond / total < table.distance < 2.0**-112
    rng = np.random.default_rng(1)
    for block in [0, len(starts) - 1, *rng.integers(0, len(starts), 40).tolist()]:
        step = int(table.steps[block])
        for place in {0, 1, (1 << table.block_bits) - 1}:
            position = starts[block] + step * place
            with localcontext(DIGITS):
                ratio = law.ratio(starts[block], position)
            error = mpmath.mpf(str(ratio)) - weight(law, position) / weights[block]
            assert abs(error) < mpmath.mpf(2) ** -130
            assert 0 < ratio <= 1


@pytest.mark.parametrize("sigma", [64.0, 90.4, 1e6, 2.0**40])
@pytest.mark.parametrize("kind", ["gaussian", "poisson"])
def test_the_fast_exponent_is_a_thousand_times_better_than_its_margin(
    kind: str, sigma: float
) -> None:
    law = law_of(kind, sigma)
    table = table_of(law)
    assert float(np.abs(table.starts).max()) < 14.5 * sigma
    size = 1 << table.block_bits
    rng = np.random.default_rng(2)
    blocks = np.concatenate([[0, 0, table.starts.size - 1], rng.integers(0, table.starts.size, 60)])
    places = np.concatenate([[size - 1, 0, size - 1], rng.integers(0, size, 60)])
    delta = table.steps[blocks] * places
    with localcontext(DIGITS):
        found = law.exponent(table.starts.tolist())(blocks, delta.astype(np.float64))
        for block, step, value in zip(blocks, delta.tolist(), found.tolist(), strict=True):
            start = int(table.starts[block])
            exact = -law.ratio(start, start + step).ln()
            assert abs(Decimal(value) - exact) < Decimal(2) ** -42
            assert exact >= 0


@pytest.mark.parametrize("mean", [Fraction(1, 3), Fraction(7), Fraction(901, 2), Fraction(4095)])
def test_poisson_recurrence_and_stirling_agree_with_factorials(mean: Fraction) -> None:
    law = PoissonLaw(mean)
    with localcontext(DIGITS):
        for start, stride in ((0, 1), (-1, -1)):
            weights = law.weights(start, stride)
            for i in range(30):
                n = law.mode + start + stride * i
                exact = (
                    mean ** (n - law.mode) * Fraction(math.factorial(law.mode), math.factorial(n))
                    if n >= 0
                    else Fraction(0)
                )
                found = Fraction(next(weights))
                assert abs(found - exact) <= exact / 10**80
        if mean > 4000:
            ratio = Fraction(law.ratio(0, 50))
            exact = mean**50 * Fraction(math.factorial(4095), math.factorial(4145))
            assert abs(ratio - exact) < exact / 10**60


class Script(WordStream):
    """A stream that yields the words given."""

    def __init__(self, *words: int) -> None:
        super().__init__(Secret(bytes(32)))
        self._words = list(words)

    def words(self, count: int) -> NDArray[np.uint64]:
        taken, self._words = self._words[:count], self._words[count:]
        assert len(taken) == count
        return np.array(taken, dtype=np.uint64)

    def left(self) -> int:
        return len(self._words)


def test_a_tie_in_the_first_word_is_broken_by_the_second() -> None:
    table = build_table(GaussianLaw(Fraction(9)))
    block = len(table.boundaries) // 2
    boundary = table.boundaries[block]
    high, low = boundary >> 64, boundary % (1 << 64)
    below, above = table.starts[block], table.starts[block + 1]
    for second, expected in ((low - 1, below), (low, above), (low + 1, above)):
        stream = Script(high, second)
        assert table.sample(1, stream).tolist() == [expected]
        assert stream.left() == 0
    # A word away, no second word is needed.
    assert table.sample(1, Script(high - 1)).tolist() == [below]
    assert table.sample(1, Script(high + 1)).tolist() == [above]


def test_the_extreme_words_give_the_outermost_blocks() -> None:
    for law in (GaussianLaw(Fraction(9)), PoissonLaw(Fraction(20)), PoissonLaw(Fraction(1, 1000))):
        table = build_table(law)
        # The outermost blocks of all are lighter than 2^-128.
        empty = table.boundaries.count(0)
        assert table.sample(1, Script(0, 0)).tolist() == [table.starts[empty]]
        top = (1 << 64) - 1
        assert table.sample(1, Script(top, top)).tolist() == [table.starts[-1]]
        assert empty < 4
    alone = build_table(GaussianLaw(Fraction(1, 1000)))
    assert alone.starts.tolist() == [0]
    assert alone.sample(1, Script((1 << 64) - 1, 5)).tolist() == [0]


def test_the_guide_answers_as_the_search_does() -> None:
    table = build_table(PoissonLaw(Fraction(300)))
    unguided = dataclasses.replace(table, _guide=np.full_like(table._guide, -1))
    words = np.random.default_rng(3).integers(0, 1 << 64, 5000, dtype=np.uint64).tolist()
    guided = table.sample(5000, Script(*words))
    np.testing.assert_array_equal(guided, unguided.sample(5000, Script(*words)))
    exact = [sum(boundary <= word << 64 for boundary in table.boundaries) for word in words[:200]]
    assert guided[:200].tolist() == [int(table.starts[i]) for i in exact]


def test_a_close_decision_is_made_with_90_digits() -> None:
    law = GaussianLaw(Fraction(10**12))
    table = build_table(law)
    block = table.starts.size // 2 + 40
    middle = (table.boundaries[block - 1] + table.boundaries[block]) >> 65
    place = (1 << table.block_bits) - 3
    start = int(table.starts[block])
    with localcontext(DIGITS):
        threshold = int(law.ratio(start, start + place) * ONE)
    high, low = threshold >> 64, threshold % (1 << 64)
    position = place << (64 - table.block_bits)
    # Just below the threshold by its second word: accepted. At it: rejected, and one more
    # candidate is drawn (accepted at once, by a word of 0).
    stream = Script(middle, position, high, low - 1)
    assert table.sample(1, stream).tolist() == [start + place]
    assert stream.left() == 0
    stream = Script(middle, position, high, low, middle, 0, 0)
    assert table.sample(1, stream).tolist() == [start]
    assert stream.left() == 0
    # At its start a block is accepted whatever the words are.
    top = (1 << 64) - 1
    stream = Script(middle, 0, top, top)
    assert table.sample(1, stream).tolist() == [start]
    assert stream.left() == 0


def test_candidates_are_rejected_as_often_as_the_law_asks() -> None:
    """Accepting all would give a staircase, too fine for a histogram to show."""
    law = PoissonLaw(Fraction(10**12))
    table = table_of(law)
    largest = max(table_mass(table)) / ONE
    # Mass of the law over that of the blocks' hats, both relative to the mode.
    expected = math.sqrt(2 * math.pi) * 1e6 * largest / (1 << table.block_bits)
    assert 1 - 2 * largest < expected < 0.995
    stream = WordStream(Secret(bytes(32)))
    accepted = sum(table._pass(1 << 15, stream).size for _ in range(30)) / (30 << 15)
    assert abs(accepted - expected) < 4 * math.sqrt(expected * (1 - expected) / (30 << 15))
