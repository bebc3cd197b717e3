"""Terms of test federations in privacy mode ``shared-noise``, as `charter new --privacy
shared-noise --spare-rounds` calibrates them.

The launcher runs ``warm_up`` (``Launcher.load``), so that the parties forked from it find the
accountant's caches filled; each would need seconds for the same figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedfm_audit.privacy.accountant import spent
from fedfm_audit.privacy.shared_noise import SharedNoise
from fedfm_crypto.discrete_noise import Mechanism
from fedfm_protocols.thresholds import Thresholds
from secure_fedfm.founding import largest_scale
from secure_fedfm.learning.specs import HEAD_ONLY, AdapterSpec
from secure_fedfm.privacy.recipe import DEFAULT_CLIP, SharedNoiseRequest

CLIENTS, STEPS = 4, 6
LIMITS = Thresholds(CLIENTS, 1, 1)


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """What is asked for, for which adapter, and how many values that has on the test's model."""

    request: SharedNoiseRequest
    adapter: AdapterSpec
    values: int

    @property
    def sessions(self) -> int:
        """How many sessions the budget has room for."""
        return self.request.rounds + self.request.spare_rounds

    def warm_up(self) -> None:
        """Fill the accountant's caches with all that a federation of these terms will ask."""
        import secure_fedfm.privacy.gate  # noqa: F401 - brings opacus

        request = self.request
        scale = largest_scale(2 * CLIENTS, request.bound(CLIENTS), 32)
        sections = request.sections(LIMITS, values=self.values, scale=scale)
        event = SharedNoise(
            mechanism=request.mechanism,
            clip=request.clip,
            scale=scale,
            dimension=self.values,
            honest_shares=sections.privacy["honest_shares"],
            sampling_rate=request.sampling_rate,
            steps=request.steps_per_round,
        ).event(sections.privacy["noise_multiplier"])
        for sessions in range(1, self.sessions + 2):
            spent([event] * sessions, request.delta)


def _request(
    epsilon: float,
    rounds: int,
    spare: int,
    rate: float,
    *,
    clip: float = DEFAULT_CLIP,
    mechanism: Mechanism = "discrete-gaussian",
) -> SharedNoiseRequest:
    return SharedNoiseRequest(
        epsilon=epsilon,
        rounds=rounds,
        expected_rows=20,
        sampling_rate=rate,
        steps_per_round=STEPS,
        clip=clip,
        mechanism=mechanism,
        spare_rounds=spare,
    )


HEAD = AdapterSpec(targets=HEAD_ONLY)
# Skellam noise is accounted by Renyi divergence alone, which takes no time.
DISTURBED = SessionTerms(_request(8.0, 4, 1, 0.5, mechanism="skellam"), HEAD, 99)
SOAKED = SessionTerms(_request(8.0, 2, 30, 0.5, mechanism="skellam"), HEAD, 99)
# Little noise, all rows in every step, every gradient clipped, and many values: an upload that told
# something of what its client trained would show it.
LONG = SessionTerms(_request(50.0, 2, 1, 1.0, clip=0.02), AdapterSpec(rank=52, alpha=52), 93_571)
