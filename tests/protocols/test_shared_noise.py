"""Privacy mode `shared-noise`: what a sum of encoded gradients carries, and what is refused.

No protocol here: clients encode, their lane words are added as masks leave them, the sum is
decoded.  The truth is known, so what is left of an opened sum without it is rounding and noise.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fedfm_crypto.errors import CapacityError, CryptoError, NonFiniteError
from fedfm_crypto.lanes import add_lanes
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.sensitivity import squared_norm, sum_sensitivity
from fedfm_protocols.charter import Charter, make_charter
from fedfm_protocols.errors import CharterError
from fedfm_protocols.privacy import UpdateEncoding
from tests.protocols.federations import charter_fields, make_keys

VALUES, SCALE, BOUND = 60_000, 1 << 10, 64.0
PRIVACY: dict[str, Any] = {
    "mode": "shared-noise",
    "epsilon": 8.0,
    "delta": 1e-5,
    "noise_multiplier": 1.25,
    "sampling_rate": 0.1,
    "steps_per_round": 50,
    "clip": 1.0,
    "mechanism": "discrete-gaussian",
    "honest_shares": 4,
    "batch": 200.0,
}
QUANTISER = {"values": VALUES, "clip": BOUND, "scale": SCALE, "lane_bits": 32}


def charter(clients: int = 6, **changes: Any) -> Charter:
    fields = {"privacy": PRIVACY, "quantiser": QUANTISER, "suite": "layered", **changes}
    return make_charter(charter_fields(make_keys(clients), **fields))


def opened(
    encoding: UpdateEncoding, sums: list[NDArray[np.float64]], seed: bytes = b"noise"
) -> NDArray[np.float64]:
    """Encode every client's sum and add the words up in the lanes."""
    total = np.zeros(encoding.lanes, dtype=np.uint32)
    for number, one in enumerate(sums):
        words = encoding.encode(one, b"", SeededRandom(seed + bytes([number])))
        add_lanes(total, words, encoding.quantiser.lane_bits)
    return encoding.decode(total, b"")


@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
@pytest.mark.parametrize("accepted", [6, 5])  # nobody dropped out, one did
def test_an_opened_sum_is_the_true_sum_with_the_noise_that_is_claimed(
    mechanism: str, accepted: int
) -> None:
    agreed = charter(privacy={**PRIVACY, "mechanism": mechanism})
    assert agreed.thresholds.min_accepted == 5
    rng = np.random.default_rng(7)
    # On the grid, so that nothing is rounded and the difference is noise alone.
    sums = [rng.integers(-SCALE, SCALE, VALUES) / SCALE for _ in range(accepted)]
    difference = opened(agreed.encoding, sums) - np.sum(sums, axis=0)
    steps = np.rint(difference * SCALE).astype(np.int64)
    assert np.array_equal(steps / SCALE, difference)
    share = (1.25 * 1.0 * SCALE) ** 2 / 4
    expected = accepted * share
    assert float(np.var(steps)) == pytest.approx(expected, rel=0.02)
    assert abs(float(np.mean(steps))) < 5 * math.sqrt(expected / VALUES)
    # With one of them colluding, what is left is what the ledger charges for, or more.
    assert (accepted - 1) / accepted * float(np.var(steps)) > 0.98 * (1.25 * SCALE) ** 2
    edges = np.quantile(steps, np.linspace(0, 1, 41)[1:-1])
    counts = np.histogram(steps, [-np.inf, *edges, np.inf])[0]
    law = stats.norm(scale=math.sqrt(expected))
    probabilities = np.diff([0.0, *law.cdf(edges - 0.5), 1.0])
    assert stats.chisquare(counts, probabilities * VALUES).pvalue > 1e-4


def test_a_small_grid_shows_the_discrete_gaussian_value_by_value() -> None:
    """Noise a few steps wide: every integer's frequency against the law of the sum."""
    agreed = charter(
        privacy={**PRIVACY, "honest_shares": 5, "noise_multiplier": 1.0},
        quantiser={**QUANTISER, "scale": 24},
    )
    steps = np.rint(opened(agreed.encoding, [np.zeros(VALUES)] * 6) * 24).astype(np.int64)
    sigma = math.sqrt(6 / 5) * 24
    values = np.arange(-100, 101)
    weights = np.exp(-(values.astype(float) ** 2) / (2 * sigma**2))
    probabilities = weights / weights.sum()
    inside = np.abs(values) <= 60
    counts = np.array([np.count_nonzero(steps == value) for value in values[inside]])
    rest = VALUES - counts.sum()
    expected = np.append(probabilities[inside], 1 - probabilities[inside].sum()) * VALUES
    assert stats.chisquare(np.append(counts, rest), expected).pvalue > 1e-4
    # The same counts do not fit a sum that lacks one of the six shares.
    wrong = np.exp(-(values.astype(float) ** 2) / (2 * (5 / 6) * sigma**2))
    wrong /= wrong.sum()
    fewer = np.append(wrong[inside], 1 - wrong[inside].sum()) * VALUES
    assert stats.chisquare(np.append(counts, rest), fewer).pvalue < 1e-9


