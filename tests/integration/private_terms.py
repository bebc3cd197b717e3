"""Privacy terms of test federations, computed once: every party is forked from a process that has
called :func:`warm_up`, with the libraries and the accountant's caches that each would otherwise
fill."""

from __future__ import annotations

from functools import cache

import secure_fedfm.privacy.gate  # noqa: F401 - brings opacus
from fedfm_audit.privacy.accountant import spent
from fedfm_audit.privacy.events import GaussianSteps
from secure_fedfm.privacy.plan import PrivateTraining
from secure_fedfm.privacy.recipe import PrivacySections

ROUNDS, NOISE, RATE, STEPS = 3, 1.0, 0.5, 3
DELTA = 1e-5


@cache
def budget(rounds: int) -> float:
    """An epsilon with room for so many rounds and for no other: a little more than they cost."""
    event = GaussianSteps(noise_multiplier=NOISE, clip=1.0, sampling_rate=RATE, steps=STEPS)
    return 1.02 * spent([event] * rounds, DELTA).epsilon


def warm_up() -> None:
    """Compute every budget that a test asks for."""
    for rounds in range(1, ROUNDS + 2):
        budget(rounds)


def sections(rounds: int) -> PrivacySections:
    """A charter's sections with a budget for so many rounds."""
    return PrivacySections(
        {
            "mode": "local",
            "epsilon": budget(rounds),
            "delta": DELTA,
            "noise_multiplier": NOISE,
            "sampling_rate": RATE,
            "steps_per_round": STEPS,
            "clip": 1.0,
        },
        PrivateTraining(expected_rows=20).to_json(),
    )
