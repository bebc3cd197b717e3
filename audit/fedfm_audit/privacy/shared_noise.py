"""Mode ``shared-noise``: what its steps cost, how much noise a budget asks for, and what is left of
it when more institutions collude than it was made for.

A step is one Poisson-sampled sum over the whole federation.  Its unit is one record, wherever it
lies: clients draw their records independently with the same public rate, so the union is sampled
with that rate too.  With scale s, clip C, dimension d and multiplier z, a client's share of the
noise has deviation z s C / sqrt(h), and the sum of h shares z s C on a sensitivity of s C + sqrt(d)
(rounding with data-independent dither); both are as ``fedfm_crypto`` computes them.

Whoever knows k of the shares can take them away.  Of the smallest sum that is opened, ``accepted``
in number, accepted - k shares are then left: h of them at k = accepted - h, the *coalition* that
the charter's epsilon stands against, and fewer beyond.  A record's own institution is not counted
on either way: what it knows of the record it knows anyhow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedfm_audit.errors import PrivacyEventError, PrivacySettingError
from fedfm_audit.privacy.accountant import released_in_clear, spent
from fedfm_audit.privacy.calibration import Figure, calibrate, epsilon_by
from fedfm_audit.privacy.events import (
    DiscreteGaussianSteps,
    Event,
    HyperparameterTrials,
    LatticeSteps,
    SkellamSteps,
    least_sensitivity_squared,
)
from fedfm_crypto.discrete_noise import Mechanism
from fedfm_crypto.distributed_noise import NoiseShares
from fedfm_crypto.errors import FedFMError

SharedSteps = DiscreteGaussianSteps | SkellamSteps

_LARGEST_DISTANCE = 2.0**-112
"""Of one sample from its law, for every parameter allowed; ``fedfm_crypto.discrete_noise``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedNoise:
    """The public settings of the mode that its cost depends on; see the module's docstring.

    ``steps`` are those of one session.
    """

    mechanism: Mechanism
    clip: float
    scale: int
    dimension: int
    honest_shares: int
    sampling_rate: float
    steps: int

    def event(self, noise_multiplier: float) -> SharedSteps:
        """What a session at this noise multiplier is charged as.

        Raises
        ------
        PrivacyEventError
            if the noise is too small for the grid.
        """
        shares = self._noise(noise_multiplier)
        try:
            distance = shares.statistical_distance(self.honest_shares, self.dimension)
        except FedFMError as error:
            raise PrivacyEventError(f"noise multiplier {noise_multiplier:g}: {error}") from error
        return self._event(shares, distance)

    def _noise(self, noise_multiplier: float) -> NoiseShares:
        return NoiseShares(
            mechanism=self.mechanism,
            noise_multiplier=noise_multiplier,
            clip=self.clip,
            scale=self.scale,
            min_honest=self.honest_shares,
        )

    def _event(self, shares: NoiseShares, distance: float) -> SharedSteps:
        kind = SkellamSteps if self.mechanism == "skellam" else DiscreteGaussianSteps
        return kind(
            share_variance=shares.variance,
            honest_shares=self.honest_shares,
            clip=self.clip,
            scale=self.scale,
            rounding="sum",
            sensitivity_squared=least_sensitivity_squared(
                self.clip, self.scale, self.dimension, "sum"
            ),
            dimension=self.dimension,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
            distance=distance,
        )

    def noise_multiplier(self, epsilon: float, delta: float, *, sessions: int = 1) -> float:
        """The least noise multiplier, to four digits upwards, at which so many sessions cost
        ``epsilon`` at ``delta``: by PLD (discrete Gaussian) or RDP (Skellam), rounding and the
        distance of the samplers from the ideal law included.

        Raises
        ------
        PrivacySettingError
            if no multiplier between .2 and 10,000 does.
        """
        whole = replace(self, steps=self.steps * sessions)
        # The exact distance takes a second for every multiplier; none is above this.
        distance = self.honest_shares * self.dimension * _LARGEST_DISTANCE

        def cost(multiplier: float, figure: Figure) -> float:
            try:
                event = whole._event(whole._noise(multiplier), distance)
                return epsilon_by(figure, event, delta)
            except PrivacyEventError:  # too little noise for the grid
                return math.inf

        found = calibrate(cost, epsilon)
        if found is None:
            raise PrivacySettingError(
                f"epsilon {epsilon:g} at delta {delta:g} cannot be reached by {whole.steps} steps "
                "with noise shared on this grid; take fewer steps, a larger epsilon, or a finer "
                "grid (quantiser.scale)"
            )
        return found


@dataclass(frozen=True, slots=True)
class Collusion:
    """Epsilon against so many institutions that tell the observer their shares of the noise."""

    colluding: int
    epsilon: float


def if_more_collude(
    events: Iterable[Event], coalition: int, delta: float, *, more: int = 3, pld: bool = True
) -> tuple[Collusion, ...]:
    """What ``events`` cost against ``coalition`` institutions, for which they were charged, and
    against one to ``more`` institutions beyond; infinite as soon as no share is left.

    Only noise that is shared loses anything; what an institution added by itself stays.
    """
    listed = tuple(events)
    least = min((shares for event in listed if (shares := _shares(event))), default=0)
    rows = []
    for extra in range(min(more, least) + 1):
        lessened = [_without(event, extra) for event in listed]
        known = [event for event in lessened if event is not None]
        bare = len(known) < len(listed) or released_in_clear(known)
        epsilon = math.inf if bare else spent(known, delta, pld=pld).epsilon
        rows.append(Collusion(coalition + extra, epsilon))
    return tuple(rows)


def with_one_share(events: Iterable[Event], delta: float, *, pld: bool = True) -> float:
    """Epsilon of ``events`` if whatever hid single contributions has fallen, so that an
    institution's own sum is seen, with its own share of the noise alone."""
    alone = [_without(event, max(0, _shares(event) - 1)) for event in events]
    known = [event for event in alone if event is not None]
    return math.inf if released_in_clear(known) else spent(known, delta, pld=pld).epsilon


def _shares(event: Event) -> int:
    if isinstance(event, HyperparameterTrials):
        return _shares(event.event)
    return event.honest_shares if isinstance(event, LatticeSteps) else 0


def _without(event: Event, missing: int) -> Event | None:
    """The event with so many honest shares fewer; None if none is left."""
    if isinstance(event, HyperparameterTrials):
        rest = _without(event.event, missing)
        if isinstance(rest, DiscreteGaussianSteps | SkellamSteps):
            return replace(event, event=rest)
        return event if rest is not None else None
    if not isinstance(event, DiscreteGaussianSteps | SkellamSteps):
        return event
    if event.honest_shares <= missing:
        return None
    return replace(event, honest_shares=event.honest_shares - missing)
