"""The log's key changes inside the log: the verifier follows it from the charter's key, and takes
nothing that is signed by any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from fedfm_audit.bundle import CHARTER, POLICY
from fedfm_audit.charter_view import open_charter
from fedfm_audit.errors import ProofError, StatementError
from fedfm_audit.inclusion import find_leaf, prove_inclusion, verify_document
from fedfm_audit.inclusion_document import InclusionDocument
from fedfm_audit.log import CHECKPOINT
from fedfm_audit.log_keys import LogKeys, log_keys_of, vkey_text
from fedfm_audit.policy import render_policy
from fedfm_audit.report import Report, Status
from fedfm_audit.statements import (
    ConclusionPredicate,
    LogKeyPredicate,
    conclusion_statement,
    log_key_statement,
    sign_statement,
)
from fedfm_audit.tiles import render_tiles
from fedfm_audit.verify import verify_files
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.merkle import leaf_hash, tree_root
from fedfm_crypto.note import Checkpoint, add_signature, cosign, format_vkey, sign_checkpoint
from fedfm_crypto.random_source import SeededRandom
from tests.audit.simulated import MOMENT, ORIGIN, Evidence, founded

SECOND, THIRD, STRANGER = (IdentityKey.generate(SeededRandom(b"key %d" % n)) for n in range(3))


def vkey(key: IdentityKey) -> str:
    return format_vkey(ORIGIN, key.public)


def note(leaves: Sequence[bytes], *keys: IdentityKey) -> bytes:
    root = tree_root([leaf_hash(leaf) for leaf in leaves])
    signed = sign_checkpoint(Checkpoint(ORIGIN, len(leaves), root), ORIGIN, keys[0])
    for key in keys[1:]:
        other = sign_checkpoint(Checkpoint(ORIGIN, len(leaves), root), ORIGIN, key)
        signed = add_signature(signed, other.rpartition(b"\n\n")[2])
    return signed


@dataclass
class Rotated:
    """A federation without rounds whose log changed its key twice."""

    evidence: Evidence = field(default_factory=lambda: founded(3))
    signer: tuple[IdentityKey, ...] = (THIRD,)

    def __post_init__(self) -> None:
        self.charter = open_charter(self.evidence.envelope)
        self.old = self.evidence.keys.log
        for before, after in ((self.old, SECOND), (SECOND, THIRD)):
            self.evidence.leaves.append(self.keys.sign_change(before, after.public))

    @property
    def leaves(self) -> list[bytes]:
        return self.evidence.leaves

    @property
    def keys(self) -> LogKeys:
        return log_keys_of(LogKeys.of(self.charter), self.leaves)

    def change(self, signer: IdentityKey, **fields: Any) -> bytes:
        """A change of the key as somebody would forge it: number 1, to :data:`STRANGER`."""
        said = {
            "charter": self.charter.digest.hex(),
            "sequence": 1,
            "previous": vkey(self.old),
            "key": vkey(STRANGER),
            **fields,
        }
        return sign_statement(log_key_statement(LogKeyPredicate(**said)), signer)

    def files(self, *signers: IdentityKey, policy: bytes | None = None) -> dict[str, bytes]:
        head = note(self.leaves, *(signers or self.signer))
        for name, key in self.evidence.keys.clients.items():
            head = add_signature(head, cosign(head, f"test/{name}", key, MOMENT))
        rendered = render_policy(self.charter, _followed(self))
        return {
            CHARTER: self.evidence.envelope,
            POLICY: policy or rendered,
            CHECKPOINT: head,
            **render_tiles(self.leaves),
        }

    def verify(self, *signers: IdentityKey, **options: Any) -> Report:
        return verify_files(self.files(*signers), name="rotated", **options)


def _followed(rotated: Rotated) -> LogKeys:
    """As far as the changes hold."""
    keys = LogKeys.of(rotated.charter)
    for index, leaf in enumerate(rotated.leaves):
        try:
            keys = keys.follow(leaf, index) if keys.changes(leaf) else keys
        except StatementError:
            continue
    return keys


@pytest.fixture
def rotated() -> Rotated:
    return Rotated()


def places(report: Report) -> list[tuple[int, str, str]]:
    return [
        (step.number, failure.place, failure.reason)
        for step in report.steps
        for failure in step.failures
    ]


def test_the_verifier_follows_the_changes(rotated: Rotated) -> None:
    report = rotated.verify()
    assert report.ok, places(report)
    assert vkey_text(rotated.keys.last) == vkey(THIRD)
    sizes = [vkey_text(rotated.keys.at(size)) for size in (0, 5, 6, 7)]
    assert sizes == [vkey(rotated.old), vkey(rotated.old), vkey(SECOND), vkey(THIRD)]


def test_a_change_may_come_between_rounds_and_not_after_the_conclusion(rotated: Rotated) -> None:
    conclusion = ConclusionPredicate(
        rotated.charter.digest.hex(), rotated.charter.initial_adapter.hex(), 0, 0, 0
    )
    leaf = sign_statement(conclusion_statement(conclusion), rotated.evidence.keys.coordinator)
    rotated.leaves.append(leaf)
    assert rotated.verify().ok
    rotated.leaves[-2:] = [leaf, rotated.leaves[-2]]
    assert any(number == 4 and "after" in why for number, _, why in places(rotated.verify()))


@pytest.mark.parametrize(
    "signers", [("old",), ("second",), ("old", "third"), ("stranger",)], ids=" and ".join
)
def test_a_head_is_signed_by_the_key_in_force_alone(
    rotated: Rotated, signers: tuple[str, ...]
) -> None:
    known = {"old": rotated.old, "second": SECOND, "third": THIRD, "stranger": STRANGER}
    report = rotated.verify(*(known[name] for name in signers))
    assert [(number, place) for number, place, _ in places(report)] == [(1, CHECKPOINT)]


def _to_another(rotated: Rotated) -> list[bytes]:
    """The old key hands the log over twice, to two different keys."""
    return [rotated.leaves[5], rotated.change(rotated.old)]


def _by_a_stranger(rotated: Rotated) -> list[bytes]:
    return [rotated.change(STRANGER)]


def _by_the_coordinator(rotated: Rotated) -> list[bytes]:
    return [rotated.change(rotated.evidence.keys.coordinator)]


def _skipped(rotated: Rotated) -> list[bytes]:
    """The second change without the first."""
    return [rotated.leaves[6]]


def _of_another_charter(rotated: Rotated) -> list[bytes]:
    return [rotated.change(rotated.old, charter="ab" * 32)]


def _with_a_gap(rotated: Rotated) -> list[bytes]:
    return [rotated.change(rotated.old, sequence=2)]


def _back(rotated: Rotated) -> list[bytes]:
    """Back to a key that was given up."""
    again = rotated.change(SECOND, sequence=2, previous=vkey(SECOND), key=vkey(rotated.old))
    return [rotated.leaves[5], again]


def _to_another_log(rotated: Rotated) -> list[bytes]:
    return [rotated.change(rotated.old, key=format_vkey("other/log", STRANGER.public))]


def _other_statement(rotated: Rotated) -> list[bytes]:
    """The log's key signs what only the coordinator may say."""
    conclusion = ConclusionPredicate(
        rotated.charter.digest.hex(), rotated.charter.initial_adapter.hex(), 0, 0, 0
    )
    return [sign_statement(conclusion_statement(conclusion), rotated.old)]


