"""Step 4, a round of kind ``train``: from the key offers to one acknowledged adapter.

Source: protocols/README.md, "A round"; what encryption adds to the opening of the sum is in
``key_opening``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedfm_audit.graph import MAX_WITHHELD, MaskingGraph, nonce_commitment
from fedfm_audit.messages import (
    NO_HASH,
    Cohort,
    CohortVote,
    GraphNonce,
    RoundAck,
    UploadHash,
    dealers_hash,
)
from fedfm_audit.steps.round_checks import RoundChecks, senders, sha256
from fedfm_audit.transcript import (
    Entry,
    read_body,
    rebuild_cohort_proof,
    rebuild_nonces,
    rebuild_upload_set,
)


class TrainingRound:
    """The checks of one round, in the order of its messages."""

    def __init__(self, checks: RoundChecks) -> None:
        self._checks = checks
        self._charter = checks.charter
        self._graph: MaskingGraph | None = None
        self._dealers = sorted(senders(checks.of("ShareBundle")))

    def run(self) -> None:
        """Check everything between the key roster and the close."""
        self._check_offers()
        self._check_dealing()
        self._check_graph()
        self._check_uploads()
        self._check_cohort()
        self._check_unmasking()
        self._check_acks()

    # ---- messages 1 to 4

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

    def _check_uploads(self) -> None:
        hashes = self._checks.of("UploadHash")
        if not hashes or self._checks.evidence.context1 is None:
            return
        self._checks.expect_within("UploadHash", self._dealers, "the dealers")
        seed = None if self._graph is None else self._graph.seed
        expected = dealers_hash(self._checks.evidence.context1, tuple(self._dealers), seed)
        for entry in hashes:
            self._checks.expect(
                entry.header.refers_to == expected,
                f"{entry.header.sender} masked for another set of dealers, or on another graph",
            )
        upload_set = self._checks.one("UploadSet")
        if upload_set is None:
            return
        fixed = sha256(rebuild_upload_set(hashes))
        self._checks.expect(
            upload_set.header.body_hash == fixed,
            "UploadSet is not made of exactly these UploadHashes",
        )
        self._checks.at_least(len(hashes), self._checks.thresholds.min_accepted, "upload hashes")
        committed = {entry.header.sender: read_body(entry, UploadHash) for entry in hashes}
        self._check_commitments(committed)
        uploads = {name: said.upload_hash for name, said in committed.items()}
        wraps = {name: said.wrap_hash for name, said in committed.items()}
        self._check_committed("Upload", uploads, fixed)
        self._check_committed("WrappedKey", wraps, fixed)

    def _check_commitments(self, committed: Mapping[str, UploadHash]) -> None:
        """Nobody repeats another's upload or key; only encrypted uploads come with a key."""
        uploads = [said.upload_hash for said in committed.values()]
        # In suite clear two honest clients may well have the same update.
        self._checks.expect(
            not (self._charter.masked or self._charter.encrypted) or _distinct(uploads),
            "two clients committed to one upload",
        )
        wraps = [said.wrap_hash for said in committed.values()]
        if self._charter.encrypted:
            self._checks.expect(_distinct(wraps), "two clients committed to one wrapped key")
            keyless = sorted(name for name, said in committed.items() if said.wrap_hash == NO_HASH)
            self._checks.expect(not keyless, f"{', '.join(keyless)} committed to no wrapped key")
        else:
            self._checks.expect(
                set(wraps) <= {NO_HASH},
                f"an upload hash commits to a wrapped key, in suite {self._charter.suite}",
            )

    def _check_committed(self, kind: str, committed: Mapping[str, bytes], fixed: bytes) -> None:
        """Uploads, or their wrapped keys, are those of the upload set."""
        self._checks.expect_within(kind, committed, "those on the upload set")
        what = "upload" if kind == "Upload" else "wrapped key"
        for entry in self._checks.of(kind):
            header = entry.header
            self._checks.expect(
                header.refers_to == fixed, f"the {what} of {header.sender} refers to another set"
            )
            self._checks.expect(
                committed.get(header.sender) == header.body_hash,
                f"the {what} of {header.sender} is not the one whose hash it committed to",
            )

    # ---- messages 8 to 14

    def _check_cohort(self) -> None:
        proposal, upload_set = self._checks.one("Cohort"), self._checks.one("UploadSet")
        if proposal is None or upload_set is None:
            return
        cohort = read_body(proposal, Cohort)
        accepted, removed = list(cohort.accepted), list(cohort.removed)
        self._checks.expect(
            proposal.header.refers_to == upload_set.header.body_hash,
            "Cohort refers to another upload set",
        )
        self._checks.expect(
            cohort.upload_set == sha256(rebuild_upload_set(self._checks.of("UploadHash"))),
            "Cohort names another upload set than these UploadHashes make",
        )
        self._checks.expect(
            accepted == sorted(set(accepted)) and removed == sorted(set(removed)),
            "Cohort lists names unsorted or repeated",
        )
        self._checks.expect(
            sorted(accepted + removed) == self._dealers,
            f"Cohort is {accepted} without {removed}; the dealers were {self._dealers}",
        )
        strangers = sorted(set(accepted) - set(senders(self._checks.of("Upload"))))
        self._checks.expect(not strangers, f"{', '.join(strangers)} accepted without an upload")
        if self._charter.encrypted:
            keyless = sorted(set(accepted) - set(senders(self._checks.of("WrappedKey"))))
            self._checks.expect(
                not keyless, f"{', '.join(keyless)} accepted without the key of its upload"
            )
        self._checks.at_least(
            len(accepted), self._checks.thresholds.min_accepted, "accepted updates"
        )
        if self._graph is not None:
            alone = self._graph.lonely(accepted)
            self._checks.expect(
                not alone,
                f"{', '.join(alone[:3])} kept fewer than "
                f"{self._graph.parameters.min_neighbours} accepted neighbours",
            )
        self._check_votes(proposal)

    def _check_votes(self, proposal: Entry) -> None:
        votes, cohort_hash = self._checks.of("CohortVote"), proposal.header.body_hash
        self._checks.expect_within("CohortVote", self._checks.offerers, "those on the key roster")
        for entry in votes:
            self._checks.expect(
                read_body(entry, CohortVote).cohort_hash == cohort_hash
                and entry.header.refers_to == cohort_hash,
                f"{entry.header.sender} voted for another cohort",
            )
        proof = self._checks.one("CohortProof")
        if proof is None:
            return
        self._checks.at_least(
            len(votes), self._checks.thresholds.vote_quorum, "votes on the cohort"
        )
        self._checks.expect(
            proof.header.refers_to == cohort_hash
            and proof.header.body_hash == sha256(rebuild_cohort_proof(votes)),
            "CohortProof is not made of exactly these votes on this cohort",
        )

    def _check_unmasking(self) -> None:
        proposal = self._checks.one("Cohort")
        if proposal is None:
            return
        cohort_hash = proposal.header.body_hash
        unmasked, aggregate = self._checks.of("Unmask"), self._checks.one("Aggregate")
        self._checks.expect_within("Unmask", self._checks.offerers, "those on the key roster")
        for entry in unmasked:
            self._checks.expect(
                entry.header.refers_to == cohort_hash,
                f"{entry.header.sender} unmasked for another cohort than the one voted",
            )
        if aggregate is not None:
            self._checks.at_least(
                len(unmasked), self._checks.thresholds.vote_quorum, "clients unmasked"
            )
            self._checks.expect(
                aggregate.header.refers_to == cohort_hash, "Aggregate is of another cohort"
            )

    def _check_acks(self) -> None:
        """Acknowledgements are of this aggregate; they carry what the round ends with."""
        predicate, aggregate = self._checks.evidence.predicate, self._checks.one("Aggregate")
        acks, quorum = self._checks.of("RoundAck"), self._checks.thresholds.vote_quorum
        for entry in acks:
            self._checks.expect(
                aggregate is not None and entry.header.refers_to == aggregate.header.body_hash,
                f"{entry.header.sender} acknowledges another aggregate",
            )
        held = [read_body(entry, RoundAck).adapter_hash.hex() for entry in acks]
        if predicate.outcome == "completed":
            adapter = predicate.adapter_out
            self._checks.at_least(
                held.count(adapter), quorum, f"acknowledgements of adapter {adapter}"
            )
        elif predicate.outcome == "void":
            most = max((held.count(adapter) for adapter in held), default=0)
            self._checks.expect(
                most < quorum, f"void, though {most} clients acknowledge one adapter"
            )


def _distinct(hashes: Sequence[bytes]) -> bool:
    return len(set(hashes)) == len(hashes)
