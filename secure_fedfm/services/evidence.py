"""The coordinator's evidence: every round's statement in the log before its result goes out.

The log is the source of truth about the past: which rounds there were, how they ended, and which
adapter is in force is read from its leaves, never from a second book.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedfm_audit.bundle import write_bundle
from fedfm_audit.log import Log
from fedfm_audit.log_keys import LogKeys, log_keys_of, vkey_text
from fedfm_audit.statements import (
    CheckpointReference,
    ConclusionPredicate,
    Distribution,
    FederationPredicate,
    KeyReference,
    RoundPredicate,
    conclusion_statement,
    federation_statement,
    open_leaf,
    round_statement,
    sign_statement,
)
from fedfm_audit.steps_summary import summarise_steps
from fedfm_audit.transcript import count_round, make_transcript
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import CheckpointSeen, SignedHeader
from fedfm_crypto.errors import NoteError
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.note import (
    NoteAlgorithm,
    VerifierKey,
    format_vkey,
    open_note,
    parse_checkpoint,
    parse_vkey,
    split_note,
)
from fedfm_protocols.context import KEYS
from fedfm_protocols.coordinator_round import CollectiveKey, RoundTranscript, TranscriptEntry
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.federation import Federation
from fedfm_protocols.message_fields import MAX_LOG_KEY_CHANGES
from fedfm_protocols.messages import (
    CatchUpRound,
    CheckpointOffer,
    LogKeyChange,
    UploadHash,
    type_name,
)
from secure_fedfm import __version__
from secure_fedfm.errors import StorageError
from secure_fedfm.installed import code_hash, installed_distributions
from secure_fedfm.services.charges import ChargeDesk
from secure_fedfm.services.privacy import privacy_terms
from secure_fedfm.services.timestamping import timestamp_path
from secure_fedfm.storage.site import Site

CATCH_UP_SUFFIX = ".catchup"


def enrolled_parties(federation: Federation) -> tuple[str, ...]:
    """Names of everybody whose enrolment the log holds, in its order: clients, the coordinator,
    and the validator where there is one."""
    others = (federation.coordinator, *([federation.validator] if federation.robust else []))
    return (*federation.clients, *others)


def catch_up_records(site: Site, after: int = 0) -> Iterator[CatchUpRound]:
    """Records of the completed rounds after round ``after`` on a coordinator's disk, in order."""
    for path in sorted(site.rounds_folder.glob("*" + CATCH_UP_SUFFIX)):
        if int(path.stem) > after:
            yield decode(CatchUpRound, path.read_bytes())


def _messages(entries: Iterable[TranscriptEntry]) -> list[tuple[SignedHeader, bytes | None]]:
    return [(entry.signed, entry.body) for entry in entries]


def _good_steps(finished: Finished) -> int:
    """How many steps came to a result: sums that a quorum applied, or the one key that was made."""
    if finished.record is not None:
        return len(finished.record.aggregates)
    return 0 if finished.key is None else 1


@dataclass(frozen=True, slots=True)
class History:
    """What the log says about the past; ``key`` is the collective key made last, if any.

    ``completed``, ``void`` and ``aborted`` count the rounds that sum updates.
    """

    last_round: int
    completed: int
    void: int
    aborted: int
    adapter_hash: bytes
    key: CollectiveKey | None
    concluded: bool


