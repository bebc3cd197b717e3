"""Privacy mode `client`: what noise the opened sum carries, and what an update may be.

The truth is known here: with zero updates the opened sum is noise and nothing else.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.charter import make_charter
from fedfm_protocols.errors import CharterError
from fedfm_protocols.messages import Upload, type_name
from fedfm_protocols.privacy import clip_norm
from tests.protocols.federations import charter_fields, make_keys, make_simulation

VALUES, SCALE, CLIP, NOISE = 60_000, 16, 8.0, 1.5
PRIVACY = {
    "mode": "client",
    "epsilon": 8.0,
    "delta": 1e-5,
    "noise_multiplier": NOISE,
    "clip_l2": CLIP,
    "mechanism": "discrete-gaussian",
    "rotation": False,
}
QUANTISER = {"values": VALUES, "clip": CLIP, "scale": SCALE, "lane_bits": 32}


def zeros(name: str, number: int, step: int) -> NDArray[np.float64]:
    del name, number, step
    return np.zeros(VALUES)


def losing_upload_of(lost: str) -> Any:
    def intercept(sender: str, recipient: str, envelope: Envelope) -> Any:
        if sender == lost and envelope.header.type == type_name(Upload):
            return ()
        return ((recipient, envelope),)

    return intercept


@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
@pytest.mark.parametrize("lost", [None, "client-02"])
def test_the_opened_sum_carries_the_noise_that_is_claimed(mechanism: str, lost: str | None) -> None:
    simulation = make_simulation(
        6, privacy={**PRIVACY, "mechanism": mechanism}, quantiser=QUANTISER, suite="masked"
    )
    simulation.updates = zeros
    if lost is not None:
        lost = simulation.federation.clients[1]
        simulation.intercept = losing_upload_of(lost)
    finished = simulation.run_round(1)
    assert finished.outcome == "completed", finished.reason
    assert len(finished.accepted) == (6 if lost is None else 5)
    total = simulation.clients[finished.accepted[0]].totals[0]
    steps = np.rint(total * SCALE).astype(np.int64)
    assert np.array_equal(steps / SCALE, total)
    thresholds = simulation.federation.thresholds
    least = thresholds.min_accepted - thresholds.colluding
    # Zero rounds to zero, so the sum is noise alone: one share for each accepted client.
    share = (NOISE * CLIP * SCALE) ** 2 / least
    expected = len(finished.accepted) * share
    assert float(np.var(steps)) == pytest.approx(expected, rel=0.02)
    assert abs(float(np.mean(steps))) < 5 * math.sqrt(expected / VALUES)
    # What the ledger charges for is never more than what is there.
    assert float(np.var(steps)) > 0.98 * (NOISE * CLIP * SCALE) ** 2
    edges = np.quantile(steps, np.linspace(0, 1, 21)[1:-1])
    counts = np.histogram(steps, [-np.inf, *edges, np.inf])[0]
    law = stats.norm(scale=math.sqrt(expected))
    probabilities = np.diff([0.0, *law.cdf(edges - 0.5), 1.0])
    assert stats.chisquare(counts, probabilities * VALUES).pvalue > 1e-4


def test_without_the_noise_the_check_above_would_fail() -> None:
    """What it measures is noise: in mode none the sum of zeros is zero."""
    simulation = make_simulation(4, quantiser=QUANTISER, suite="masked")
    simulation.updates = zeros
    assert simulation.run_round(1).outcome == "completed"
    assert not simulation.clients["client-01"].totals[0].any()


@pytest.mark.parametrize("rotation", [False, True])
def test_an_update_is_clipped_as_a_whole_and_comes_back(rotation: bool) -> None:
    values, scale = 3000, 4096
    quantiser = {"values": values, "clip": 1.0, "scale": scale, "lane_bits": 32}
    privacy = {**PRIVACY, "clip_l2": 1.0, "noise_multiplier": 1e-3, "rotation": rotation}
    simulation = make_simulation(4, privacy=privacy, quantiser=quantiser, suite="masked")
    assert simulation.federation.lane_count == (4096 if rotation else values)
    rng = np.random.default_rng(1)
    directions = {name: rng.normal(size=values) for name in simulation.federation.clients}
    simulation.updates = lambda name, number, step: 50 * directions[name]
    finished = simulation.run_round(1)
    assert finished.outcome == "completed", finished.reason
    expected = sum(clip_norm(50 * directions[name], 1.0) for name in finished.accepted)
    total = simulation.clients[finished.accepted[0]].totals[0]
    assert total.shape == (values,)
    # Six standard deviations of the noise, and rounding.
    assert float(np.abs(total - expected).max()) < 40 / scale
    for name in finished.accepted:
        assert any("norm" in note for note in simulation.clients[name].notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"privacy": PRIVACY, "quantiser": {**QUANTISER, "clip": 4.0}}, "they are one clip"),
        (
            {
                "privacy": {**PRIVACY, "noise_multiplier": 50.0},
                "quantiser": {**QUANTISER, "scale": 4096, "lane_bits": 24},
            },
            "overflows a lane",
        ),
        ({"privacy": {**PRIVACY, "epsilon": -1.0}}, "privacy"),
        ({"privacy": {**PRIVACY, "mechanism": "laplace"}}, "mechanism"),
        ({"privacy": {"mode": "local", "epsilon": 8.0}}, "privacy"),
        ({"privacy": {"mode": "none", "epsilon": 8.0}}, "privacy"),
        ({"privacy": {"mode": "central"}}, "privacy"),
    ],
)
def test_a_charter_that_cannot_keep_its_promise_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    keys = make_keys(5)
    with pytest.raises(CharterError, match=message):
        make_charter(charter_fields(keys, **changes))
