"""Step 7: the verdicts of the charter's validator, over the whole log.

Step 4 holds each round to its verdict, message by message.  Here the verdicts themselves are
judged: whose they are, whom they speak of, whether the sums that were applied are theirs, and
whether each sketch key served as long as the charter says.  That scores were computed honestly and
the rule applied rightly is the validator's word: sketches and scores are no evidence.
Source: protocols/README.md, "Robust rounds".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedfm_audit.charter_view import CharterView
from fedfm_audit.errors import TranscriptError
from fedfm_audit.exclusions import exclusions_in
from fedfm_audit.messages import KEYS, Cohort
from fedfm_audit.report import ClientExclusions, JudgedRound, RobustSummary
from fedfm_audit.robust_messages import BeaconNonce, BindingResult, Verdict, beacon, link_context
from fedfm_audit.statements import RoundPredicate
from fedfm_audit.steps.envelopes import RoundEvidence
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.leaves import Leaf
from fedfm_audit.steps.round_checks import senders
from fedfm_audit.transcript import Entry, read_body
from fedfm_crypto.errors import CryptoError

NO_RULE = "the charter names no robust rule"


@dataclass(frozen=True, slots=True)
class _Step:
    """The messages of one step of one round, by type."""

    evidence: RoundEvidence
    number: int

    @property
    def place(self) -> str:
        """How reports name it."""
        return f"{self.evidence.place}, step {self.number}"

    def of(self, kind: str) -> Sequence[Entry]:
        """The messages of one type, in order."""
        entries = self.evidence.transcript.steps[self.number]
        return [entry for entry in entries if entry.header.type == kind]


def check_verdicts(
    charter: CharterView,
    leaves: Sequence[Leaf],
    rounds: Sequence[RoundEvidence],
    findings: Findings,
) -> RobustSummary:
    """Check every verdict; failures name the leaf, the round and the client."""
    readable = {evidence.index for evidence in rounds}
    for leaf in leaves:
        predicate = leaf.statement.predicate
        trained = isinstance(predicate, RoundPredicate) and predicate.kind != KEYS
        if trained and leaf.index not in readable:
            findings.fail(leaf.place, "no readable transcript, so its verdict is unknown")
    checker = _Checker(charter, findings)
    trained_rounds = [evidence for evidence in rounds if evidence.opened.kind != KEYS]
    for evidence in trained_rounds:
        checker.check_round(evidence)
    return RobustSummary(
        rule=charter.rule,
        rounds=len(trained_rounds),
        judged=tuple(checker.judged),
        exclusions=_by_client(charter, trained_rounds),
    )


class _Checker:
    """What must hold of one verdict, and across all of them."""

    def __init__(self, charter: CharterView, findings: Findings) -> None:
        self._charter = charter
        self._findings = findings
        self._keys: dict[int, bytes] = {}
        self._served: Counter[int] = Counter()
        self._commitments: set[bytes] = set()
        self.judged: list[JudgedRound] = []

    def check_round(self, evidence: RoundEvidence) -> None:
        epoch = self._check_sketch_key(evidence)
        for number in range(len(evidence.transcript.steps)):
            step = _Step(evidence, number)
            try:
                self._check_step(step, epoch)
            except TranscriptError as error:
                self._findings.fail(step.place, error)
        completed = evidence.predicate.outcome == "completed"
        if completed and not evidence.transcript.of("Verdict"):
            self._findings.fail(evidence.place, "completed without a verdict")

    # ---- the validator's word

    def _fails(self, entry: Entry, context: bytes | None) -> str:
        """What keeps a message from being the validator's own, for this context."""
        validator, header = self._charter.validator, entry.header
        if validator is None or header.sender != validator.name:
            return f"is from {header.sender}"
        if header.context != context:
            return "is signed for another round" if context else "no key roster was fixed"
        try:
            entry.verify(validator.identity)
            if entry.body is not None:
                entry.signed.check_body(entry.body)
        except CryptoError as error:
            return f"is not signed by {validator.name}: {error}"
        return ""

    def _check_said(self, step: _Step, entry: Entry, what: str, number: int) -> None:
        wrong = self._fails(entry, step.evidence.context1)
        if wrong:
            self._findings.fail(step.place, f"{what} {wrong}")
        found = entry.header.sequence
        if found != number:
            self._findings.fail(step.place, f"{what} is numbered {found}, expected {number}")

    def _check_sketch_key(self, evidence: RoundEvidence) -> int | None:
        """The epoch of the key that the round's context names."""
        announced = evidence.transcript.of("SketchKey")
        if len(announced) != 1:
            self._findings.fail(evidence.place, f"{len(announced)} sketch keys, expected one")
            return None
        (entry,) = announced
        epoch, digest = entry.header.sequence, entry.header.body_hash
        wrong = self._fails(entry, link_context(self._charter.digest))
        if wrong:
            self._findings.fail(evidence.place, f"the sketch key {wrong}")
        if epoch < 1:
            self._findings.fail(evidence.place, "a sketch key of epoch 0; epochs count from 1")
        if epoch < max(self._keys, default=0):
            self._findings.fail(
                evidence.place,
                f"judged under the sketch key of epoch {epoch}, after epoch {max(self._keys)}",
            )
        if self._keys.setdefault(epoch, digest) != digest:
            self._findings.fail(evidence.place, f"a second sketch key of epoch {epoch}")
        return epoch

    def _count(self, step: _Step, epoch: int | None) -> None:
        if epoch is None:
            return
        self._served[epoch] += 1
        most = (self._charter.robustness or {}).get("key_rounds", 0)
        if self._served[epoch] > most:
            self._findings.fail(
                step.place,
                f"verdict number {self._served[epoch]} under the sketch key of epoch {epoch}; the "
                f"charter allows {most}",
            )

    # ---- one verdict

    def _check_step(self, step: _Step, epoch: int | None) -> None:
        entries = step.of("Verdict")
        if not entries:
            if step.of("Cohort"):
                self._findings.fail(step.place, "a cohort that no verdict stands behind")
            return
        for entry in entries:
            self._check_said(step, entry, "the verdict", 2 * step.number)
            self._count(step, epoch)
        verdict = read_body(entries[0], Verdict)
        for reason in self._wrong_content(step, verdict):
            self._findings.fail(step.place, reason)
        cohorts = step.of("Cohort")
        if cohorts:
            for reason in _against(read_body(cohorts[0], Cohort), verdict):
                self._findings.fail(step.place, reason)
        binding = self._check_binding(step)
        self.judged.append(
            JudgedRound(
                step.evidence.predicate.round,
                step.number,
                _beacon_of(step),
                len(verdict.accepted),
                tuple(sorted(verdict.reasons.items())),
                binding,
            )
        )

    def _wrong_content(self, step: _Step, verdict: Verdict) -> Iterator[str]:
        accepted, removed = verdict.accepted, [client.name for client in verdict.removed]
        if list(accepted) != sorted(set(accepted)) or removed != sorted(set(removed)):
            yield "the verdict lists names unsorted or repeated"
        both = sorted(set(accepted) & set(removed))
        if both:
            yield f"the verdict accepts and removes {', '.join(both)}"
        sketches = step.of("Sketch")
        strangers = sorted(set(verdict.judged) - set(senders(sketches)))
        if strangers:
            yield f"the verdict speaks of {', '.join(strangers)}, who sent no sketch"
        forgotten = sorted(set(senders(sketches)) - set(verdict.judged))
        if forgotten:
            yield f"the verdict says nothing of {', '.join(forgotten)}, who sent a sketch"
        own = {entry.header.sender: entry.header.body_hash for entry in sketches}
        if len(verdict.sketches) != len(verdict.judged):
            yield f"the verdict has {len(verdict.sketches)} sketches of {len(verdict.judged)}"
        for name, digest in zip(verdict.judged, verdict.sketches, strict=False):
            if name in own and own[name] != digest:
                yield f"the verdict judges another sketch of {name} than it sent"
        if len(verdict.commitments) != len(verdict.judged):
            yield (
                f"the verdict has {len(verdict.commitments)} commitments to scores, of "
                f"{len(verdict.judged)} clients"
            )
        again = self._commitments & set(verdict.commitments)
        if again or len(set(verdict.commitments)) != len(verdict.commitments):
            yield "a salted commitment to scores occurs twice"
        self._commitments |= set(verdict.commitments)

    def _check_binding(self, step: _Step) -> str:
        """``passed``, ``failed`` or ``none``; a completed round has one that passed."""
        found = "none"
        for entry in step.of("BindingResult")[:1]:
            self._check_said(step, entry, "the binding result", 2 * step.number + 1)
            found = "passed" if read_body(entry, BindingResult).passed else "failed"
        outcome = step.evidence.predicate.outcome
        if outcome == "completed" and found != "passed":
            self._findings.fail(step.place, f"completed, with a binding check: {found}")
        return found


