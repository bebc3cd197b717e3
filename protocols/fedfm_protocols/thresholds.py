"""Thresholds of a federation, all functions of the roster size and two tolerated numbers.

Source: protocols/README.md, section "Thresholds".  The quorum keeps two different cohorts from
both being voted: two quorums of size v overlap in 2v - n clients, of whom at most ``colluding``
sign twice, so 2v - n > colluding is what is needed.  Never pass a bare "t" around: each
threshold has a name.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedfm_protocols.errors import CharterError
from fedfm_protocols.graph import GraphParameters, find_parameters

MAX_COMPLETE_GRAPH = 64  # beyond, every pair sharing a mask costs more than a sparse graph
MAX_CLIENTS = 4096


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds for ``clients`` institutions, of whom ``colluding`` may conspire and
    ``dropouts`` may vanish in a round.

    Raises
    ------
    CharterError
        if the numbers leave no room for a round that keeps its promises.

    Source: protocols/README.md, section "Thresholds".
    """

    clients: int
    colluding: int
    dropouts: int

    def __post_init__(self) -> None:
        n, c, d = self.clients, self.colluding, self.dropouts
        if c < 1 or d < 0:
            raise CharterError(
                f"limits: colluding is {c} and dropouts is {d}; colluding must be at least 1 "
                "(a client is always one) and dropouts at least 0"
            )
        if not 3 <= n <= MAX_CLIENTS:
            raise CharterError(
                f"the roster has {n} clients; this version runs federations of 3 to {MAX_CLIENTS}"
            )
        if self.vote_quorum > n or self.min_accepted > n:
            raise CharterError(
                f"{n} clients cannot tolerate {c} colluding: that needs a quorum of "
                f"{self.vote_quorum} and {self.min_accepted} accepted updates; "
                "enlarge the roster or lower limits.colluding"
            )
        if d > n - self.vote_quorum:
            raise CharterError(
                f"limits.dropouts is {d}, but with {n} clients and {c} colluding at most "
                f"{n - self.vote_quorum} may vanish (quorum {self.vote_quorum})"
            )
        if self.sparse:
            self.graph(n)  # refuse now what no round could run

    @property
    def vote_quorum(self) -> int:
        """How many identical votes fix a cohort; also key offers, acknowledgements, witnesses."""
        n, c = self.clients, self.colluding
        return max(2 * n // 3 + 1, (n + c) // 2 + 1)

    @property
    def sparse(self) -> bool:
        """Whether clients mask with some neighbours only, instead of with everyone."""
        return self.clients > MAX_COMPLETE_GRAPH

    def graph(self, participants: int) -> GraphParameters:
        """Parameters of a round's masking graph over ``participants`` of the roster.

        On the complete graph everyone is everyone's neighbour and the share threshold is the vote
        quorum.  On a sparse one whoever is missing already counts as dropped out.

        Raises
        ------
        CharterError
            if so few take part that no graph meets the bounds.
        """
        if not self.sparse:
            quorum = self.vote_quorum
            return GraphParameters(participants, participants - 1, quorum, self.min_accepted - 1)
        missing = self.clients - participants
        return find_parameters(participants, self.colluding, max(self.dropouts - missing, 0))

    @property
    def share_threshold(self) -> int:
        """How many shares rebuild a mask secret when the whole roster takes part."""
        return self.graph(self.clients).threshold

    @property
    def key_threshold(self) -> int:
        """How many decryptors open a key sum (suites with encryption)."""
        return self.colluding + 1

    @property
    def committee(self) -> int:
        """How many clients hold shares of the collective key (suites with encryption): all, or in
        a large federation enough that ``key_threshold`` honest ones stay when the colluding
        refuse and the tolerated dropouts are gone.  Colluders alone are always too few to open
        anything, whoever is on it."""
        if not self.sparse:
            return self.clients
        return min(self.clients, 2 * self.colluding + 1 + self.dropouts)

    @property
    def key_dealers(self) -> int:
        """How many must contribute to a collective key: the colluders never by themselves, and
        enough that ``key_threshold`` honest holders remain."""
        return 2 * self.colluding + 1 if self.sparse else self.vote_quorum

    @property
    def min_honest(self) -> int:
        """Honest survivors that noise may be calibrated to: n - c_max - d_max."""
        return self.clients - self.colluding - self.dropouts

    @property
    def min_accepted(self) -> int:
        """Fewest updates in a sum: never one honest update among the colluders' own, and never
        fewer than the noise was calibrated for (min_honest + colluding)."""
        return max(self.colluding + 2, self.min_honest + self.colluding)
