"""Two bundles of one federation held against each other: one history, or two.

An earlier and a later bundle, or two parties' copies, tell one history exactly if the shorter log
is a prefix of the longer one; a consistency proof (RFC 9162) between the two signed heads shows it.
If not, the first leaf that differs is named, and both heads, signed by one log key, are the proof
that its owner told two stories.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fedfm_audit.bundle import CHARTER
from fedfm_audit.charter_view import CharterView, Party
from fedfm_audit.report import Failure, printable
from fedfm_audit.statements import RoundPredicate, Statement, open_leaf, transcript_path
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.head import Head, check_head
from fedfm_audit.steps.roots import Roots, check_roots
from fedfm_audit.steps.tree import Tree, check_tree
from fedfm_audit.transcript import Transcript
from fedfm_crypto.canonical_json import canonical_decode
from fedfm_crypto.dsse import dsse_read_unverified
from fedfm_crypto.errors import FedFMError, MerkleError
from fedfm_crypto.merkle import consistency_proof, verify_consistency

VERSION = 1
_SIDES = ("A", "B")


class Relation(Enum):
    """How two logs stand to each other."""

    SAME = "same"
    B_EXTENDS_A = "B extends A"
    A_EXTENDS_B = "A extends B"
    FORK = "fork"
    INCOMPARABLE = "incomparable"


@dataclass(frozen=True, slots=True)
class ReadLog:
    """The charter, the signed head and the leaves of a bundle."""

    roots: Roots
    head: Head
    tree: Tree

    def statement(self, index: int) -> Statement | None:
        """What a leaf says; None if that cannot be read."""
        try:
            return open_leaf(self.tree.leaves[index], self.roots.signers).statement
        except FedFMError:
            return None

    def sha256(self, index: int) -> str:
        """Hex SHA-256 of a leaf's bytes."""
        return hashlib.sha256(self.tree.leaves[index]).hexdigest()


@dataclass(frozen=True, slots=True)
class Side:
    """One bundle as far as it was read; ``failures`` of steps 0 to 2 come with their step."""

    name: str
    roots: Roots | None
    log: ReadLog | None
    failures: tuple[tuple[int, Failure], ...]


