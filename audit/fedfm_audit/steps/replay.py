"""Step 4, second half: the state machine of every round, replayed from its transcript.

The checks follow the messages of protocols/README.md; each compares what the coordinator claims
with what the clients signed.  A round that was aborted is held to the same rules as far as it
got: whatever is present must be consistent, and nothing may be present whose basis is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from fedfm_audit.charter_view import CharterView
from fedfm_audit.errors import TranscriptError
from fedfm_audit.graph import MAX_WITHHELD, MaskingGraph, nonce_commitment
from fedfm_audit.messages import (
    Cohort,
    CohortVote,
    GraphNonce,
    KeyOffer,
    RoundAck,
    RoundClose,
    UploadHash,
    dealers_hash,
)
from fedfm_audit.steps.envelopes import RoundEvidence
from fedfm_audit.steps.findings import Findings
from fedfm_audit.transcript import (
    COORDINATOR_MESSAGES,
    MESSAGE_ORDER,
    Entry,
    count_round,
    read_body,
    rebuild_cohort_proof,
    rebuild_nonces,
    rebuild_upload_set,
)
from fedfm_crypto.errors import CodecError

KINDS = ("train",)
SPARSE_MESSAGES = frozenset({"GraphNonce", "GraphNonces"})


def replay_round(evidence: RoundEvidence, charter: CharterView, findings: Findings) -> None:
    """Check one round; every failure names the round's leaf and transcript."""
    replay = _Replay(evidence, charter, findings)
    try:
        replay.run()
    except (TranscriptError, CodecError) as error:
        findings.fail(evidence.place, error)


