"""Poisson sampling, the noised release on the integer grid, and the plan's limits."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from fedfm_audit.privacy.events import event_from_json, event_to_json
from fedfm_crypto.random_source import SeededRandom
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.privacy.plan import PrivatePlan
from secure_fedfm.privacy.release import NoiseGrid, mean_gradient, release_sum
from secure_fedfm.privacy.sampling import poisson_sample


def test_a_row_is_in_iff_its_own_word_is_below_the_rate() -> None:
    rate = 0.3
    found = poisson_sample(500, rate, SeededRandom(5))
    data = SeededRandom(5)(8 * 500)
    words = [int.from_bytes(data[8 * i : 8 * i + 8], "little") for i in range(500)]
    expected = [i for i, word in enumerate(words) if word < math.floor(Fraction(rate) * 2**64)]
    assert found.tolist() == expected
    assert found.dtype == np.int64


def test_one_more_row_changes_nobody_elses_fate() -> None:
    short, long = (poisson_sample(n, 0.2, SeededRandom(1)) for n in (300, 301))
    assert short.tolist() == [row for row in long.tolist() if row < 300]


def test_rates_at_the_ends() -> None:
    assert poisson_sample(7, 1.0, SeededRandom(1)).tolist() == list(range(7))
    assert poisson_sample(7, 2.0**-70, SeededRandom(1)).size == 0
    assert poisson_sample(0, 0.5, SeededRandom(1)).size == 0
    for rate in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ConfigurationError, match="sampling rate"):
            poisson_sample(3, rate, SeededRandom(1))


def test_batch_sizes_are_binomial() -> None:
    random = SeededRandom(2)
    sizes = np.array([poisson_sample(200, 0.1, random).size for _ in range(2000)])
    assert abs(sizes.mean() - 20) < 5 * math.sqrt(18 / 2000)
    assert abs(sizes.var() / 18 - 1) < 5 * math.sqrt(2 / 2000)


GRID = NoiseGrid(clip=0.5, scale=1 << 21, dimension=4000, noise_multiplier=1.5)


def test_noise_has_the_declared_deviation_on_the_grid() -> None:
    total = np.random.default_rng(1).normal(size=4000)
    found = release_sum(total, GRID, SeededRandom(3))
    assert GRID.sensitivity == pytest.approx(2**20 + math.sqrt(4000), rel=1e-12)
    assert GRID.sigma == 1.5 * GRID.sensitivity
    assert np.abs(found.rounded - total * GRID.scale).max() < 1
    noise = (found.noised - found.rounded) / GRID.sigma
    assert abs(noise.mean()) < 5 / math.sqrt(4000)
    assert abs((noise**2).mean() - 1) < 5 * math.sqrt(2 / 4000)
    assert found.noised.dtype == np.int64


def test_an_empty_step_is_noise_alone() -> None:
    found = release_sum(np.zeros(4000), GRID, SeededRandom(3))
    assert not found.rounded.any()
    assert np.count_nonzero(found.noised) > 3990


def test_every_release_has_noise_of_its_own() -> None:
    random = SeededRandom(3)
    first, second = (release_sum(np.zeros(4000), GRID, random).noised for _ in range(2))
    assert abs(float(np.corrcoef(first, second)[0, 1])) < 0.1


def test_the_same_dither_keeps_neighbours_within_the_integer_sensitivity() -> None:
    generator = np.random.default_rng(4)
    for seed in range(20):
        total = generator.normal(size=4000)
        row = generator.normal(size=4000)
        row *= 0.5 / np.linalg.norm(row)
        pair = [release_sum(x, GRID, SeededRandom(seed)).rounded for x in (total, total + row)]
        change = (pair[1] - pair[0]).astype(np.float64)
        assert np.linalg.norm(change) <= GRID.sensitivity
        assert np.linalg.norm(change) > 0.99 * 2**20


def test_the_mean_gradient_divides_by_the_public_constant_alone() -> None:
    noised = np.array([1 << 21, -(1 << 22), 0, 5], dtype=np.int64)
    found = mean_gradient(noised, GRID, expected_batch=8.0)
    assert found.dtype == np.float32
    assert found.tolist() == [0.125, -0.25, 0.0, np.float32(5 / 2**21 / 8)]


def test_without_noise_only_rounding_is_left() -> None:
    grid = replace(GRID, noise_multiplier=0.0)
    found = release_sum(np.full(4000, 0.25), grid, SeededRandom(1))
    assert np.array_equal(found.noised, found.rounded)
    assert np.all(found.rounded == 1 << 19)


def test_a_sum_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="3999"):
        release_sum(np.zeros(3999), GRID, SeededRandom(1))


def test_the_ledger_event_claims_no_more_noise_than_there_is() -> None:
    event = GRID.charge(0.1, 30)
    assert event_from_json(event_to_json(event)) == event
    assert event.variance == GRID.sigma**2
    assert event.sensitivity_squared == math.floor(GRID.sensitivity**2)
    # The multiplier relative to the integer sensitivity is the plan's.
    assert math.sqrt(event.variance / event.sensitivity_squared) == pytest.approx(1.5, rel=1e-9)
    assert (event.sampling_rate, event.steps, event.dimension) == (0.1, 30, 4000)
    assert 0 < event.distance < 1e-20


def test_representations_show_no_private_number() -> None:
    found = release_sum(np.full(4000, 0.123), GRID, SeededRandom(1))
    assert "[" not in repr(found)


PLAN = PrivatePlan(
    noise_multiplier=1.0, sampling_rate=0.1, steps_per_round=10, clip=0.5, expected_batch=20.0
)


def test_the_plan_goes_through_json_and_refuses_unknown_keys() -> None:
    assert PrivatePlan.from_json(PLAN.to_json()) == PLAN
    with pytest.raises(ConfigurationError, match="privacy"):
        PrivatePlan.from_json({**PLAN.to_json(), "noise": 1})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", -1.0),
        ("noise_multiplier", float("nan")),
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.5),
        ("steps_per_round", 0),
        ("clip", 0.0),
        ("clip", float("inf")),
        ("expected_batch", 0.0),
        ("head_learning_rate", 0.0),
        ("momentum", 1.0),
        ("physical_batch", 0),
        ("optimiser", "lamb"),
    ],
)
def test_wrong_values_are_named(field: str, value: object) -> None:
    data = {**PLAN.to_json(), field: value}
    with pytest.raises(ConfigurationError, match=f"privacy.{field}"):
        PrivatePlan.from_json(data)


def test_the_grid_is_fine_for_every_clip() -> None:
    for clip in (1e-6, 0.1, 1.0, 3.0, 1e6):
        grid = NoiseGrid.of(replace(PLAN, clip=clip), 100_000)
        assert grid.sensitivity / (grid.scale * clip) < 1.0007


def test_pooling_changes_the_divisor_only() -> None:
    assert PLAN.pooled(5) == replace(PLAN, expected_batch=100.0)
