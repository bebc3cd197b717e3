"""One claim against one suspect: is the mark there, and how sure is that?"""

from __future__ import annotations

from dataclasses import dataclass

from fedfm_audit.watermark.commitment import Opening
from fedfm_audit.watermark.directions import Directions
from fedfm_audit.watermark.response import respond
from fedfm_audit.watermark.statistic import Evidence, Trials
from fedfm_audit.watermark.suspect import Suspect


@dataclass(frozen=True, slots=True)
class Finding:
    """What a judge found.

    Attributes:
        evidence: the statistic and the matches. trials: how many chances there were.
        modules: of the claim's modules that the suspect has. of: how many the claim has.
    """

    evidence: Evidence
    trials: Trials
    modules: int
    of: int

    @property
    def present(self) -> bool:
        """Whether the mark is there."""
        return self.evidence.statistic >= self.trials.threshold

    def to_json(self) -> dict[str, object]:
        """Plain values for a report."""
        return {
            "present": self.present,
            "statistic": round(self.evidence.statistic, 4),
            "threshold": round(self.trials.threshold, 4),
            "log2_p": round(self.evidence.log2_p, 2),
            "matches": self.evidence.matches,
            "size": self.evidence.size,
            "log2_p_matches": round(self.evidence.log2_p_matches, 2),
            "logged": self.trials.logged,
            "modules": self.modules,
            "modules_of_claim": self.of,
        }


def judge(opening: Opening, suspect: Suspect, trials: Trials) -> Finding:
    """Check the opening, then measure its mark in the suspect.

    Args:
        opening: the claim with one sub-key. suspect: what may carry the mark.
        trials: how many chances a match by accident had, among them all sub-keys of the claim.

    Raises:
        ClaimError: the opening does not hold: edited, or somebody else's.
        SuspectError: the suspect cannot be judged.
        CaseError: ``trials`` counts fewer sub-keys than the claim has.
    """
    opening.check()
    trials.check_sub_keys(opening.claim.keys)
    directions = Directions(opening.claim, opening.key)
    response = respond(directions, suspect)
    evidence = Evidence.of(response.values, directions.bits())
    return Finding(evidence, trials, response.modules, len(opening.claim.modules))