class Evidence:
    """Log, transcripts and catch-up records of one federation, on the coordinator's disk."""

    def __init__(
        self, site: Site, federation: Federation, key: IdentityKey, log_key: IdentityKey
    ) -> None:
        self._site = site
        self._federation = federation
        self._key = key
        self._log_key = log_key
        charter = federation.charter
        origin = charter.log.origin
        self.log = Log.open(site.log_folder, origin)
        first = LogKeys.starting(parse_vkey(charter.log.key), federation.charter_hash.hex())
        self.log_keys = log_keys_of(first, self.log.leaves)
        if log_key.public != self.log_keys.last.public:
            self.log.close()
            raise StorageError(
                f"the log key at {site.log_key_file} is {format_vkey(origin, log_key.public)}, the "
                f"one in force is {vkey_text(self.log_keys.last)}; use the site folder whose log "
                "key the founders signed, with the key of its last rotation"
            )
        self._witness_keys = [
            *(
                format_vkey(
                    f"{charter.federation}/{name}",
                    federation.identities[name],
                    NoteAlgorithm.COSIGNATURE_V1,
                )
                for name in federation.clients
            ),
        ]
        self.history = self._read_history()
        self.charges = ChargeDesk(
            federation, privacy_terms(federation), self.log.leaves, self.log_keys.publics
        )

    def _read_history(self) -> History:
        keys = {key.hex: key for key in self._federation.identities.values()}
        keys |= self.log_keys.publics
        ended = {"completed": 0, "void": 0, "aborted": 0}
        adapter = bytes.fromhex(self._federation.charter.initial_adapter)
        last, concluded = 0, False
        key: CollectiveKey | None = None
        for leaf in self.log.leaves:
            predicate = open_leaf(leaf, keys).statement.predicate
            if isinstance(predicate, RoundPredicate):
                last, adapter = predicate.round, bytes.fromhex(predicate.adapter_out)
                if predicate.kind != KEYS:
                    ended[predicate.outcome] += 1
                elif predicate.key is not None:
                    made = predicate.key
                    key = CollectiveKey(made.epoch, bytes.fromhex(made.hash), made.holders)
            elif isinstance(predicate, ConclusionPredicate):
                concluded = True
        return History(
            last, ended["completed"], ended["void"], ended["aborted"], adapter, key, concluded
        )

    # ---- leaves

    def found(self, enrolments: Mapping[str, bytes], base_model: str) -> None:
        """First leaves: every party's enrolment (by name) and the federation's statement.

        Does nothing where they are all there; after a crash it goes on where it stopped (the log
        takes a leaf that it holds already as the same leaf).
        """
        parties = enrolled_parties(self._federation)
        if self.log.size > len(parties):
            self.log.sign_checkpoint(self._log_key)  # a crash may have left the last leaf uncovered
            return
        for name in parties:
            self.log.append(enrolments[name])
        predicate = FederationPredicate(
            charter=self._federation.charter_hash.hex(),
            package="secure-fedfm",
            version=__version__,
            python=platform.python_version(),
            base_model=base_model,
            config=self._federation.config_hash.hex(),
            code=code_hash().hex(),
            distributions=tuple(Distribution(*one) for one in installed_distributions()),
        )
        self.log.append(sign_statement(federation_statement(predicate), self._key))
        self.log.sign_checkpoint(self._log_key)

    def record_round(self, finished: Finished) -> None:
        """Write transcript, catch-up record and statement, then sign a checkpoint over them.

        Must be done before the round's result is sent: what a client adopts is in the log.
        """
        number = finished.round.identity.round
        self._enter_charges(finished)
        if finished.record is not None:
            record = CatchUpRound(
                opened=finished.record.opened,
                roster_hash=finished.record.roster_hash,
                key_hash=finished.record.key_hash,
                aggregates=finished.record.aggregates,
                acks=finished.record.acks,
            )
            self._site.write(self._record_path(number), encode(record))
        self.record_outcome(
            number=number,
            kind=finished.round.identity.kind,
            outcome=finished.outcome,
            reason=finished.reason,
            adapter_out=finished.adapter_hash,
            transcript=finished.round.transcript,
            steps=finished.round.identity.steps,
            good=_good_steps(finished),
            key=finished.key or finished.round.key,
        )

    def _enter_charges(self, finished: Finished) -> None:
        """Entries of privacy ledgers that came with upload hashes, before the round's statement.

        They were checked before the hashes were taken (:class:`ChargeDesk`). After a crash in
        here the client sends again what the log lacks, with its next upload hash.
        """
        for entry in finished.round.transcript.entries:
            header = entry.signed.header
            if header.type == type_name(UploadHash) and entry.body is not None:
                charges = decode(UploadHash, entry.body).charges
                for leaf in self.charges.lacking(header.sender, charges):
                    self.log.append(leaf)
                    self.charges.enter(header.sender, (leaf,))

    def record_outcome(
        self,
        *,
        number: int,
        kind: str,
        outcome: str,
        reason: str,
        adapter_out: bytes,
        transcript: RoundTranscript,
        steps: int,
        good: int,
        key: CollectiveKey | None = None,
    ) -> None:
        """Append one round's statement with its transcript file; ``good`` of its ``steps`` came to
        a result, ``key`` is the collective key that it made or used."""
        evidence = make_transcript(
            number,
            _messages(transcript.setup),
            [_messages(step) for step in transcript.steps],
            _messages(transcript.close),
        )
        encoded = evidence.encode()
        self._site.write(self._transcript_path(number), encoded)
        predicate = RoundPredicate(
            charter=self._federation.charter_hash.hex(),
            round=number,
            kind=kind,
            outcome=outcome,
            reason=reason,
            adapter_in=self.history.adapter_hash.hex(),
            adapter_out=adapter_out.hex(),
            counts=count_round(evidence),
            steps=summarise_steps(evidence, planned=steps, good=good),
            previous=CheckpointReference(self.log.size, self.log.root().hex()),
            key=None if key is None else KeyReference(key.epoch, key.key_hash.hex(), key.holders),
        )
        self.log.append(sign_statement(round_statement(predicate, encoded), self._key))
        self.log.sign_checkpoint(self._log_key)
        self.history = self._read_history()

    def conclude(self) -> None:
        """Last leaf: the final adapter, and how many rounds ended in which way."""
        if self.history.concluded:
            return
        predicate = ConclusionPredicate(
            charter=self._federation.charter_hash.hex(),
            adapter=self.history.adapter_hash.hex(),
            completed=self.history.completed,
            void=self.history.void,
            aborted=self.history.aborted,
        )
        self.log.append(sign_statement(conclusion_statement(predicate), self._key))
        self.log.sign_checkpoint(self._log_key)
        self.history = self._read_history()

    def change_log_key(self, following: IdentityKey) -> int:
        """Hand the log over to another key; returns the leaf's index.

        The leaf, signed by the key in force, is durable before the first checkpoint of the next
        one: whoever starts in between finds out from the log which key it must use.

        Raises
        ------
        StorageError
            if the log has not been founded, or is concluded.
        """
        if not self.log.size or self.history.concluded:
            raise StorageError(
                "the log's key changes while the federation runs: after the coordinator was "
                "started once, and before the conclusion"
            )
        if len(self.log_keys.keys) > MAX_LOG_KEY_CHANGES:
            raise StorageError(f"the log's key has changed {MAX_LOG_KEY_CHANGES} times already")
        leaf = self.log_keys.sign_change(self._log_key, following.public)
        index = self.log.append(leaf)
        self.log_keys = self.log_keys.follow(leaf, index)
        self._log_key = following
        self.log.sign_checkpoint(following)
        return index

    # ---- checkpoints

    @property
    def _note_keys(self) -> list[VerifierKey | str]:
        return [self.log_keys.last, *self._witness_keys]

    @property
    def checkpoint(self) -> CheckpointSeen:
        """The head that the coordinator's own messages echo."""
        return CheckpointSeen(self.log.size, self.log.root())

    @property
    def note(self) -> bytes:
        """The latest checkpoint note, with the cosignatures it has so far."""
        return self.log.checkpoint or b""

    def offer(self, known_size: int) -> CheckpointOffer:
        """The latest checkpoint and leaf, with proofs for someone who knows ``known_size``."""
        last = self.log.size - 1
        return CheckpointOffer(
            checkpoint=self.note,
            consistency=tuple(self.log.consistency_proof(known_size)) if known_size else (),
            leaf_index=last,
            leaf=self.log.leaves[last],
            inclusion=tuple(self.log.inclusion_proof(last)),
            changes=tuple(
                LogKeyChange(
                    key.above,
                    self.log.leaves[key.above],
                    tuple(self.log.inclusion_proof(key.above)),
                )
                for key in self.log_keys.keys[1:]
                if key.above >= known_size
            ),
        )

    def head_of(self, note: bytes) -> CheckpointSeen | None:
        """The head in a note that this log's key signed, of whichever history; None if it did
        not."""
        try:
            size = parse_checkpoint(split_note(note)[0]).size
            opened = open_note(note, [self.log_keys.at(size)], strict=False)
        except NoteError:
            return None
        return CheckpointSeen(opened.checkpoint.size, opened.checkpoint.root)

    def witnesses(self) -> frozenset[str]:
        """Names of the witness keys that have cosigned the latest checkpoint."""
        return frozenset(open_note(self.note, self._note_keys).cosignatures)

    def attach(self, line: bytes) -> None:
        """Add a witness's cosignature line to the latest checkpoint.

        Raises
        ------
        NoteError
            if it is no valid cosignature of this checkpoint by a witness of the charter.
        """
        self.log.attach_cosignatures([line], self._note_keys)

    # ---- files

    def _transcript_path(self, number: int) -> Path:
        return self._site.rounds_folder / f"{number:06d}.json"

    def _record_path(self, number: int) -> Path:
        return self._site.rounds_folder / f"{number:06d}{CATCH_UP_SUFFIX}"

    def missed_rounds(self, after: int) -> Iterator[CatchUpRound]:
        """Records of the completed rounds after round ``after``, oldest first."""
        return catch_up_records(self._site, after)

    def bundle(self, destination: Path) -> Path:
        """Write the evidence bundle; one from before is replaced (it may lack cosignatures)."""
        if destination.exists():
            shutil.rmtree(destination)
        transcripts = {
            int(path.stem): path.read_bytes() for path in self._site.rounds_folder.glob("*.json")
        }
        stamp = timestamp_path(self._site, self.note)
        return write_bundle(
            self.log,
            self._site.charter_file.read_bytes(),
            transcripts,
            destination,
            stamp.read_bytes() if stamp.exists() else None,
        )

    def close(self) -> None:
        """Release the log's lock."""
        self.log.close()
