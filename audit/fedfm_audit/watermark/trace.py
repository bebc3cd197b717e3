"""Whose copy leaked: one sub-key a recipient, embedded in that recipient's copy alone.

A recipient is accused if n exp(-T^2 / 2) <= alpha, n being all sub-keys of the claim. By the union
bound the probability that anybody innocent is accused is then at most alpha, whatever the suspect
is and whoever colluded, as long as none of them knew the innocent's key.

Averaging c copies divides each of their marks by c. At alpha = 1e-3 and n = 40, on random hosts,
somebody was named in every trial up to 3 colluders with N = 256 (with 4: in 127 of 200) and up to 4
with N = 1024 (tests/soak/test_marks.py); beyond, nobody may be. A trace that accuses nobody
therefore clears nobody. Whoever holds the keys can write any recipient's mark into a copy: a trace
convinces only those who trust the holder of the keys not to have framed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedfm_audit.watermark.claim import Claim
from fedfm_audit.watermark.commitment import CommittedClaim, MarkKey
from fedfm_audit.watermark.directions import Directions
from fedfm_audit.watermark.errors import CaseError
from fedfm_audit.watermark.response import respond
from fedfm_audit.watermark.statistic import Evidence
from fedfm_audit.watermark.suspect import Suspect

DEFAULT_ALPHA = 1e-3


@dataclass(frozen=True, slots=True)
class Traced:
    """What the suspect says about one recipient; ``corrected`` is min(1, n exp(-T^2 / 2))."""

    recipient: str
    index: int
    evidence: Evidence
    corrected: float
    accused: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """All recipients, the strongest mark first."""

    alpha: float
    keys: int
    recipients: tuple[Traced, ...]

    @property
    def accused(self) -> tuple[str, ...]:
        """Names of those accused."""
        return tuple(one.recipient for one in self.recipients if one.accused)


def accusation_threshold(keys: int, alpha: float) -> float:
    """The smallest T with keys * exp(-T^2 / 2) <= alpha."""
    return math.sqrt(2 * math.log(keys / alpha))


def trace(
    committed: CommittedClaim,
    key: MarkKey,
    recipients: Mapping[str, int],
    suspect: Suspect,
    alpha: float = DEFAULT_ALPHA,
) -> Trace:
    """Measure the sub-key of every recipient in a suspect.

    Args:
        committed: a claim of purpose ``fingerprint``. key: its key.
        recipients: name -> sub-key, each sub-key at most once.
        alpha: probability that an innocent is accused; above 0 and at most 0.05.

    Raises:
        CaseError: another purpose, no recipient, one sub-key twice, or alpha out of range.
        ClaimError: the claim is not signed, or this is not its key.
        SuspectError: the suspect cannot be read.
    """
    claim = committed.claim
    _check(claim, recipients, alpha)
    key.check(committed)
    threshold = accusation_threshold(claim.keys, alpha)
    found = []
    for name, index in recipients.items():
        directions = Directions(claim, key.sub_key(claim, index))
        evidence = Evidence.of(respond(directions, suspect).values, directions.bits())
        bound = claim.keys * math.exp(-(max(evidence.statistic, 0.0) ** 2) / 2)
        accused = evidence.statistic >= threshold
        found.append(Traced(name, index, evidence, min(1.0, bound), accused))
    found.sort(key=lambda one: (-one.evidence.statistic, one.recipient))
    return Trace(alpha, claim.keys, tuple(found))


def _check(claim: Claim, recipients: Mapping[str, int], alpha: float) -> None:
    if claim.purpose != "fingerprint":
        raise CaseError(
            f"the claim is of purpose {claim.purpose}: its sub-keys are in every copy and accuse "
            "nobody; give the claim that the recipients' copies were exported under"
        )
    if not recipients or len(set(recipients.values())) != len(recipients):
        raise CaseError("recipients: expected at least one, and each sub-key at most once")
    if not 0 < alpha <= 0.05:
        raise CaseError(f"alpha {alpha}, expected above 0 and at most 0.05")
