"""What a charter promises about privacy, and whether a charge keeps it.

::

    none     no claim
    local    DP-SGD in each institution with its own full noise:
             epsilon, delta, noise_multiplier, sampling_rate, steps_per_round, clip
    client   noise on whole updates, shared by the honest survivors:
             epsilon, delta, noise_multiplier, clip_l2, mechanism, rotation

The budget is each institution's own: with disjoint people, the largest epsilon is the federation's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedfm_audit.privacy.entries import Adversary, PrivacyPredicate
from fedfm_audit.privacy.events import (
    AbortedRound,
    ClearRelease,
    CompletedRound,
    GaussianSteps,
    HyperparameterTrials,
    Mechanism,
)
from fedfm_audit.thresholds import Thresholds

_ROUNDING = 1e-9  # relative; noise is computed from floats


@dataclass(frozen=True, slots=True)
class PrivacyTerms:
    """The charter's privacy section with what follows from its limits.

    ``honest_shares`` is how many shares of noise a charge may count on: one in mode ``local``, in
    mode ``client`` the least number of accepted updates less those who may collude.
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

    def planned_event(self) -> GaussianSteps:
        """A round at the charter's settings with continuous noise: what it costs at least."""
        return GaussianSteps(
            noise_multiplier=self.noise_multiplier,
            clip=self.clip,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
        )

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
        if isinstance(event, CompletedRound | AbortedRound):
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
        if self.mode == "client" and event.dimension < self.values:
            found.append(f"is of {event.dimension} coordinates; an update has {self.values}")
        return found


def read_terms(
    section: Mapping[str, Any], thresholds: Thresholds, values: int
) -> PrivacyTerms | None:
    """Terms of a charter's privacy section, which its schema has accepted; None in mode none."""
    match section["mode"]:
        case "none":
            return None
        case "local":
            return PrivacyTerms(
                mode="local",
                unit="example",
                adversary=Adversary("everyone-else", thresholds.clients - 1),
                epsilon=float(section["epsilon"]),
                delta=float(section["delta"]),
                noise_multiplier=float(section["noise_multiplier"]),
                clip=float(section["clip"]),
                sampling_rate=float(section["sampling_rate"]),
                steps=section["steps_per_round"],
                mechanism=None,
                honest_shares=1,
                values=values,
            )
        case _:
            return PrivacyTerms(
                mode="client",
                unit="client",
                adversary=Adversary("sum-observers", thresholds.colluding),
                epsilon=float(section["epsilon"]),
                delta=float(section["delta"]),
                noise_multiplier=float(section["noise_multiplier"]),
                clip=float(section["clip_l2"]),
                sampling_rate=1.0,
                steps=1,
                mechanism=section["mechanism"],
                honest_shares=thresholds.min_accepted - thresholds.colluding,
                values=values,
            )
