"""What a demo says about privacy: what the charter promises, and what its ledgers say was spent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path

from fedfm_audit.privacy.entries import Cumulative, figure_value
from fedfm_audit.privacy.events import Settlement
from fedfm_audit.privacy.in_words import collusion_text
from fedfm_audit.privacy.shared_noise import Collusion, if_more_collude
from fedfm_protocols.charter import Charter
from fedfm_protocols.privacy import LocalPrivacy, SharedNoisePrivacy
from secure_fedfm.cli.ledger_files import read_ledgers
from secure_fedfm.learning.recipes import Recipe

UNITS = {
    "none": "no privacy is promised",
    "local": "one row more or less, each institution with its own noise and budget",
    "client": "a whole institution's updates, noise shared by the institutions",
    "shared-noise": "one row more or less, noise shared by the institutions",
}


@dataclass(frozen=True, slots=True)
class Spent:
    """What the institution that spent most has spent, by the entries of its ledger.

    Fields:
        epsilon: the smaller of `epsilon_pld` and `epsilon_rdp`; epsilon_pld may be None.
        per_round: epsilon after each charge, in order.
        collusion: where the noise is shared, epsilon against the coalition that the charges stand
            against, and against one institution more, two more and so on; else empty.
    """

    mode: str
    institution: str
    epsilon: float
    epsilon_pld: float | None
    epsilon_rdp: float
    delta: float
    budget: float
    per_round: tuple[float, ...]
    collusion: tuple[Collusion, ...] = ()

    def to_json(self) -> dict[str, object]:
        """As metrics.json has it; null is no protection at all."""
        rows = [
            {"colluding": one.colluding, "epsilon": one.epsilon if isfinite(one.epsilon) else None}
            for one in self.collusion
        ]
        return {**asdict(self), "collusion": rows}

    def to_text(self) -> str:
        """A line for a person, and where noise is shared one on who must not collude."""
        course = ", ".join(f"{one:.2f}" for one in self.per_round)
        unit = "session" if self.mode == "shared-noise" else "round"
        text = (
            f"privacy ({UNITS.get(self.mode, self.mode)}): epsilon {self.epsilon:.2f} of "
            f"{self.budget:g} spent at delta {self.delta:g} (after each {unit} {course})"
        )
        if not self.collusion:
            return text
        stands, *more = self.collusion
        return (
            f"{text}\nthat stands against the coordinator and {stands.colluding} colluding "
            f"institution{'s' * (stands.colluding != 1)}; with more of them "
            f"{collusion_text(more) or 'no protection'}"
        )


def introduction(charter: Charter) -> str:
    """What the charter promises, in one line."""
    privacy = charter.privacy
    text = f"privacy {privacy.mode}: {UNITS.get(privacy.mode, 'see the charter')}"
    if privacy.mode == "none":
        return text
    text = (
        f"{text}; epsilon {privacy.epsilon:g} at delta {privacy.delta:g}, "
        f"noise multiplier {privacy.noise_multiplier:g}"
    )
    if isinstance(privacy, SharedNoisePrivacy):
        text += (
            f", {privacy.honest_shares} of {len(charter.clients)} institutions' shares are all "
            "of the noise"
        )
    return text


def example_passes(charter: Charter, recipe: Recipe) -> float:
    """How often training sees a row, on average."""
    privacy = charter.privacy
    if isinstance(privacy, LocalPrivacy | SharedNoisePrivacy):
        return privacy.sampling_rate * privacy.steps_per_round * charter.rounds
    return recipe.passes


def spent_in(bundle: Path) -> Spent | None:
    """Read the ledgers in a bundle; None where there are none.

    `audit verify` has recomputed the figures before.

    Raises
    ------
    FedFMError
        if the bundle cannot be read.
    """
    found = read_ledgers(bundle)
    courses = [
        (ledger.institution, charges)
        for ledger in found.ledgers
        if (
            charges := [
                entry for entry in ledger.entries if not isinstance(entry.event, Settlement)
            ]
        )
    ]
    terms = found.terms
    if not courses or terms is None:
        return None
    institution, charges = max(courses, key=lambda one: _epsilon(one[1][-1].cumulative))
    course = [entry.cumulative for entry in charges]
    last = course[-1]
    collusion: tuple[Collusion, ...] = ()
    if terms.shared_noise is not None:
        events = [entry.event for entry in charges]
        collusion = if_more_collude(events, terms.adversary.colluding, terms.delta)
    return Spent(
        mode=str(found.charter.privacy["mode"]),
        institution=institution,
        epsilon=_epsilon(last),
        epsilon_pld=None if last.epsilon_pld is None else figure_value(last.epsilon_pld),
        epsilon_rdp=figure_value(last.epsilon_rdp),
        delta=last.delta,
        budget=float(str(found.charter.privacy["epsilon"])),
        per_round=tuple(_epsilon(one) for one in course),
        collusion=collusion,
    )


def _epsilon(found: Cumulative) -> float:
    bounds = [found.epsilon_rdp, found.epsilon_pld]
    return min(figure_value(bound) for bound in bounds if bound is not None)
