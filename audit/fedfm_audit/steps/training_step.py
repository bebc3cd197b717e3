"""Step 4, one step of a round of kind ``train``: from upload hashes to one acknowledged adapter.

A round of one step is such a step, a session is several; all that a step has of the others is the
:class:`Basis` that the one before left.  A step that was begun and not finished is held to the same
rules as far as it got.  Source: protocols/README.md, "A round" and "Sessions"; what encryption adds
to the opening of the sum is in ``key_opening``, what a validator adds in ``judged_step``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedfm_audit.graph import MaskingGraph
from fedfm_audit.messages import NO_HASH, Cohort, CohortVote, RoundAck, UploadHash
from fedfm_audit.steps.judged_step import check_binding, check_judged_cohort, check_judgement
from fedfm_audit.steps.key_opening import check_key_opening
from fedfm_audit.steps.round_checks import StepChecks, senders, sha256
from fedfm_audit.transcript import Entry, read_body, rebuild_cohort_proof, rebuild_upload_set


@dataclass(frozen=True, slots=True)
class Basis:
    """What a step builds on.

    ``dealers`` (sorted) are the clients that masked, ``voters`` those that may send anything after
    the uploads; ``reference`` is what every UploadHash names (``None`` where that is unknown).
    ``before`` is what the step before left, ``None`` at the first.
    """

    dealers: Sequence[str]
    voters: Sequence[str]
    reference: bytes | None
    before: StepOutcome | None

    @property
    def whom(self) -> tuple[str, str]:
        """How reports name the dealers and the voters."""
        if self.before is None:
            return "the dealers", "those on the key roster"
        accepted = f"those whom step {self.before.step} accepted"
        return accepted, accepted


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a step left: who was accepted (sorted), the hash of its aggregate, the adapter that most
    clients acknowledge, who they are, and whether that is a quorum: the step is ``good``."""

    step: int
    accepted: Sequence[str]
    aggregate: bytes | None
    adapter: bytes | None
    agreeing: frozenset[str]
    good: bool


