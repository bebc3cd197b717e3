"""Two (or more) owners, one suspect: whose is it?

A thief can always write a mark of its own over a copy. What it cannot do is have committed to it
before the owner trained, and have it in what the owner released. So a claim stands if

1. its opening holds (signature, commitment, sub-key);
2. its commitment was witnessed in a log, before the owner's release was;
3. the release shown is the one in that log, and carries the mark;
4. the suspect carries the mark;

and of those that stand the earliest witnessed commitment wins: by leaf in one log, by the time of
the witnesses' cosignatures between two. Everything is given as arguments; whoever calls this has
verified the logs (``audit verify``, ``audit inclusion``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedfm_audit.watermark.commitment import Opening
from fedfm_audit.watermark.errors import CaseError, ClaimError
from fedfm_audit.watermark.judge import Finding, judge
from fedfm_audit.watermark.statistic import Trials
from fedfm_audit.watermark.suspect import Suspect


@dataclass(frozen=True, slots=True)
class Witnessed:
    """Where and when a log says something: origin, leaf index, and the time (seconds since 1970) at
    which a quorum of witnesses had cosigned a head that covers it."""

    log: str
    leaf: int
    time: int

    def before(self, other: Witnessed) -> bool:
        """Whether this came first. Between two logs only a strictly earlier time tells."""
        if self.log == other.log:
            return self.leaf < other.leaf
        return self.time < other.time


@dataclass(frozen=True, slots=True)
class LoggedRelease:
    """What an owner released.

    Attributes:
        suspect: the release itself. tensors: its tensor hash, computed by the judge.
        witnessed: the leaf that states a release. stated: the tensor hash in that leaf.
    """

    suspect: Suspect
    tensors: bytes
    witnessed: Witnessed
    stated: bytes


@dataclass(frozen=True, slots=True)
class Contender:
    """One side of a dispute.

    Attributes:
        name: what to call it. opening: claim and sub-key, burnt by showing it.
        committed: where the commitment stands; None if in no log.
        commitments: how many mark commitments that log has before round 1.
        release: the owner's own; None if it has none to show.
    """

    name: str
    opening: Opening
    committed: Witnessed | None
    commitments: int
    release: LoggedRelease | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a contender came out. ``refused`` is the reason why its claim does not stand, or empty;
    findings are None where it did not come to that."""

    name: str
    refused: str
    in_suspect: Finding | None = None
    in_release: Finding | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """Who owns the suspect: ``winner`` is None where nobody's claim stands, or none came first."""

    winner: str | None
    reason: str
    standings: tuple[Standing, ...]


def resolve(
    suspect: Suspect, contenders: Sequence[Contender], *, alignments: int = 1
) -> Resolution:
    """Decide a dispute.

    Args:
        suspect: the model in dispute. contenders: at least one, names all different.
        alignments: in how many ways the suspect was laid over the base model.

    Raises:
        SuspectError: the suspect or a release cannot be read.
        CaseError: no contender, or two of one name.
    """
    names = [one.name for one in contenders]
    if not names or len(set(names)) != len(names):
        raise CaseError(f"contenders {names}; expected at least one, each with a name of its own")
    standings = tuple(_standing(suspect, one, alignments) for one in contenders)
    upright = [
        (one, one.committed)
        for one, standing in zip(contenders, standings, strict=True)
        if not standing.refused and one.committed is not None
    ]
    if not upright:
        return Resolution(None, "no claim stands", standings)
    if len(upright) == 1:
        return Resolution(upright[0][0].name, "the only claim that stands", standings)
    for one, committed in upright:
        others = [(other, where) for other, where in upright if other is not one]
        if all(committed.before(where) for _, where in others):
            reason = "the earliest witnessed commitment among the claims that stand"
            if all(other.opening.claim.federation == one.opening.claim.federation
                   and where.log == committed.log for other, where in others):  # fmt: skip
                reason += "; all are marks of one federation, so the others are its co-owners"
            return Resolution(one.name, reason, standings)
    return Resolution(None, "no commitment was witnessed before all the others", standings)


def _standing(suspect: Suspect, one: Contender, alignments: int) -> Standing:
    """Rules 1 to 4, in this order."""
    try:
        one.opening.check()
    except ClaimError as error:
        return Standing(one.name, str(error))
    refused = _refused_by_log(one)
    release = one.release
    if refused or release is None:
        return Standing(one.name, refused)
    keys = one.opening.claim.keys
    own = judge(one.opening, release.suspect, Trials(one.commitments, keys))
    if not own.present:
        return Standing(one.name, "its own logged release does not carry the mark", None, own)
    found = judge(one.opening, suspect, Trials(one.commitments, keys, alignments=alignments))
    reason = "" if found.present else "the suspect does not carry the mark"
    return Standing(one.name, reason, found, own)


def _refused_by_log(one: Contender) -> str:
    if one.committed is None:
        return "its commitment is in no log; whoever marks a copy afterwards can say as much"
    if one.release is None:
        return "it shows no release of its own that a log states"
    if one.release.witnessed.log != one.committed.log:
        return "commitment and release are not in one log"
    if not one.committed.before(one.release.witnessed):
        return (
            f"its commitment (leaf {one.committed.leaf}) was logged after its release "
            f"(leaf {one.release.witnessed.leaf})"
        )
    if one.release.tensors != one.release.stated:
        return (
            f"the release shown has tensor hash {one.release.tensors.hex()}, the log states "
            f"{one.release.stated.hex()}"
        )
    return ""
