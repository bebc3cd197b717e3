"""Step 9: the coordinator's arithmetic, repeated from a replay archive, bit for bit.

For every sum that the log says was published: the archived bodies are the ones that were signed;
the masks follow from the shares that clients revealed; the accepted uploads, added up and less
these masks, are the Aggregate; with encryption the key sum that was opened is of exactly these
uploads' keys.  A round that the archive does not hold is named, never passed over.
Sources: audit/README.md, "Replay archive"; docs/adr/0018.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fedfm_audit.archive import Archive, ArchivedBody, MessageKey, archived_messages
from fedfm_audit.arithmetic.bodies import (
    AGGREGATE_HEAD,
    MAX_OPENING_ENVELOPE_BYTES,
    UPLOAD_HEAD,
    StreamedWords,
    Unmask,
    read_unmask,
)
from fedfm_audit.arithmetic.key_sum import check_key_sum, check_openings
from fedfm_audit.arithmetic.masks import Mask, MaskedStep
from fedfm_audit.arithmetic.sums import CiphertextSums, LaneSums, first_difference
from fedfm_audit.charter_view import CharterView
from fedfm_audit.entries import Entry, read_body
from fedfm_audit.errors import ArchiveError, TranscriptError
from fedfm_audit.graph import MaskingGraph
from fedfm_audit.messages import KEYS, Cohort, GraphNonce, KeyOffer
from fedfm_audit.steps.envelopes import RoundEvidence
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.round_checks import StepChecks
from fedfm_crypto.errors import FedFMError

_SALT = 32
_COUNT = 4


@dataclass(frozen=True, slots=True)
class Replayed:
    """How much was repeated: sums, uploads in them; ``gaps`` are rounds that published a sum and
    are not in the archive, ``left_out`` those that the auditor did not ask for."""

    sums: int
    uploads: int
    gaps: tuple[int, ...]
    left_out: int

    def __str__(self) -> str:
        plural = "" if self.sums == 1 else "s"
        said = f"{self.sums} sum{plural} of {self.uploads} uploads repeated, bit for bit"
        if self.left_out:
            said += f"; {self.left_out} other rounds with sums were not asked for"
        if self.gaps:
            listed = ", ".join(map(str, self.gaps[:10])) + (", ..." if self.gaps[10:] else "")
            plural = "s" if self.gaps[1:] else ""
            said += f"; not checkable: round{plural} {listed} not in the archive"
        return said


def check_arithmetic(
    archive: Archive,
    charter: CharterView,
    rounds: Sequence[RoundEvidence],
    asked: range | None,
    findings: Findings,
) -> Replayed:
    """Repeat the sums of all rounds, or of those ``asked`` for."""
    sums = uploads = left_out = 0
    gaps: list[int] = []
    unknown = sorted(archive.rounds - {evidence.predicate.round for evidence in rounds})
    for number in unknown:
        findings.fail(f"{archive.root}", f"holds round {number}, which the log does not")
    for evidence in rounds:
        number = evidence.predicate.round
        held = number in archive.rounds
        try:
            known = _messages(evidence, charter)
        except TranscriptError as error:
            findings.fail(evidence.place, error)
            continue
        if held:
            for name in archive.strangers(number, known):
                findings.fail(
                    evidence.place, f"the archive holds {name}, no message of a published sum"
                )
        if not known:
            continue
        if asked is not None and number not in asked:
            left_out += 1
        elif not held:
            gaps.append(number)
        else:
            for step, messages in known.items():
                _ArchivedStep(archive, evidence, charter, step, messages, findings).run()
                sums += 1
                uploads += sum(kind == "Upload" for kind, _ in messages)
    return Replayed(sums, uploads, tuple(gaps), left_out)


def _messages(evidence: RoundEvidence, charter: CharterView) -> dict[int, tuple[MessageKey, ...]]:
    """By step, what the archive must hold of a round: of steps whose sum was published."""
    if evidence.opened.kind == KEYS:
        return {}
    listed = {
        step: archived_messages(entries, masked=charter.masked, encrypted=charter.encrypted)
        for step, entries in enumerate(evidence.transcript.steps)
    }
    return {step: messages for step, messages in listed.items() if messages}


class _ArchivedStep:
    """One step whose sum was published, repeated."""

    def __init__(
        self,
        archive: Archive,
        evidence: RoundEvidence,
        charter: CharterView,
        step: int,
        messages: Sequence[MessageKey],
        findings: Findings,
    ) -> None:
        self._archive = archive
        self._evidence = evidence
        self._charter = charter
        self._step = step
        self._messages = messages
        self._findings = findings
        self._checks = StepChecks(evidence, charter, findings, step)
        self._failed_before = findings.count

    def run(self) -> None:
        """Note every message that is missing or altered, else where the sum differs."""
        bodies = dict(self._bodies())
        if self._failed:
            return
        if self._charter.encrypted:
            self._check_key_sum(bodies)
        try:
            masks = self._masks(bodies)
        except FedFMError as error:
            self._fail("Unmask", error)
            return
        if not self._failed and masks is not None:
            self._check_sum(bodies, masks)

    @property
    def _failed(self) -> bool:
        return self._findings.count > self._failed_before

    def _fail(self, what: str, reason: object) -> None:
        self._findings.fail(f"{self._checks.place}, {what}", reason)

    def _bodies(self) -> Iterator[tuple[MessageKey, tuple[Entry, ArchivedBody]]]:
        """Every message that the archive must hold of this step, with its file."""
        entries = {
            (e.header.type, e.header.sender): e
            for e in self._evidence.transcript.steps[self._step]
            if (e.header.type, e.header.sender) in self._messages
        }
        for key in self._messages:
            kind, sender = key
            if key not in entries:
                self._fail(f"{kind} of {sender}", "not in the transcript, though it is accepted")
                continue
            try:
                body = self._archive.body(self._evidence.predicate.round, self._step, kind, sender)
            except ArchiveError as error:
                self._fail(f"{kind} of {sender}", error)
                continue
            yield key, (entries[key], body)

    def _of(
        self, bodies: Mapping[MessageKey, tuple[Entry, ArchivedBody]], kind: str
    ) -> list[tuple[Entry, ArchivedBody]]:
        return [bodies[key] for key in self._messages if key[0] == kind]

    def _check_key_sum(self, bodies: Mapping[MessageKey, tuple[Entry, ArchivedBody]]) -> None:
        problems = check_key_sum(
            self._of(bodies, "WrappedKey"),
            self._checks.of("KeyRequest"),
            self._checks.of("KeyOpening"),
            self._charter.thresholds.key_threshold,
        )
        for problem in problems:
            self._fail("key sum", problem)

    # ---- masks

    @cached_property
    def _cohort(self) -> Cohort:
        return read_body(self._checks.of("Cohort")[0], Cohort)

    def _masks(self, bodies: Mapping[MessageKey, tuple[Entry, ArchivedBody]]) -> list[Mask] | None:
        """What comes off the sum; None if a client's shares are not what it signed."""
        if not self._charter.masked:
            return []
        reveals: dict[str, Unmask] = {}
        dealers = len(self._cohort.accepted) + len(self._cohort.removed)
        for entry, body in self._of(bodies, "Unmask"):
            try:
                reveals[entry.header.sender] = read_unmask(entry, body, dealers)
            except ArchiveError as error:
                self._fail(f"Unmask of {entry.header.sender}", error)
        if len(reveals) < len(self._of(bodies, "Unmask")):
            return None
        return self._masked_step().peeling(reveals)

    def _masked_step(self) -> MaskedStep:
        evidence, thresholds = self._evidence, self._charter.thresholds
        if evidence.context1 is None:
            raise ArchiveError("there is no key roster, so nothing that masks follow from")
        offers = {
            e.header.sender: read_body(e, KeyOffer) for e in evidence.transcript.of("KeyOffer")
        }
        dealers = (*self._cohort.accepted, *self._cohort.removed)
        lacking = [n for n in dealers if n not in offers or len(offers[n].steps) <= self._step]
        if lacking:
            raise ArchiveError(f"{', '.join(lacking)} offered no mask key for this step")
        graph, threshold = None, thresholds.vote_quorum
        if thresholds.sparse:
            graph = self._graph(evidence.context1)
            threshold = graph.parameters.threshold
        return MaskedStep(
            context0=evidence.context0,
            context1=evidence.context1,
            step=self._step,
            cohort=self._cohort,
            keys={name: offers[name].steps[self._step] for name in dealers},
            points={name: place for place, name in enumerate(self._charter.clients, start=1)},
            threshold=threshold,
            graph=graph,
        )

    def _graph(self, context1: bytes) -> MaskingGraph:
        entries = self._evidence.transcript.of("GraphNonce")
        nonces = {e.header.sender: read_body(e, GraphNonce).nonce for e in entries}
        parameters = self._charter.thresholds.graph(len(nonces))
        if parameters is None:
            raise ArchiveError(f"no masking graph for {len(nonces)} clients")
        return MaskingGraph.draw(context1, nonces, parameters)

    # ---- the sum

    def _check_sum(
        self, bodies: Mapping[MessageKey, tuple[Entry, ArchivedBody]], masks: Sequence[Mask]
    ) -> None:
        charter = self._charter
        kind = CiphertextSums if charter.encrypted else LaneSums
        arithmetic = kind(charter.lanes, charter.lane_bits, masks)
        threshold = charter.thresholds.key_threshold if charter.encrypted else 0
        tail = _COUNT + threshold * (_COUNT + MAX_OPENING_ENVELOPE_BYTES)
        (aggregate,) = self._of(bodies, "Aggregate")
        heads = [(*found, UPLOAD_HEAD, 0) for found in self._of(bodies, "Upload")]
        streams: list[StreamedWords] = []
        for entry, body, head, after in (*heads, (*aggregate, AGGREGATE_HEAD, tail)):
            try:
                streams.append(StreamedWords(entry, body, head, arithmetic.size, after))
            except ArchiveError as error:
                self._fail(f"{entry.header.type} of {entry.header.sender}", error)
        if self._failed:
            return
        *uploads, claimed = streams
        try:
            difference = first_difference(arithmetic, uploads, claimed)
        except FedFMError as error:
            difference = str(error)
        ends = [self._finish(stream) for stream in streams]
        if self._failed:  # of what nobody signed, the sum says nothing
            return
        if difference:
            self._fail("Aggregate", difference)
        counted = int.from_bytes(claimed.head[_SALT : _SALT + _COUNT], "big")
        if counted != len(uploads):
            self._fail("Aggregate", f"counts {counted} updates, {len(uploads)} were accepted")
        for problem in check_openings(ends[-1], self._checks.of("KeyOpening"), threshold):
            self._fail("Aggregate", problem)

    def _finish(self, stream: StreamedWords) -> bytes:
        try:
            return stream.finish()
        except ArchiveError as error:
            self._fail(f"{stream.entry.header.type} of {stream.sender}", error)
            return b""
