"""Two statements about marks, each signed by the client that owns one: its commitment, in the log
before round 1, and after the round of marks its word whether the adapter carries it.

``MarkPredicate`` is named by its leaf's SHA-256 in the charter, so it stands before the charter is
signed and cannot name it. ``MarkCheckPredicate`` with ``present`` false is a complaint.
Format: audit/README.md, "Leaves". Schemas: ``mark-v1``, ``mark-check-v1``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from fedfm_audit.errors import StatementError
from fedfm_audit.watermark.commitment import CommittedClaim
from fedfm_audit.watermark.errors import ClaimError
from fedfm_crypto.canonical_json import canonical_decode, canonical_encode


@dataclass(frozen=True, slots=True)
class MarkPredicate:
    """``client`` commits to the keys of a mark: its ``own``, or the ``consortium``'s, which it
    keeps.  ``committed`` is the claim with the commitment to its keys and the owner's signature
    over both (not verified here)."""

    TYPE: ClassVar[str] = "urn:secure-fedfm:mark:v1"
    federation: str
    client: str
    mark: str
    committed: CommittedClaim

    @property
    def subject(self) -> str:
        """Name of the in-toto subject."""
        return f"marks/{self.client}/{self.mark}"

    @property
    def claim(self) -> str:
        """Hex of H(claim), which every direction of the mark is derived from."""
        return self.committed.claim.digest().hex()

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the predicate's canonical JSON: the subject's digest."""
        return hashlib.sha256(canonical_encode(self.to_json())).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The predicate as JSON objects."""
        committed: object = canonical_decode(self.committed.encode())
        return {
            "federation": self.federation,
            "client": self.client,
            "mark": self.mark,
            "committed": committed,
        }


@dataclass(frozen=True, slots=True)
class MarkCheckPredicate:
    """What ``client`` found of a mark (``claim``: hex H(claim)) in ``adapter`` (hex), the result of
    ``round``: the smallest statistic of its sub-keys, what it had to reach, and whether it did."""

    TYPE: ClassVar[str] = "urn:secure-fedfm:mark-check:v1"
    charter: str
    client: str
    mark: str
    claim: str
    round: int
    adapter: str
    present: bool
    statistic: float
    threshold: float

    @property
    def subject(self) -> str:
        """Name of the in-toto subject."""
        return f"mark-checks/{self.client}/{self.mark}"

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the predicate's canonical JSON: the subject's digest."""
        return hashlib.sha256(canonical_encode(self.to_json())).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The predicate as a JSON object."""
        return asdict(self)


Marks = MarkPredicate | MarkCheckPredicate


def read_mark_predicate(fields: Mapping[str, Any]) -> MarkPredicate:
    """Build a commitment from JSON that its schema has accepted.

    Raises
    ------
    StatementError
        if the claim in it breaks its own rules.
    """
    try:
        committed = CommittedClaim.decode(canonical_encode(fields["committed"]))
    except ClaimError as error:
        raise StatementError(f"{MarkPredicate.TYPE}: {error}") from error
    return MarkPredicate(fields["federation"], fields["client"], fields["mark"], committed)


def read_check_predicate(fields: Mapping[str, Any]) -> MarkCheckPredicate:
    """Build a check from JSON that its schema has accepted.

    Raises
    ------
    StatementError
        if it says present below the threshold, or the other way round.
    """
    found = MarkCheckPredicate(
        **{
            **fields,
            "statistic": float(fields["statistic"]),
            "threshold": float(fields["threshold"]),
        }
    )
    if found.present != (found.statistic >= found.threshold):
        raise StatementError(
            f"{MarkCheckPredicate.TYPE}: statistic {found.statistic} against {found.threshold}, "
            f"yet present is {found.present}"
        )
    return found
