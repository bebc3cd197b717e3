"""What a charter promises about privacy, and whether a charge keeps it.

::

    none          no claim
    local         DP-SGD in each institution with its own full noise:
                  epsilon, delta, noise_multiplier, sampling_rate, steps_per_round, clip
    client        noise on whole updates, shared by the honest survivors:
                  epsilon, delta, noise_multiplier, clip_l2, mechanism, rotation
    shared-noise  DP-SGD of all institutions together, noise shared by the honest survivors:
                  epsilon, delta, noise_multiplier, sampling_rate, steps_per_round, clip,
                  mechanism, honest_shares, batch

The budget is each institution's own: with disjoint people, the largest epsilon is the federation's.
In mode ``shared-noise`` it is that of every record anywhere; an institution's ledger charges the
sessions that it takes part in, and no other session has a record of its own in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedfm_audit.errors import CharterViewError
from fedfm_audit.privacy.entries import Adversary, PrivacyPredicate
from fedfm_audit.privacy.events import (
    ClearRelease,
    CompletedRound,
    CompletedSession,
    GaussianSteps,
    HyperparameterTrials,
    Mechanism,
    Settlement,
)
from fedfm_audit.privacy.shared_noise import SharedNoise, SharedSteps
from fedfm_audit.thresholds import Thresholds

SHARING = ("client", "shared-noise")
"""Modes in which institutions share the noise."""
_ROUNDING = 1e-9  # relative; noise is computed from floats


@dataclass(frozen=True, slots=True)
class PrivacyTerms:
    """The charter's privacy section with what follows from its limits.

    ``honest_shares`` is how many shares of noise a charge may count on: one in mode ``local``, in
    mode ``client`` the least number of accepted updates less those who may collude, in mode
    ``shared-noise`` what the charter says.  ``adversary.colluding`` is how many institutions an
    observer may have on its side; in mode ``shared-noise`` the least number of accepted updates
    less the honest shares.  ``values`` and ``scale`` are of the quantiser.
    """

    mode: str
    unit: str
    adversary: Adversary
    epsilon: float
    delta: float
    noise_multiplier: float
    clip: float
    sampling_rate: float
    steps: int
    mechanism: str | None
    honest_shares: int
    values: int
    scale: int

    def planned_event(self) -> GaussianSteps | SharedSteps:
        """A round at the charter's settings: what it costs at least, with continuous noise; in
        mode ``shared-noise`` exactly what is charged."""
        shared = self.shared_noise
        if shared is not None:
            return shared.event(self.noise_multiplier)
        return GaussianSteps(
            noise_multiplier=self.noise_multiplier,
            clip=self.clip,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
        )

    @property
    def shared_noise(self) -> SharedNoise | None:
        """Settings of mode ``shared-noise``; None in the others."""
        if self.mode != "shared-noise":
            return None
        return SharedNoise(
            mechanism="skellam" if self.mechanism == "skellam" else "discrete-gaussian",
            clip=self.clip,
            scale=self.scale,
            dimension=self.values,
            honest_shares=self.honest_shares,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
        )

    @property
    def _unexpected(self) -> type[Settlement]:
        return CompletedRound if self.mode == "shared-noise" else CompletedSession

    def problems(self, entry: PrivacyPredicate) -> list[str]:
        """What an entry says otherwise than the charter."""
        found = []
        if entry.unit != self.unit:
            found.append(f"protects the unit {entry.unit}; the charter says {self.unit}")
        if entry.adversary != self.adversary:
            found.append("names another adversary than the charter's mode and limits give")
        stated = (entry.budget.epsilon, entry.budget.delta)
        if stated != (self.epsilon, self.delta):
            found.append(
                f"has a budget of epsilon {stated[0]:g} at delta {stated[1]:g}; the charter says "
                f"{self.epsilon:g} at {self.delta:g}"
            )
        event = entry.event
        if isinstance(event, Settlement):
            if isinstance(event, self._unexpected):
                found.append(f"settles by {event.type}, which is not for mode {self.mode}")
            return found
        if isinstance(event, ClearRelease | HyperparameterTrials):
            if entry.round != 0:
                found.append(f"charges {event.type} to round {entry.round}; that belongs to none")
            return found
        return found + (self._training(event) if entry.round else [])

    def _training(self, event: Mechanism) -> list[str]:
        found = []
        if event.noise_multiplier < self.noise_multiplier * (1 - _ROUNDING):
            found.append(
                f"charges a noise multiplier of {event.noise_multiplier:.6g}; the charter says "
                f"{self.noise_multiplier:.6g}"
            )
        for name, charged, agreed in (
            ("clip", event.clip, self.clip),
            ("sampling rate", event.sampling_rate, self.sampling_rate),
            ("number of steps", event.steps, self.steps),
        ):
            if charged != agreed:
                found.append(f"charges a {name} of {charged:g}; the charter says {agreed:g}")
        if self.mechanism is not None and event.type != self.mechanism:
            found.append(f"charges {event.type} noise; the charter says {self.mechanism}")
        if isinstance(event, GaussianSteps):
            return found
        if event.honest_shares > self.honest_shares:
            found.append(
                f"counts on {event.honest_shares} honest shares of noise; the charter's limits "
                f"leave {self.honest_shares}"
            )
        if self.mode in SHARING and event.dimension < self.values:
            found.append(f"is of {event.dimension} coordinates; an update has {self.values}")
        if self.mode == "shared-noise" and event.rounding != "sum":
            found.append(f"is of sums rounded by {event.rounding}; this mode rounds by sum")
        if self.mode in SHARING and event.scale != self.scale:
            found.append(f"is on a grid of {event.scale} steps; the charter says {self.scale}")
        return found


def read_terms(
    section: Mapping[str, Any], thresholds: Thresholds, values: int, scale: int
) -> PrivacyTerms | None:
    """Terms of a charter's privacy section, which its schema has accepted; None in mode none.

    ``values`` and ``scale`` are those of the charter's quantiser.

    Raises
    ------
    CharterViewError
        in mode ``shared-noise``, if the noise is made for more shares than the smallest sum has,
        or for fewer than are honest in it.
    """
    mode = section["mode"]
    if mode == "none":
        return None
    local, client = mode == "local", mode == "client"
    most = thresholds.min_accepted
    least = most - thresholds.colluding
    honest = 1 if local else least if client else section["honest_shares"]
    if not (local or least <= honest <= most):
        raise CharterViewError(
            f"privacy.honest_shares is {honest}; the limits leave {least} to {most}"
        )
    return PrivacyTerms(
        mode=mode,
        unit="client" if client else "example",
        adversary=(
            Adversary("everyone-else", thresholds.clients - 1)
            if local
            else Adversary("sum-observers", most - honest)
        ),
        epsilon=float(section["epsilon"]),
        delta=float(section["delta"]),
        noise_multiplier=float(section["noise_multiplier"]),
        clip=float(section["clip_l2" if client else "clip"]),
        sampling_rate=1.0 if client else float(section["sampling_rate"]),
        steps=1 if client else section["steps_per_round"],
        mechanism=None if local else section["mechanism"],
        honest_shares=honest,
        values=values,
        scale=scale,
    )