class TrainingStep:
    """The checks of one step, in the order of its messages."""

    def __init__(self, checks: StepChecks, basis: Basis, graph: MaskingGraph | None) -> None:
        self._checks = checks
        self._basis = basis
        self._graph = graph
        self._charter = checks.charter

    def run(self) -> StepOutcome:
        """Check everything from the upload hashes to the acknowledgements.

        Raises
        ------
        TranscriptError
            if a public body does not decode.
        """
        self._check_uploads()
        accepted = self._check_cohort()
        self._check_unmasking()
        if self._charter.encrypted:
            check_key_opening(self._checks)
        if self._charter.robust:
            check_binding(self._checks, self._basis.dealers)
        return self._outcome(accepted)

    # ---- messages 5 to 7

    def _check_uploads(self) -> None:
        hashes = self._checks.of("UploadHash")
        self._checks.expect_within("UploadHash", self._basis.dealers, self._basis.whom[0])
        if self._basis.before is None and self._basis.reference is not None:
            for entry in hashes:
                self._checks.expect(
                    entry.header.refers_to == self._basis.reference,
                    f"{entry.header.sender} masked for another set of dealers, or on another graph",
                )
        upload_set = self._checks.one("UploadSet")
        if upload_set is None or not hashes:
            return
        members = self._members(hashes)
        fixed = sha256(rebuild_upload_set(members))
        self._checks.expect(
            upload_set.header.body_hash == fixed,
            "UploadSet is not made of exactly these UploadHashes" + self._strangers(hashes),
        )
        self._check_before(upload_set)
        self._checks.at_least(len(members), self._checks.thresholds.min_accepted, "upload hashes")
        committed = {entry.header.sender: read_body(entry, UploadHash) for entry in members}
        self._check_commitments(committed)
        uploads = {name: said.upload_hash for name, said in committed.items()}
        wraps = {name: said.wrap_hash for name, said in committed.items()}
        self._check_committed("Upload", uploads, fixed)
        self._check_committed("WrappedKey", wraps, fixed)
        if self._charter.robust:
            check_judgement(self._checks, uploads.keys(), fixed)

    def _members(self, hashes: Sequence[Entry]) -> Sequence[Entry]:
        """Which of these make up the upload set: after the first step, those that build on what
        the step before left, from clients that acknowledged it.  Others count for nothing."""
        before = self._basis.before
        if before is None:
            return hashes
        return [
            entry
            for entry in hashes
            if entry.header.sender in before.agreeing
            and entry.header.refers_to == self._basis.reference
        ]

    def _strangers(self, hashes: Sequence[Entry]) -> str:
        """Why upload hashes are none of the set, for whoever wonders who was taken in."""
        before = self._basis.before
        if before is None:
            return ""
        said = []
        for entry in hashes:
            if entry.header.sender not in before.agreeing:
                why = f"did not acknowledge the adapter of step {before.step}"
            elif entry.header.refers_to != self._basis.reference:
                why = f"builds on another sum, adapter or set of clients than step {before.step}'s"
            else:
                continue
            said.append(f"{entry.header.sender} {why}")
        return f" of those who build on step {before.step}: {'; '.join(said)}" if said else ""

    def _check_before(self, upload_set: Entry) -> None:
        before = self._basis.before
        if before is not None:
            self._checks.expect(
                before.good,
                f"UploadSet is fixed, though only {len(before.agreeing)} clients acknowledge one "
                f"adapter of step {before.step}; the charter needs "
                f"{self._checks.thresholds.vote_quorum}",
            )

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

    # ---- messages 8 to 12

    def _check_cohort(self) -> Sequence[str]:
        """The one cohort of the step; returns whom it accepts."""
        proposal, upload_set = self._checks.one("Cohort"), self._checks.one("UploadSet")
        if proposal is None or upload_set is None:
            return ()
        cohort = read_body(proposal, Cohort)
        accepted, removed = list(cohort.accepted), list(cohort.removed)
        if self._charter.robust:
            check_judged_cohort(self._checks, proposal, cohort)
        else:
            self._checks.expect(
                proposal.header.refers_to == upload_set.header.body_hash,
                "Cohort refers to another upload set",
            )
        members = self._members(self._checks.of("UploadHash"))
        self._checks.expect(
            cohort.upload_set == sha256(rebuild_upload_set(members)),
            "Cohort names another upload set than these UploadHashes make",
        )
        self._checks.expect(
            accepted == sorted(set(accepted)) and removed == sorted(set(removed)),
            "Cohort lists names unsorted or repeated",
        )
        dealers = list(self._basis.dealers)
        self._checks.expect(
            sorted(accepted + removed) == dealers,
            f"Cohort is {accepted} without {removed}; the dealers were {dealers}",
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
        return accepted

    def _check_votes(self, proposal: Entry) -> None:
        votes, cohort_hash = self._checks.of("CohortVote"), proposal.header.body_hash
        # Where a validator judges, one vote names its verdict and the cohort that follows from it.
        named = proposal.header.refers_to if self._charter.robust else cohort_hash
        self._checks.expect_within("CohortVote", self._basis.voters, self._basis.whom[1])
        for entry in votes:
            self._checks.expect(
                read_body(entry, CohortVote).cohort_hash == cohort_hash
                and entry.header.refers_to == named,
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
        self._checks.expect_within("Unmask", self._basis.voters, self._basis.whom[1])
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

    # ---- message 13

    def _outcome(self, accepted: Sequence[str]) -> StepOutcome:
        """Acknowledgements are of this step's aggregate, and tell how the step ended."""
        aggregate = self._checks.one("Aggregate")
        self._checks.expect_within("RoundAck", self._basis.voters, self._basis.whom[1])
        held: dict[str, bytes] = {}
        for entry in self._checks.of("RoundAck"):
            name = entry.header.sender
            same = aggregate is not None and entry.header.refers_to == aggregate.header.body_hash
            self._checks.expect(same, f"{name} acknowledges another aggregate")
            if same and name in self._basis.voters:
                held[name] = read_body(entry, RoundAck).adapter_hash
        most = Counter(held.values()).most_common(1)
        adapter = most[0][0] if most else None
        agreeing = frozenset(name for name, found in held.items() if found == adapter)
        return StepOutcome(
            self._checks.step,
            tuple(sorted(set(accepted))),
            None if aggregate is None else aggregate.header.body_hash,
            adapter,
            agreeing,
            len(agreeing) >= self._checks.thresholds.vote_quorum,
        )


def _distinct(hashes: Sequence[bytes]) -> bool:
    return len(set(hashes)) == len(hashes)
