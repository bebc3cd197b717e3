"""Who masks with whom in a round: the graph that both sides derive from the same signed facts.

Source: protocols/README.md, step 2.  On the complete graph everyone on the key roster is
everyone's neighbour; on a sparse one the opened nonces draw a ring (module ``graph``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedfm_protocols.errors import BelowThreshold, CharterError, EquivocationError
from fedfm_protocols.federation import Federation
from fedfm_protocols.graph import MAX_WITHHELD, Ring, graph_seed
from fedfm_protocols.masking import graph_commitment
from fedfm_protocols.messages import Cohort, GraphNonce, KeyOffer


@dataclass(frozen=True, slots=True)
class Neighbourhoods:
    """The masking graph of one round.

    ``threshold`` shares rebuild a secret; nobody in a cohort may be left with fewer than
    ``min_neighbours`` accepted neighbours.  ``everyone`` are the participants (sorted), ``ring``
    joins them; it is ``None`` on the complete graph, where ``everyone`` says it all.

    Source: protocols/README.md, section "Sparse graph".
    """

    everyone: tuple[str, ...]
    threshold: int
    min_neighbours: int
    ring: Ring | None

    @property
    def seed(self) -> bytes:
        """What the ring was drawn from; empty on the complete graph.  Every upload hash names it,
        so two clients that were shown different nonces cannot be in one sum."""
        return b"" if self.ring is None else self.ring.seed

    def of(self, name: str) -> tuple[str, ...]:
        """The neighbours of ``name`` and ``name`` itself, sorted: to whom it deals shares."""
        if self.ring is None:
            return self.everyone
        return tuple(sorted((*self.ring.neighbours(name), name)))

    def check_cohort(self, cohort: Cohort) -> None:
        """Refuse a cohort that leaves somebody with too few neighbours.

        Raises
        ------
        BelowThreshold
            naming who would stand alone.
        """
        if self.ring is None:
            return  # the number of accepted updates bounds everybody's neighbours at once
        alone = self.ring.lonely(cohort.accepted, self.min_neighbours)
        if alone:
            raise BelowThreshold(
                f"{', '.join(alone[:3])} would keep fewer than {self.min_neighbours} accepted "
                "neighbours: too few to hide behind"
            )


def complete_graph(federation: Federation, offers: Mapping[str, KeyOffer]) -> Neighbourhoods:
    """Everyone on the key roster is a neighbour of everyone."""
    quorum = federation.thresholds.vote_quorum
    return Neighbourhoods(tuple(sorted(offers)), quorum, quorum, None)


def sparse_graph(
    federation: Federation,
    context0: bytes,
    context: bytes,
    offers: Mapping[str, KeyOffer],
    nonces: Mapping[str, GraphNonce],
) -> Neighbourhoods:
    """The ring that the opened nonces draw, among those who opened theirs.

    Raises
    ------
    EquivocationError
        if a nonce is not the one that its owner committed to.
    BelowThreshold
        if too many are missing: every one left out is a choice for whoever publishes the set.
    """
    for name, opened in nonces.items():
        if graph_commitment(context0, name, opened.nonce) != offers[name].graph_commitment:
            raise EquivocationError(f"{name} opened another nonce than it committed to")
    withheld = len(offers) - len(nonces)
    if withheld > MAX_WITHHELD:
        raise BelowThreshold(
            f"{withheld} clients did not open their nonces, at most {MAX_WITHHELD} may be missing"
        )
    names = tuple(sorted(nonces))
    try:
        parameters = federation.thresholds.graph(len(names))
    except CharterError as error:
        raise BelowThreshold(f"no masking graph for {len(names)} clients: {error}") from error
    seed = graph_seed(context, {name: nonces[name].nonce for name in names})
    ring = Ring.draw(names, seed, parameters.degree)
    return Neighbourhoods(names, parameters.threshold, parameters.min_neighbours, ring)