def _senders(entries: Sequence[Entry]) -> list[str]:
    return [entry.header.sender for entry in entries]


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class _Replay:
    """One round's replay; ``_expect`` notes a failure and goes on."""

    def __init__(self, evidence: RoundEvidence, charter: CharterView, findings: Findings) -> None:
        self._evidence = evidence
        self._charter = charter
        self._findings = findings
        self._of = evidence.transcript.of
        self._thresholds = charter.thresholds
        self._suite = charter.suite
        self._sparse = charter.suite != "clear" and charter.thresholds.sparse
        self._graph: MaskingGraph | None = None
        self._offerers = sorted(_senders(self._of("KeyOffer")))
        self._dealers = sorted(_senders(self._of("ShareBundle")))

    def run(self) -> None:
        """All checks, in the order of the messages."""
        self._check_senders()
        self._check_order()
        self._check_opening()
        self._check_keys()
        self._check_graph()
        self._check_uploads()
        self._check_cohort()
        self._check_unmasking()
        self._check_close()
        said, counted = self._evidence.predicate.counts, count_round(self._evidence.transcript)
        self._expect(said == counted, f"the statement counts {said}, the transcript {counted}")

    def _expect(self, holds: bool, reason: str) -> None:
        if not holds:
            self._findings.fail(self._evidence.place, reason)

    def _at_least(self, found: int, needed: int, what: str) -> None:
        self._expect(found >= needed, f"{found} {what}, the charter needs {needed}")

    def _expect_within(self, kind: str, allowed: Collection[str], whom: str) -> None:
        strangers = sorted(set(_senders(self._of(kind))) - set(allowed))
        self._expect(not strangers, f"{kind} of {', '.join(strangers)}, not among {whom}")

    def _one(self, kind: str) -> Entry | None:
        """The coordinator's one message of a kind, if the round got that far."""
        entries = self._of(kind)
        return entries[0] if entries else None

    # ---- shape

    def _check_senders(self) -> None:
        """Each kind from the role that may send it, once per sender and step."""
        coordinator = self._charter.coordinator.name
        for kind in MESSAGE_ORDER:
            entries = self._of(kind)
            senders = _senders(entries)
            if kind in COORDINATOR_MESSAGES:
                self._expect(set(senders) <= {coordinator}, f"{kind} not from {coordinator}")
                single = kind == "ShareDelivery" or len(entries) <= 1
                self._expect(single, f"{len(entries)} {kind} messages, expected one")
            else:
                self._expect(coordinator not in senders, f"{kind} from the coordinator")
                repeated = sorted({name for name in senders if senders.count(name) > 1})
                self._expect(not repeated, f"{', '.join(repeated)} sent more than one {kind}")
            steps = {entry.header.step for entry in entries}
            self._expect(steps <= {0}, f"{kind} of step {max(steps, default=0)}, expected 0")

    def _check_order(self) -> None:
        """Nothing without its basis; a completed round went all the way."""
        absent = frozenset() if self._sparse else SPARSE_MESSAGES
        order = [kind for kind in MESSAGE_ORDER if kind not in absent]
        for kind in sorted(absent):
            self._expect(not self._of(kind), f"{kind} in a round whose graph is complete")
        present = [kind for kind in order[:-1] if self._of(kind)]
        reached = order.index(present[-1]) + 1 if present else 0
        if self._evidence.predicate.outcome == "completed":
            reached = len(order) - 1
        missing = [kind for kind in order[:reached] if kind not in present]
        self._expect(not missing, f"no {', '.join(missing)}, though the round went on")
        self._expect(bool(self._of("RoundClose")), "no RoundClose")

    # ---- messages 0 to 4

    def _check_opening(self) -> None:
        opened, predicate = self._evidence.opened, self._evidence.predicate
        invited = list(opened.invited)
        self._expect(
            opened.round == predicate.round and opened.kind == predicate.kind,
            f"RoundOpen is of round {opened.round}, kind {opened.kind!r}",
        )
        self._expect(opened.kind in KINDS, f"unknown kind {opened.kind!r}")
        self._expect(opened.steps == 1, f"{opened.steps} steps; this version knows one")
        self._expect(opened.key_epoch == 0, f"key epoch {opened.key_epoch}; this suite has one, 0")
        self._expect(
            invited == sorted(set(invited)) and set(invited) <= set(self._charter.clients),
            "invites names that are unsorted, repeated or not on the roster",
        )
        self._expect(
            opened.config_hash == self._charter.config_hash,
            "RoundOpen names a training configuration that is not the charter's",
        )
        self._expect_within("KeyOffer", invited, "the invited")

    def _check_keys(self) -> None:
        roster = self._one("KeyRoster")
        if roster is None:
            return
        self._expect(
            roster.header.body_hash == self._evidence.roster_hash,
            "KeyRoster is not made of exactly these KeyOffers",
        )
        self._at_least(len(self._offerers), self._thresholds.vote_quorum, "key offers")
        self._expect_within("ShareBundle", self._offerers, "those on the key roster")
        deliveries = self._of("ShareDelivery")
        if deliveries:
            self._at_least(len(self._dealers), self._thresholds.vote_quorum, "dealers")
            self._expect(
                len(deliveries) == len(self._dealers),
                f"{len(deliveries)} ShareDelivery messages to {len(self._dealers)} dealers",
            )

    def _check_graph(self) -> None:
        """Sparse graphs: the nonces are those committed to, and the graph is the one they draw."""
        entries, published = self._of("GraphNonce"), self._one("GraphNonces")
        context1 = self._evidence.context1
        if not self._sparse or context1 is None:
            return
        self._expect_within("GraphNonce", self._offerers, "those on the key roster")
        offers = {e.header.sender: read_body(e, KeyOffer) for e in self._of("KeyOffer")}
        nonces = {entry.header.sender: read_body(entry, GraphNonce).nonce for entry in entries}
        for name, nonce in nonces.items():
            committed = nonce_commitment(self._evidence.context0, name, nonce)
            self._expect(
                name in offers and offers[name].graph_commitment == committed,
                f"{name} opened another nonce than it committed to",
            )
        if published is None:
            return
        self._expect(
            published.header.body_hash == _sha256(rebuild_nonces(entries)),
            "GraphNonces is not made of exactly these nonces",
        )
        withheld = len(self._offerers) - len(nonces)
        self._expect(
            withheld <= MAX_WITHHELD,
            f"{withheld} clients did not open their nonces, at most {MAX_WITHHELD} may be missing",
        )
        self._expect_within("ShareBundle", nonces, "those who opened their nonces")
        parameters = self._thresholds.graph(len(nonces))
        self._expect(parameters is not None, f"no masking graph for {len(nonces)} clients")
        if parameters is not None:
            self._graph = MaskingGraph.draw(context1, nonces, parameters)

    def _check_uploads(self) -> None:
        hashes = self._of("UploadHash")
        if not hashes or self._evidence.context1 is None:
            return
        self._expect_within("UploadHash", self._dealers, "the dealers")
        seed = None if self._graph is None else self._graph.seed
        expected = dealers_hash(self._evidence.context1, tuple(self._dealers), seed)
        for entry in hashes:
            self._expect(
                entry.header.refers_to == expected,
                f"{entry.header.sender} masked for another set of dealers, or on another graph",
            )
        upload_set = self._one("UploadSet")
        if upload_set is None:
            return
        fixed = _sha256(rebuild_upload_set(hashes))
        self._expect(
            upload_set.header.body_hash == fixed,
            "UploadSet is not made of exactly these UploadHashes",
        )
        self._at_least(len(hashes), self._thresholds.min_accepted, "upload hashes")
        committed = {e.header.sender: read_body(e, UploadHash).upload_hash for e in hashes}
        # Without masks two honest clients may well have the same update.
        self._expect(
            self._suite == "clear" or len(set(committed.values())) == len(committed),
            "two clients committed to one upload",
        )
        self._expect_within("Upload", committed, "those on the upload set")
        for entry in self._of("Upload"):
            header = entry.header
            self._expect(
                header.refers_to == fixed, f"the upload of {header.sender} refers to another set"
            )
            self._expect(
                committed.get(header.sender) == header.body_hash,
                f"the upload of {header.sender} is not the one whose hash it committed to",
            )

    # ---- messages 8 to 12

    def _check_cohort(self) -> None:
        proposal, upload_set = self._one("Cohort"), self._one("UploadSet")
        if proposal is None or upload_set is None:
            return
        cohort = read_body(proposal, Cohort)
        accepted, removed = list(cohort.accepted), list(cohort.removed)
        self._expect(
            proposal.header.refers_to == upload_set.header.body_hash,
            "Cohort refers to another upload set",
        )
        self._expect(
            accepted == sorted(set(accepted)) and removed == sorted(set(removed)),
            "Cohort lists names unsorted or repeated",
        )
        self._expect(
            sorted(accepted + removed) == self._dealers,
            f"Cohort is {accepted} without {removed}; the dealers were {self._dealers}",
        )
        strangers = sorted(set(accepted) - set(_senders(self._of("Upload"))))
        self._expect(not strangers, f"{', '.join(strangers)} accepted without an upload")
        self._at_least(len(accepted), self._thresholds.min_accepted, "accepted updates")
        if self._graph is not None:
            alone = self._graph.lonely(accepted)
            self._expect(
                not alone,
                f"{', '.join(alone[:3])} kept fewer than "
                f"{self._graph.parameters.min_neighbours} accepted neighbours",
            )
        self._check_votes(proposal)

    def _check_votes(self, proposal: Entry) -> None:
        votes, cohort_hash = self._of("CohortVote"), proposal.header.body_hash
        self._expect_within("CohortVote", self._offerers, "those on the key roster")
        for entry in votes:
            self._expect(
                read_body(entry, CohortVote).cohort_hash == cohort_hash
                and entry.header.refers_to == cohort_hash,
                f"{entry.header.sender} voted for another cohort",
            )
        proof = self._one("CohortProof")
        if proof is None:
            return
        self._at_least(len(votes), self._thresholds.vote_quorum, "votes on the cohort")
        self._expect(
            proof.header.refers_to == cohort_hash
            and proof.header.body_hash == _sha256(rebuild_cohort_proof(votes)),
            "CohortProof is not made of exactly these votes on this cohort",
        )

    def _check_unmasking(self) -> None:
        proposal = self._one("Cohort")
        if proposal is None:
            return
        cohort_hash = proposal.header.body_hash
        unmasked, aggregate = self._of("Unmask"), self._one("Aggregate")
        self._expect_within("Unmask", self._offerers, "those on the key roster")
        for entry in unmasked:
            self._expect(
                entry.header.refers_to == cohort_hash,
                f"{entry.header.sender} unmasked for another cohort than the one voted",
            )
        if aggregate is not None:
            self._at_least(len(unmasked), self._thresholds.vote_quorum, "clients unmasked")
            self._expect(
                aggregate.header.refers_to == cohort_hash, "Aggregate is of another cohort"
            )

    # ---- messages 14 and 15

    def _check_close(self) -> None:
        predicate, aggregate = self._evidence.predicate, self._one("Aggregate")
        acks = self._of("RoundAck")
        self._expect_within("RoundAck", self._offerers, "those on the key roster")
        for entry in acks:
            self._expect(
                aggregate is not None and entry.header.refers_to == aggregate.header.body_hash,
                f"{entry.header.sender} acknowledges another aggregate",
            )
        closing = self._one("RoundClose")
        if closing is None:
            return
        close = read_body(closing, RoundClose)
        self._expect(
            (close.outcome, close.reason, close.adapter_hash.hex())
            == (predicate.outcome, predicate.reason, predicate.adapter_out),
            "RoundClose says another outcome, reason or adapter than the statement",
        )
        self._expect(
            list(close.acks) == [entry.envelope() for entry in acks],
            "RoundClose does not hold exactly these acknowledgements",
        )
        held = [read_body(entry, RoundAck).adapter_hash.hex() for entry in acks]
        if predicate.outcome == "completed":
            self._at_least(
                held.count(predicate.adapter_out),
                self._thresholds.vote_quorum,
                f"acknowledgements of adapter {predicate.adapter_out}",
            )
        elif predicate.outcome == "void":
            most = max((held.count(adapter) for adapter in held), default=0)
            self._expect(
                most < self._thresholds.vote_quorum,
                f"void, though {most} clients acknowledge one adapter",
            )
