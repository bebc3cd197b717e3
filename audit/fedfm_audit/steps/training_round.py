"""Step 4, a round of kind ``train``: the key setup, checked once, and then its steps, one by one.

What joins the steps is checked here: a step begins with the clients that the one before accepted,
from the adapter that a quorum acknowledged after it.
Source: protocols/README.md, "A round" and "Sessions".
"""

from __future__ import annotations

from collections.abc import Sequence

from fedfm_audit.errors import TranscriptError
from fedfm_audit.graph import MAX_WITHHELD, MaskingGraph, nonce_commitment
from fedfm_audit.messages import NO_HASH, GraphNonce, dealers_hash, step_hash
from fedfm_audit.steps.round_checks import RoundChecks, senders, sha256
from fedfm_audit.steps.training_step import Basis, StepOutcome, TrainingStep
from fedfm_audit.transcript import read_body, rebuild_nonces
from fedfm_crypto.errors import CodecError


class TrainingRound:
    """The checks of one round, in the order of its messages."""

    def __init__(self, checks: RoundChecks) -> None:
        self._checks = checks
        self._charter = checks.charter
        self._graph: MaskingGraph | None = None
        self._dealers = sorted(senders(checks.of("ShareBundle")))

    def run(self) -> Sequence[StepOutcome]:
        """Check everything between the key roster and the close; what each step left, up to the
        first that cannot be read.

        Raises
        ------
        TranscriptError
            if a public body of the key setup does not decode.
        """
        self._check_offers()
        self._check_dealing()
        self._check_graph()
        return self._walk()

    # ---- the key setup

    def _check_offers(self) -> None:
        """Mask keys where uploads are masked; a part of a collective key never."""
        steps = self._checks.evidence.opened.steps if self._charter.masked else 0
        for name, offer in self._checks.offers().items():
            self._checks.expect(
                len(offer.steps) == steps,
                f"{name} offers mask keys for {len(offer.steps)} steps, expected {steps}",
            )
            self._checks.expect(
                offer.key_commitment == NO_HASH,
                f"{name} commits to a part of a collective key in a round that makes none",
            )

    def _check_dealing(self) -> None:
        self._checks.expect_within("ShareBundle", self._checks.offerers, "those on the key roster")
        deliveries = self._checks.of("ShareDelivery")
        if deliveries:
            quorum = self._checks.thresholds.vote_quorum
            self._checks.at_least(len(self._dealers), quorum, "dealers")
            self._checks.expect(
                len(deliveries) == len(self._dealers),
                f"{len(deliveries)} ShareDelivery messages to {len(self._dealers)} dealers",
            )

    def _check_graph(self) -> None:
        """Sparse graphs: the nonces are those committed to, and the graph is the one they draw."""
        entries, published = self._checks.of("GraphNonce"), self._checks.one("GraphNonces")
        context1 = self._checks.evidence.context1
        sparse = self._charter.masked and self._checks.thresholds.sparse
        if not sparse or context1 is None:
            return
        self._checks.expect_within("GraphNonce", self._checks.offerers, "those on the key roster")
        offers = self._checks.offers()
        nonces = {entry.header.sender: read_body(entry, GraphNonce).nonce for entry in entries}
        for name, nonce in nonces.items():
            committed = nonce_commitment(self._checks.evidence.context0, name, nonce)
            self._checks.expect(
                name in offers and offers[name].graph_commitment == committed,
                f"{name} opened another nonce than it committed to",
            )
        if published is None:
            return
        self._checks.expect(
            published.header.body_hash == sha256(rebuild_nonces(entries)),
            "GraphNonces is not made of exactly these nonces",
        )
        withheld = len(self._checks.offerers) - len(nonces)
        self._checks.expect(
            withheld <= MAX_WITHHELD,
            f"{withheld} clients did not open their nonces, at most {MAX_WITHHELD} may be missing",
        )
        self._checks.expect_within("ShareBundle", nonces, "those who opened their nonces")
        parameters = self._checks.thresholds.graph(len(nonces))
        self._checks.expect(parameters is not None, f"no masking graph for {len(nonces)} clients")
        if parameters is not None:
            self._graph = MaskingGraph.draw(context1, nonces, parameters)

    # ---- the steps

    def _walk(self) -> Sequence[StepOutcome]:
        outcomes: list[StepOutcome] = []
        basis = self._first()
        for checks in self._checks.steps():
            try:
                outcome = TrainingStep(checks, basis, self._graph).run()
            except (TranscriptError, CodecError) as error:
                # What this step left is unknown, so nothing can be said about the ones after it.
                checks.expect(False, str(error))
                break
            outcomes.append(outcome)
            basis = self._after(outcome)
        return outcomes

    @property
    def _seed(self) -> bytes | None:
        return None if self._graph is None else self._graph.seed

    def _first(self) -> Basis:
        """The first step: the dealers of the key setup."""
        context, dealers = self._checks.evidence.context1, tuple(self._dealers)
        reference = None if context is None else dealers_hash(context, dealers, self._seed)
        return Basis(dealers, self._checks.offerers, reference, None)

    def _after(self, outcome: StepOutcome) -> Basis:
        """The next step: who was accepted, on the adapter that most acknowledge."""
        context, dealers = self._checks.evidence.context1, tuple(outcome.accepted)
        reference = None
        if context is not None and outcome.aggregate is not None and outcome.adapter is not None:
            reference = step_hash(
                context,
                outcome.step + 1,
                dealers,
                outcome.aggregate,
                outcome.adapter,
                self._seed,
            )
        return Basis(dealers, dealers, reference, outcome)