def test_without_noise_the_sum_is_the_pooled_sum_to_rounding() -> None:
    encoding = charter().encoding
    rng = np.random.default_rng(3)
    sums = [rng.normal(0, 3, VALUES) for _ in range(5)]
    grid = sum(
        encoding.round_sum(one, SeededRandom(bytes([number]))) for number, one in enumerate(sums)
    )
    assert float(np.abs(grid / SCALE - np.sum(sums, axis=0)).max()) < 5 / SCALE


@pytest.mark.parametrize("seed", range(20))
def test_neighbouring_sums_stay_within_the_sensitivity_exactly(seed: int) -> None:
    """One record more or less: clamp and rounding with the same dither, in exact integers."""
    size = 500
    encoding = charter(quantiser={**QUANTISER, "values": size, "clip": 2.0, "scale": 32}).encoding
    rng = np.random.default_rng(seed)
    total = rng.normal(0, 1.5, size)  # some values beyond the clamp
    record = rng.normal(0, 1, size)
    if seed % 2:  # all of it in a few coordinates
        record[3:] = 0
    record *= 1.0 / np.linalg.norm(record)
    rounded = [encoding.round_sum(vector, SeededRandom(seed)) for vector in (total, total + record)]
    bound = sum_sensitivity(1.0, 32, size)
    assert np.abs(rounded[0]).max() <= encoding.largest_step == 64
    assert 0 < squared_norm(rounded[1] - rounded[0]) <= math.floor(bound**2)
    if seed % 2:  # with dither of its own for each, the other coordinates would differ too
        assert not (rounded[1] - rounded[0])[3:].any()
        other = encoding.round_sum(total + record, SeededRandom(seed + 1000))
        assert (other - rounded[0])[3:].any()


def test_what_is_not_finite_is_refused_and_what_is_too_large_is_clamped() -> None:
    encoding = charter().encoding
    total = np.zeros(VALUES)
    total[5] = np.nan
    with pytest.raises(NonFiniteError, match="value 5"):
        encoding.encode(total, b"", SeededRandom(1))
    total[5] = 1e9
    assert encoding.round_sum(total, SeededRandom(1))[5] == encoding.largest_step
    assert "clip of 64" in encoding.clipped(total)


def test_who_is_left_out_of_the_smallest_sum_is_the_coalition() -> None:
    agreed = charter()
    assert agreed.privacy.mode == "shared-noise"
    assert agreed.privacy.coalition(agreed.thresholds) == 1
    everybody = charter(privacy={**PRIVACY, "honest_shares": 5})
    assert everybody.privacy.mode == "shared-noise"
    assert everybody.privacy.coalition(everybody.thresholds) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "clear"}, "suite clear.*small share"),
        ({"suite": "sealed"}, "suite sealed.*ADR 0016"),
        ({"privacy": {**PRIVACY, "honest_shares": 3}}, "honest_shares is 3; expected 4 .* to 5"),
        ({"privacy": {**PRIVACY, "honest_shares": 6}}, "honest_shares is 6; expected 4 .* to 5"),
        ({"privacy": {**PRIVACY, "steps_per_round": 1025}}, "steps_per_round"),
        ({"privacy": {**PRIVACY, "batch": 0.0}}, "batch"),
        ({"privacy": {**PRIVACY, "sampling_rate": 1.5}}, "sampling_rate"),
        ({"privacy": {**PRIVACY, "noise_multiplier": 0.0}}, "noise_multiplier"),
        ({"privacy": {k: v for k, v in PRIVACY.items() if k != "batch"}}, "batch"),
        ({"privacy": {**PRIVACY, "rotation": False}}, "rotation"),
        ({"quantiser": {**QUANTISER, "scale": 8}}, "raise quantiser.scale"),
        ({"quantiser": {**QUANTISER, "scale": 1 << 25}}, "does not fit lanes"),
        ({"quantiser": {**QUANTISER, "scale": 1 << 23}}, "overflows a lane"),
        ({"privacy": {**PRIVACY, "noise_multiplier": 1e6}}, "overflows a lane"),
    ],
)
def test_a_charter_that_breaks_the_promise_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CharterError, match=message):
        charter(**changes)


def test_the_overflow_rule_counts_values_and_noise() -> None:
    """Just at the edge: the values alone leave room, with the noise they do not."""
    room = {**QUANTISER, "scale": 1 << 19}
    charter(quantiser=room)
    encoding = charter(quantiser=room).encoding
    assert 6 * encoding.largest_step < 1 << 31
    with pytest.raises(CharterError, match=r"overflows a lane .* 2\^-40"):
        charter(quantiser={**room, "clip": 682.6}, privacy={**PRIVACY, "noise_multiplier": 40.0})


def test_other_modes_share_no_noise() -> None:
    encoding = charter(privacy={"mode": "none"}, quantiser={**QUANTISER, "scale": 4}).encoding
    with pytest.raises(CryptoError, match="shares no noise"):
        encoding._shares()
    assert issubclass(CapacityError, CryptoError)