def _against(cohort: Cohort, verdict: Verdict) -> Iterator[str]:
    """Whom a cohort takes in or leaves out against the verdict, by name."""
    reasons = verdict.reasons
    for name in sorted(set(cohort.accepted) - set(verdict.accepted)):
        said = f"removed it: {reasons[name]}" if name in reasons else "does not speak of it"
        yield f"{name} is in the sum, though the verdict {said}"
    for name in sorted(set(verdict.accepted) - set(cohort.accepted)):
        yield f"{name} is not in the sum, though the verdict accepted it"


def _beacon_of(step: _Step) -> str:
    """The beacon (hex) that the candidates' nonces give; empty where none was drawn."""
    fixed, context = step.of("UploadSet"), step.evidence.context1
    if not fixed or context is None or not step.of("BeaconNonces"):
        return ""
    uploaded = set(senders(step.of("Upload")))
    nonces = {
        entry.header.sender: read_body(entry, BeaconNonce).nonce
        for entry in step.of("BeaconNonce")
        if entry.header.sender in uploaded
    }
    return beacon(context, step.number, fixed[0].header.body_hash, nonces).hex()


def _by_client(
    charter: CharterView, rounds: Sequence[RoundEvidence]
) -> tuple[ClientExclusions, ...]:
    found: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for evidence in rounds:
        try:
            exclusions = exclusions_in(
                evidence.transcript, rule=charter.rule, encrypted=charter.encrypted
            )
        except TranscriptError:  # the check of its step has said so
            continue
        for exclusion in exclusions:
            said = (exclusion.client, exclusion.code, exclusion.reason)
            found[said].append(exclusion.round)
    return tuple(
        ClientExclusions(client, code, reason, tuple(numbers))
        for (client, code, reason), numbers in sorted(found.items())
    )


def describe(summary: RobustSummary) -> str:
    """One line about verdicts that hold."""
    bound = sum(judged.binding == "passed" for judged in summary.judged)
    judged = [said for said in summary.exclusions if said.code]
    removed, clients = sum(len(said.rounds) for said in judged), len({s.client for s in judged})
    codes = Counter(code for said in summary.judged for _, code in said.removed)
    reasons = ", ".join(f"{code} {count}" for code, count in sorted(codes.items()))
    return (
        f"{_counted(len(summary.judged), 'verdict')} of rule {summary.rule} in "
        f"{_counted(summary.rounds, 'round')}, {_counted(removed, 'exclusion')} of "
        f"{_counted(clients, 'client')}{f' ({reasons})' if reasons else ''}, "
        f"{_counted(bound, 'sum')} bound to what was judged; that scores are those of the updates "
        "and the rule was applied to them is the validator's word"
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
