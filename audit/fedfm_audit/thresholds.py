"""Thresholds recomputed by the auditor from the charter's three numbers.

Written from the specification, not shared with the protocol: an auditor who reused the
federation's own code would inherit its mistakes.  Source: protocols/README.md, "Thresholds".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedfm_audit.errors import CharterViewError
from fedfm_audit.graph import MAX_COMPLETE, GraphParameters, graph_parameters


@dataclass(frozen=True, slots=True)
class Thresholds:
    """``clients`` = n institutions, ``colluding`` = c that may conspire, ``dropouts`` = d that
    may vanish in a round.

    Raises
    ------
    CharterViewError
        if no round could keep the promises that these numbers make.
    """

    clients: int
    colluding: int
    dropouts: int

    def __post_init__(self) -> None:
        if self.vote_quorum > self.clients - self.dropouts:
            raise CharterViewError(
                f"limits: with {self.clients} clients and {self.colluding} colluding the quorum is "
                f"{self.vote_quorum}; it cannot be met after {self.dropouts} dropouts"
            )
        if self.min_accepted > self.clients:
            raise CharterViewError(
                f"limits: a sum needs {self.min_accepted} accepted updates, the roster has "
                f"{self.clients} clients"
            )
        if self.sparse and self.graph(self.clients) is None:
            raise CharterViewError(
                f"limits: no sparse graph holds {self.clients} clients with {self.colluding} "
                f"colluding and {self.dropouts} dropping out"
            )

    @property
    def vote_quorum(self) -> int:
        """Identical votes that fix a cohort; acknowledgements that fix an adapter; key offers,
        dealers, unmaskings, witnesses.

        Two quorums of size v overlap in at least 2v - n clients; the second term makes that more
        than c, so that no two different cohorts can both be voted.
        """
        n, c = self.clients, self.colluding
        return max(2 * n // 3 + 1, (n + c) // 2 + 1)

    @property
    def sparse(self) -> bool:
        """Whether a masked round has a sparse masking graph, drawn from nonces."""
        return self.clients > MAX_COMPLETE

    def graph(self, participants: int) -> GraphParameters | None:
        """Parameters of the sparse graph over ``participants`` of the roster; whoever is missing
        counts as dropped out.  None if so few cannot have one."""
        missing = self.clients - participants
        return graph_parameters(participants, self.colluding, max(self.dropouts - missing, 0))

    @property
    def min_accepted(self) -> int:
        """Fewest updates in an opened sum: max(c + 2, n - d)."""
        return max(self.colluding + 2, self.clients - self.dropouts)

    @property
    def min_honest(self) -> int:
        """Fewest updates in an opened sum that are not of those who conspire."""
        return self.min_accepted - self.colluding

    @property
    def key_threshold(self) -> int:
        """Holders of a collective key that open a key sum together: one more than conspire."""
        return self.colluding + 1

    def holders_to_be(self, key_roster: Sequence[str]) -> tuple[str, ...]:
        """Who of a key roster (sorted) may deal a collective key and hold shares of it.

        Everybody up to 64 clients.  Beyond, enough that c + 1 honest ones are left to open a sum
        when c conspire and d have vanished; the c alone are always too few.
        """
        if self.clients <= MAX_COMPLETE:
            return tuple(key_roster)
        return tuple(key_roster[: 2 * self.colluding + 1 + self.dropouts])

    @property
    def min_key_dealers(self) -> int:
        """Fewest dealers of a collective key."""
        if self.clients <= MAX_COMPLETE:
            return self.vote_quorum
        return 2 * self.colluding + 1