LIES: list[tuple[Callable[[Rotated], list[bytes]], int, int]] = [
    (_to_another, 3, 6),
    (_by_a_stranger, 3, 5),
    (_by_the_coordinator, 3, 5),
    (_skipped, 3, 5),
    (_of_another_charter, 0, 5),
    (_with_a_gap, 0, 5),
    (_back, 0, 6),
    (_to_another_log, 0, 5),
    (_other_statement, 0, 5),
]


@pytest.mark.parametrize(("lie", "step", "leaf"), LIES, ids=[lie.__name__ for lie, _, _ in LIES])
def test_a_false_change_is_named(
    rotated: Rotated, lie: Callable[[Rotated], list[bytes]], step: int, leaf: int
) -> None:
    rotated.leaves[5:] = lie(rotated)
    head = _followed(rotated).last.public
    signer = {key.public: key for key in (rotated.old, SECOND, THIRD, STRANGER)}[head]
    found = places(rotated.verify(signer))
    assert found, "verified"
    assert (step, f"leaf {leaf}") in {(number, place) for number, place, _ in found}


def test_the_bundled_policy_names_the_key_in_force(rotated: Rotated) -> None:
    files = rotated.files(policy=render_policy(rotated.charter))
    report = verify_files(files, name="rotated")
    assert [(number, place) for number, place, _ in places(report)] == [(0, POLICY)]
    assert f"\nlog {vkey(THIRD)}\n" in rotated.files()[POLICY].decode()


def test_an_auditors_policy_may_list_any_key_of_the_chain(rotated: Rotated) -> None:
    rendered = rotated.files()[POLICY].decode()
    for key, ok in ((rotated.old, True), (SECOND, True), (THIRD, True), (STRANGER, False)):
        policy = rendered.replace(vkey(THIRD), vkey(key)).encode()
        assert rotated.verify(policy=policy).ok is ok


def test_a_proof_of_one_leaf_brings_the_changes_along(rotated: Rotated) -> None:
    files = rotated.files()
    document = prove_inclusion(files, find_leaf(files, "1"))
    assert len(document.log_keys) == 2
    assert InclusionDocument.decode(document.encode()) == document
    assert verify_document(document).index == 1
    change = prove_inclusion(files, 6)
    assert verify_document(change).signer == f"the log {ORIGIN}"
    for kept in ((), document.log_keys[:1], document.log_keys[1:]):
        with pytest.raises(ProofError):
            verify_document(_with_changes(document, kept))


def _with_changes(document: InclusionDocument, kept: Any) -> InclusionDocument:
    return InclusionDocument(
        document.charter,
        document.leaf,
        document.index,
        document.path,
        document.checkpoint,
        log_keys=kept,
    )


def test_without_changes_nothing_is_different() -> None:
    evidence = founded(3)
    charter = open_charter(evidence.envelope)
    assert render_policy(charter, LogKeys.of(charter)) == render_policy(charter)
    assert {step.status for step in evidence.verify().steps[:4]} == {Status.VERIFIED}
