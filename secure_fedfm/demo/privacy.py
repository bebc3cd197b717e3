"""What a demo says about privacy: what the charter promises, and what its ledgers say was spent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from fedfm_audit.privacy.entries import Cumulative, figure_value
from fedfm_audit.privacy.events import Settlement
from fedfm_protocols.charter import Charter
from fedfm_protocols.privacy import LocalPrivacy
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
    """

    mode: str
    institution: str
    epsilon: float
    epsilon_pld: float | None
    epsilon_rdp: float
    delta: float
    budget: float
    per_round: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        """As metrics.json has it."""
        return asdict(self)

    def to_text(self) -> str:
        """One line for a person."""
        course = ", ".join(f"{one:.2f}" for one in self.per_round)
        return (
            f"privacy ({UNITS.get(self.mode, self.mode)}): epsilon {self.epsilon:.2f} of "
            f"{self.budget:g} spent at delta {self.delta:g} (after each round {course})"
        )


def introduction(charter: Charter) -> str:
    """What the charter promises, in one line."""
    privacy = charter.privacy
    text = f"privacy {privacy.mode}: {UNITS.get(privacy.mode, 'see the charter')}"
    if privacy.mode == "none":
        return text
    return (
        f"{text}; epsilon {privacy.epsilon:g} at delta {privacy.delta:g}, "
        f"noise multiplier {privacy.noise_multiplier:g}"
    )


def example_passes(charter: Charter, recipe: Recipe) -> float:
    """How often training sees a row, on average."""
    privacy = charter.privacy
    if isinstance(privacy, LocalPrivacy):
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
                entry.cumulative
                for entry in ledger.entries
                if not isinstance(entry.event, Settlement)
            ]
        )
    ]
    if not courses:
        return None
    institution, course = max(courses, key=lambda one: _epsilon(one[1][-1]))
    last = course[-1]
    return Spent(
        mode=str(found.charter.privacy["mode"]),
        institution=institution,
        epsilon=_epsilon(last),
        epsilon_pld=None if last.epsilon_pld is None else figure_value(last.epsilon_pld),
        epsilon_rdp=figure_value(last.epsilon_rdp),
        delta=last.delta,
        budget=float(str(found.charter.privacy["epsilon"])),
        per_round=tuple(_epsilon(one) for one in course),
    )


def _epsilon(found: Cumulative) -> float:
    bounds = [found.epsilon_rdp, found.epsilon_pld]
    return min(figure_value(bound) for bound in bounds if bound is not None)
