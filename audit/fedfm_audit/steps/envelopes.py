"""Step 3, second half: every envelope of every round.

For each message: it is signed by the enrolled key of its sender; its context is the one computed
from charter and round; its sequence number follows the sender's last, over all steps of the round;
the checkpoint it echoes is a prefix of this log; and it occurs in one round only.  A validator's
sketch key serves several rounds: it is signed outside of them, and echoes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedfm_audit.messages import KEYS, RoundOpen, context0, context1
from fedfm_audit.robust_messages import judged_keys_hash, link_context
from fedfm_audit.statements import RoundPredicate, transcript_path
from fedfm_audit.steps.epochs import KeyHistory
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.leaves import Leaf
from fedfm_audit.steps.roots import Roots
from fedfm_audit.steps.threads import in_threads
from fedfm_audit.steps.tree import Tree
from fedfm_audit.transcript import Entry, Transcript, read_body, rebuild_roster
from fedfm_crypto.errors import FedFMError, NoteError
from fedfm_crypto.note import open_note, parse_checkpoint, split_note

_FOLDER = "transcripts/"


@dataclass(frozen=True, slots=True)
class RoundEvidence:
    """A round's statement (by leaf index), its transcript, and the contexts recomputed from it.

    ``context1`` is ``None`` where the round ended before its key roster was fixed;
    ``roster_hash`` is the SHA-256 of the KeyRoster body that the offers make; ``history`` are the
    collective keys that rounds before this one made.
    """

    index: int
    predicate: RoundPredicate
    path: str
    transcript: Transcript
    opened: RoundOpen
    context0: bytes
    context1: bytes | None
    roster_hash: bytes
    history: KeyHistory

    @property
    def place(self) -> str:
        """How reports name it."""
        return f"leaf {self.index} ({self.path})"


def check_envelopes(
    files: Mapping[str, bytes],
    roots: Roots,
    tree: Tree,
    leaves: Sequence[Leaf],
    findings: Findings,
) -> tuple[RoundEvidence, ...]:
    """Read every transcript and check its envelopes; unreadable rounds are left out."""
    rounds: list[RoundEvidence] = []
    named: set[str] = set()
    transcripts = _decode_all(files)
    checker = _Checker(roots, tree, findings)
    checker.check_signatures(transcripts)
    history = KeyHistory()
    for leaf in leaves:
        predicate = leaf.statement.predicate
        if not isinstance(predicate, RoundPredicate):
            continue
        path = transcript_path(predicate.round)
        if path in named:
            findings.fail(leaf.place, f"a second statement about {path}")
            continue
        named.add(path)
        evidence = _read_round(files, transcripts, roots, leaf, predicate, history, findings)
        history = history.after(predicate)
        if evidence is not None:
            checker.check_round(evidence)
            rounds.append(evidence)
    for path in sorted(name for name in files if name.startswith(_FOLDER)):
        if path not in named:
            findings.fail(path, "no leaf of the log covers this transcript")
    return tuple(rounds)


def _decode_all(files: Mapping[str, bytes]) -> dict[str, Transcript | FedFMError]:
    """Every transcript, or what is wrong with it, by its path."""
    found: dict[str, Transcript | FedFMError] = {}
    for path, data in files.items():
        if path.startswith(_FOLDER):
            try:
                found[path] = Transcript.decode(data)
            except FedFMError as error:
                found[path] = error
    return found


def _read_round(
    files: Mapping[str, bytes],
    transcripts: Mapping[str, Transcript | FedFMError],
    roots: Roots,
    leaf: Leaf,
    predicate: RoundPredicate,
    history: KeyHistory,
    findings: Findings,
) -> RoundEvidence | None:
    path = transcript_path(predicate.round)
    if path not in files:
        findings.fail(path, f"missing; {leaf.place} covers it")
        return None
    if hashlib.sha256(files[path]).hexdigest() != leaf.statement.digest:
        findings.fail(path, f"is not the file that {leaf.place} covers: its SHA-256 differs")
    transcript = transcripts[path]
    if isinstance(transcript, FedFMError):
        findings.fail(path, transcript)
        return None
    try:
        openings = transcript.of("RoundOpen")
        if transcript.round != predicate.round or len(openings) != 1:
            findings.fail(
                path, f"is of round {transcript.round} with {len(openings)} RoundOpen messages"
            )
            return None
        opened = read_body(openings[0], RoundOpen)
        first = context0(roots.charter.digest, opened)
        roster_hash = hashlib.sha256(rebuild_roster(transcript.of("KeyOffer"))).digest()
    except FedFMError as error:
        findings.fail(path, error)
        return None
    second = None
    if transcript.of("KeyRoster"):
        named = history.context_key(opened, roots.charter)
        sketch_keys = transcript.of("SketchKey")
        if roots.charter.robust and opened.kind != KEYS and sketch_keys:
            named = judged_keys_hash(named, sketch_keys[0].header.body_hash)
        second = context1(first, roster_hash, named)
    return RoundEvidence(
        leaf.index, predicate, path, transcript, opened, first, second, roster_hash, history
    )


class _Checker:
    """Carries what must hold across rounds: no envelope twice, no echoed head that shrinks."""

    def __init__(self, roots: Roots, tree: Tree, findings: Findings) -> None:
        self._roots = roots
        self._parties = roots.charter.parties
        self._tree = tree
        self._findings = findings
        self._seen: dict[bytes, str] = {}
        self._heads: dict[str, int] = {}
        self._errors: dict[int, FedFMError] = {}  # by the entry's id: all of them live as long

    def check_round(self, evidence: RoundEvidence) -> None:
        last: dict[tuple[str, bytes], int] = {}
        for part, entry in evidence.transcript.placed():
            header = entry.header
            place = f"{evidence.path} {part} ({header.type} of {header.sender})"
            self._check_signature(entry, place)
            self._check_context(evidence, entry, place)
            if header.sequence <= last.get((header.sender, header.context), -1):
                self._findings.fail(place, f"sequence {header.sequence} does not follow the last")
            last[header.sender, header.context] = header.sequence
            if header.type != "SketchKey":
                self._check_echo(evidence, entry, place)
                self._check_fresh(evidence, entry, place)
        self._check_opening_note(evidence)

    def check_signatures(self, transcripts: Mapping[str, Transcript | FedFMError]) -> None:
        """All of them at once, before rounds are looked at one by one."""
        entries = [
            entry
            for transcript in transcripts.values()
            if isinstance(transcript, Transcript)
            for entry in transcript.entries
        ]
        errors = in_threads(self._signature_error, entries)
        self._errors = {
            id(entry): error for entry, error in zip(entries, errors, strict=True) if error
        }

    def _signature_error(self, entry: Entry) -> FedFMError | None:
        """What is wrong with a signature, or with the body's hash; nothing of who is no party."""
        party = self._parties.get(entry.header.sender)
        if party is None:
            return None
        try:
            entry.verify(party.identity)
            if entry.body is not None:
                entry.signed.check_body(entry.body)
        except FedFMError as error:
            return error
        return None

    def _check_signature(self, entry: Entry, place: str) -> None:
        if entry.header.sender not in self._parties:
            self._findings.fail(place, "the sender is not enrolled")
        elif id(entry) in self._errors:
            self._findings.fail(place, self._errors[id(entry)])

    def _check_context(self, evidence: RoundEvidence, entry: Entry, place: str) -> None:
        kind = entry.header.type
        if kind == "SketchKey":
            self._check_link(entry, place)
            return
        early = kind in ("RoundOpen", "KeyOffer") or (
            kind == "RoundClose" and evidence.context1 is None
        )
        expected = evidence.context0 if early else evidence.context1
        if entry.header.context != expected:
            self._findings.fail(
                place,
                f"signed under context {entry.header.context.hex()}, this round has "
                f"{expected.hex() if expected else 'none, as no key roster was fixed'}",
            )

    def _check_link(self, entry: Entry, place: str) -> None:
        if entry.header.context != link_context(self._roots.charter.digest):
            self._findings.fail(place, "a sketch key is signed for the charter, under no round")

    def _check_echo(self, evidence: RoundEvidence, entry: Entry, place: str) -> None:
        """The echoed head must be one of this log, no newer than the round's own statement, and
        no older than what the same sender echoed before."""
        header = entry.header
        size = header.checkpoint_size
        if size > evidence.index:
            self._findings.fail(place, f"echoes a head of size {size}, beyond the round's own leaf")
        elif header.checkpoint_root != self._tree.root(size):
            self._findings.fail(
                place,
                f"echoes root {header.checkpoint_root.hex()} at size {size}; this log has "
                f"{self._tree.root(size).hex()}: a split view",
            )
        if size < self._heads.get(header.sender, 0):
            self._findings.fail(place, f"echoes a head of size {size}, older than its last one")
        self._heads[header.sender] = size

    def _check_fresh(self, evidence: RoundEvidence, entry: Entry, place: str) -> None:
        digest = hashlib.sha256(entry.encoded).digest()
        first = self._seen.setdefault(digest, evidence.path)
        if first != evidence.path:
            self._findings.fail(place, f"the same envelope is part of {first} too")

    def _check_opening_note(self, evidence: RoundEvidence) -> None:
        """The checkpoint note inside RoundOpen is the log's, and the one its header echoes."""
        note = evidence.opened.checkpoint
        (opening,) = evidence.transcript.of("RoundOpen")
        place = f"{evidence.path} (checkpoint in RoundOpen)"
        echoed = (opening.header.checkpoint_size, opening.header.checkpoint_root)
        if not note:
            if echoed[0] != 0:
                self._findings.fail(place, "missing, though the header echoes a checkpoint")
            return
        try:
            size = parse_checkpoint(split_note(note)[0]).size
            checkpoint = open_note(note, self._roots.vkeys(size)).checkpoint
        except NoteError as error:
            self._findings.fail(place, error)
            return
        if (checkpoint.size, checkpoint.root) != echoed:
            self._findings.fail(place, "is not the checkpoint that the header echoes")