@dataclass(frozen=True, slots=True)
class ForkedLeaf:
    """The first leaf that differs; a statement is None where the leaf cannot be read."""

    index: int
    statements: tuple[Statement | None, Statement | None]
    hashes: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two bundles have in common.

    ``problems`` are differences that no honest pair has; ``notes`` may differ between honest
    copies (later heads, more cosignatures).  ``proof`` is the consistency proof from the smaller to
    the larger log.
    """

    sides: tuple[Side, Side]
    relation: Relation
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    fork: ForkedLeaf | None
    proof: tuple[bytes, ...]

    @property
    def ok(self) -> bool:
        """Whether both tell one history."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """One versioned JSON document."""
        return {
            "version": VERSION,
            "verdict": "one history" if self.ok else "different",
            "relation": self.relation.value,
            "bundles": [_side_json(side) for side in self.sides],
            "problems": list(self.problems),
            "notes": list(self.notes),
            "consistency_proof": [node.hex() for node in self.proof],
            "first_difference": None
            if self.fork is None
            else {
                "leaf": self.fork.index,
                "sha256": list(self.fork.hashes),
                "statements": [
                    None if statement is None else statement.to_json()
                    for statement in self.fork.statements
                ],
            },
        }

    def to_text(self) -> str:
        """A few lines for a person; the verdict comes first."""
        lines = [f"{'ONE HISTORY' if self.ok else 'DIFFERENT'}  {self.relation.value}"]
        for label, side in zip(_SIDES, self.sides, strict=True):
            head = "no readable log"
            if side.log is not None:
                checkpoint = side.log.head.checkpoint
                head = f"{checkpoint.size} leaves, root {checkpoint.root.hex()}"
            lines.append(f"{label}  {side.name}: {head}")
        lines += [f"difference: {problem}" for problem in self.problems]
        if self.fork is not None:
            for label, statement in zip(_SIDES, self.fork.statements, strict=True):
                lines.append(f"{label} says at leaf {self.fork.index}: {_brief(statement)}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(printable(line) for line in lines) + "\n"


def compare_bundles(
    a: Mapping[str, bytes],
    b: Mapping[str, bytes],
    *,
    names: tuple[str, str] = _SIDES,
    policy: bytes | None = None,
) -> Comparison:
    """Hold the files of two bundles against each other.

    Each is judged by steps 0 to 2 of the verification (with ``policy`` instead of the keys that it
    brings along, if given); messages and rounds are not replayed: verify both for that.
    """
    sides = (_read(a, names[0], policy), _read(b, names[1], policy))
    problems = [
        f"{label} fails step {step}: {failure.place}: {failure.reason}"
        for label, side in zip(_SIDES, sides, strict=True)
        for step, failure in side.failures
    ]
    if sides[0].roots is not None and sides[1].roots is not None:
        problems += _charter_differences(a, b, sides[0].roots.charter, sides[1].roots.charter)
    left, right = sides[0].log, sides[1].log
    if left is None or right is None:
        problems.append("one of the two logs cannot be read, so histories were not compared")
        return Comparison(sides, Relation.INCOMPARABLE, tuple(problems), (), None, ())
    relation, fork, proof = _compare_logs(left, right)
    problems += _two_verdicts(a, b, left)
    if fork is not None:
        signed = not (sides[0].failures or sides[1].failures)
        problems += _fork_problems(left, right, fork, signed=signed)
    else:
        problems += _transcript_differences(a, b, left, right)
    return Comparison(
        sides, relation, tuple(problems), tuple(_cosigner_notes(left, right)), fork, proof
    )


def read_log(files: Mapping[str, bytes]) -> ReadLog | None:
    """The log of a bundle whose head the log's key signed over exactly these leaves, cosigned or
    not; None if there is none."""
    log = _read(files, "", None).log
    if log is None or log.tree.root(log.tree.size) != log.head.checkpoint.root:
        return None
    return log


def _read(files: Mapping[str, bytes], name: str, policy: bytes | None) -> Side:
    failures: list[tuple[int, Failure]] = []

    def keep(step: int, findings: Findings) -> None:
        failures.extend((step, failure) for failure in findings.failures)

    findings = Findings()
    roots = check_roots(files, policy, None, findings)
    keep(0, findings)
    head = log = None
    if roots is not None:
        findings = Findings()
        head = check_head(files, roots, findings)
        keep(1, findings)
    if roots is not None and head is not None:
        findings = Findings()
        tree = check_tree(files, head, findings)
        keep(2, findings)
        log = None if tree is None else ReadLog(roots, head, tree)
    return Side(name, roots, log, tuple(failures))


def _charter_differences(
    a: Mapping[str, bytes], b: Mapping[str, bytes], left: CharterView, right: CharterView
) -> Iterator[str]:
    if left.digest == right.digest:
        return
    fields = [_charter_fields(files) for files in (a, b)]
    names = sorted(
        name
        for name in fields[0].keys() | fields[1].keys()
        if fields[0].get(name) != fields[1].get(name)
    )
    yield (
        f"the charters differ in {', '.join(names)}: SHA-256 {left.digest.hex()} and "
        f"{right.digest.hex()}"
    )
    if left.federation != right.federation or left.log_key != right.log_key:
        yield "these are not bundles of one federation: its name or the log's key is another"


def _charter_fields(files: Mapping[str, bytes]) -> Mapping[str, Any]:
    document = canonical_decode(dsse_read_unverified(files[CHARTER]).payload)
    return document if isinstance(document, dict) else {}


def _compare_logs(
    left: ReadLog, right: ReadLog
) -> tuple[Relation, ForkedLeaf | None, tuple[bytes, ...]]:
    small, large = sorted((left.tree, right.tree), key=lambda tree: tree.size)
    proof = consistency_proof(large.hashes, small.size)
    try:
        verify_consistency(
            small.size, large.size, small.root(small.size), large.root(large.size), proof
        )
    except MerkleError:
        return Relation.FORK, _first_difference(left, right), ()
    if left.tree.size == right.tree.size:
        return Relation.SAME, None, tuple(proof)
    longer = Relation.B_EXTENDS_A if small is left.tree else Relation.A_EXTENDS_B
    return longer, None, tuple(proof)


def _first_difference(left: ReadLog, right: ReadLog) -> ForkedLeaf:
    pairs = zip(left.tree.hashes, right.tree.hashes, strict=False)
    index = next(index for index, (one, other) in enumerate(pairs) if one != other)
    return ForkedLeaf(
        index,
        (left.statement(index), right.statement(index)),
        (left.sha256(index), right.sha256(index)),
    )


def _fork_problems(
    left: ReadLog, right: ReadLog, fork: ForkedLeaf, *, signed: bool
) -> Iterator[str]:
    yield (
        f"the logs agree on {fork.index} leaves and part at leaf {fork.index}: SHA-256 "
        f"{fork.hashes[0]} and {fork.hashes[1]}"
    )
    if not signed or left.roots.charter.log_key != right.roots.charter.log_key:
        return
    yield (
        "both heads carry the signature of one log key: its owner told two histories; keep both "
        "bundles as the proof"
    )
    both = sorted(left.head.cosigned.keys() & right.head.cosigned.keys())
    if both:
        yield f"cosigned both, which no honest witness does: {', '.join(both)}"


def _transcript_differences(
    a: Mapping[str, bytes], b: Mapping[str, bytes], left: ReadLog, right: ReadLog
) -> Iterator[str]:
    """Of rounds that both logs state: whichever file differs from its statement is wrong."""
    common = min((left, right), key=lambda log: log.tree.size)
    for index in range(common.tree.size):
        statement = common.statement(index)
        if statement is None or not isinstance(statement.predicate, RoundPredicate):
            continue
        name = transcript_path(statement.predicate.round)
        for label, files in zip(_SIDES, (a, b), strict=True):
            if name not in files:
                yield f"{label} lacks {name}, which leaf {index} states"
            elif hashlib.sha256(files[name]).hexdigest() != statement.digest:
                yield f"{label} holds another {name} than leaf {index} states"


def _two_verdicts(a: Mapping[str, bytes], b: Mapping[str, bytes], log: ReadLog) -> Iterator[str]:
    """Words of the validator that no honest one says twice: about one round and step, in one
    context, of one kind, and yet different."""
    validator = log.roots.charter.validator
    if validator is None:
        return
    shared = sorted(name for name in a.keys() & b.keys() if name.startswith("transcripts/"))
    for name in shared:
        if a[name] == b[name]:
            continue
        try:
            said = [_words_of(validator, Transcript.decode(files[name])) for files in (a, b)]
        except FedFMError:
            continue
        for place in sorted(said[0].keys() & said[1].keys()):
            if said[0][place] != said[1][place]:
                kind, step, _ = place
                yield (
                    f"{validator.name} signed two different {kind} messages on step {step} of one "
                    f"round ({name}): {said[0][place].hex()} and {said[1][place].hex()}"
                )


def _words_of(validator: Party, transcript: Transcript) -> dict[tuple[str, int, bytes], bytes]:
    """What the validator truly signed in a transcript: (type, step, context) to body hash."""
    found = {}
    for kind in ("Verdict", "BindingResult"):
        for entry in transcript.of(kind):
            try:
                entry.verify(validator.identity)
            except FedFMError:
                continue
            found[kind, entry.header.step, entry.header.context] = entry.header.body_hash
    return found


def _cosigner_notes(left: ReadLog, right: ReadLog) -> Iterator[str]:
    for label, one, other in (("A", left.head, right.head), ("B", right.head, left.head)):
        only = sorted(one.cosigned.keys() - other.cosigned.keys())
        if only:
            yield f"only {label}'s head is cosigned by {', '.join(only)}"


def _brief(statement: Statement | None) -> str:
    if statement is None:
        return "(no statement that can be read)"
    fields = statement.to_json()
    return f"{fields['predicateType']} {json.dumps(fields['predicate'], sort_keys=True)[:600]}"


def _side_json(side: Side) -> dict[str, Any]:
    head = None if side.log is None else side.log.head
    return {
        "bundle": side.name,
        "charter": None if side.roots is None else side.roots.charter.digest.hex(),
        "size": None if head is None else head.checkpoint.size,
        "root": None if head is None else head.checkpoint.root.hex(),
        "cosigned": {} if head is None else dict(head.cosigned),
    }
