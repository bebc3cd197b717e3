"""Proofs about one leaf of a log: finding it, making its document, and verifying that alone.

The document's form stands in :mod:`fedfm_audit.inclusion_document`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedfm_audit.bundle import CHARTER, POLICY
from fedfm_audit.charter_view import CharterView, open_charter
from fedfm_audit.errors import ProofError
from fedfm_audit.inclusion_document import VERSION, InclusionDocument, PlacedLeaf
from fedfm_audit.log import CHECKPOINT
from fedfm_audit.log_keys import LogKeys, log_keys_in
from fedfm_audit.policy import render_policy
from fedfm_audit.report import TrustRoots
from fedfm_audit.statements import (
    EnrolmentPredicate,
    MarkPredicate,
    RoundPredicate,
    SignedStatement,
    Statement,
    open_leaf,
    transcript_path,
)
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.head import Head, check_head
from fedfm_audit.steps.leaves import check_author
from fedfm_audit.steps.roots import check_roots
from fedfm_audit.steps_summary import StepProof, prove_step, verify_step
from fedfm_audit.tiles import read_entries
from fedfm_audit.transcript import Transcript
from fedfm_crypto.errors import FedFMError
from fedfm_crypto.merkle import inclusion_proof, leaf_hash, verify_inclusion
from fedfm_crypto.note import parse_checkpoint, split_note

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_HASH = re.compile(r"[0-9a-f]{64}")
_ROUND = re.compile(r"round:([1-9][0-9]{0,5})")
_PLACE = "the leaf"


@dataclass(frozen=True, slots=True)
class ProvenLeaf:
    """What a document proves: this statement, signed by ``signer`` (a name of the charter), is
    number ``index`` of the log at ``head``.  ``step`` is the step shown with it."""

    federation: str
    charter: str
    statement: Statement
    signer: str
    index: int
    head: Head
    trust: TrustRoots
    step: int | None

    def to_json(self) -> dict[str, Any]:
        """One JSON document."""
        return {
            "version": VERSION,
            "verdict": "verified",
            "federation": self.federation,
            "charter": self.charter,
            "index": self.index,
            "size": self.head.checkpoint.size,
            "root": self.head.checkpoint.root.hex(),
            "cosigned": dict(self.head.cosigned),
            "signer": self.signer,
            "statement": self.statement.to_json(),
            "step": self.step,
            "trust_roots": asdict(self.trust),
        }


# ---- making one


def find_leaf(files: Mapping[str, bytes], wanted: str) -> int:
    """Index of a leaf: its number, the hex SHA-256 of its bytes, its hex RFC 6962 hash, or
    ``round:N`` for the statement about round N.

    Raises
    ------
    ProofError
        if the bundle has no such leaf.
    FedFMError
        if its charter or log cannot be read.
    """
    leaves = _leaves(files)
    if _INDEX.fullmatch(wanted):
        if int(wanted) >= len(leaves):
            raise ProofError(f"no leaf {wanted}; the log has {len(leaves)}, numbered from 0")
        return int(wanted)
    if _HASH.fullmatch(wanted.lower()):
        digest = bytes.fromhex(wanted)
        for index, leaf in enumerate(leaves):
            if digest in (hashlib.sha256(leaf).digest(), leaf_hash(leaf)):
                return index
        raise ProofError(f"no leaf of the log has the hash {wanted.lower()}")
    named = _ROUND.fullmatch(wanted)
    if named is None:
        raise ProofError(
            f"{wanted[:80]!r} names no leaf; give its number, a SHA-256 in hex, or round:N"
        )
    charter = open_charter(files.get(CHARTER, b""))
    for index, leaf in enumerate(leaves):
        try:
            predicate = open_leaf(leaf, charter.keys).statement.predicate
        except FedFMError:
            continue  # it is not asked for; `audit verify` names it
        if isinstance(predicate, RoundPredicate) and predicate.round == int(named[1]):
            return index
    raise ProofError(f"the log has no statement about round {named[1]}")


def prove_inclusion(
    files: Mapping[str, bytes], index: int, step: int | None = None
) -> InclusionDocument:
    """The document of a leaf of a bundle; ``step`` adds one step of the round that it is about.

    Nothing is verified here: give the result to :func:`verify_document`.

    Raises
    ------
    ProofError
        if there is no such leaf or the leaf is about no round.
    FedFMError
        if charter, log or transcript cannot be read, or the round has no such step.
    """
    leaves = _leaves(files)
    if not 0 <= index < len(leaves):
        raise ProofError(f"no leaf {index}; the log has {len(leaves)}, numbered from 0")
    charter = files.get(CHARTER, b"")
    hashes = [leaf_hash(leaf) for leaf in leaves]
    keys, _ = log_keys_in(files, open_charter(charter))
    changes = tuple(
        PlacedLeaf(leaves[key.above], key.above, tuple(inclusion_proof(hashes, key.above)))
        for key in keys.keys[1:]
    )
    path = tuple(inclusion_proof(hashes, index))
    document = InclusionDocument(
        charter, leaves[index], index, path, files[CHECKPOINT], log_keys=changes
    )
    if step is None:
        return document
    signers = {**open_charter(charter).keys, **keys.publics}
    predicate = open_leaf(leaves[index], signers).statement.predicate
    if not isinstance(predicate, RoundPredicate):
        raise ProofError(f"leaf {index} is about no round; it has no steps")
    name = transcript_path(predicate.round)
    if name not in files:
        raise ProofError(f"{name} is missing; the step stands in it")
    return replace(document, step=prove_step(Transcript.decode(files[name]), step))


def _leaves(files: Mapping[str, bytes]) -> list[bytes]:
    if CHECKPOINT not in files:
        raise ProofError(f"the bundle has no {CHECKPOINT}")
    return read_entries(files, parse_checkpoint(split_note(files[CHECKPOINT])[0]).size)


# ---- verifying one


def verify_document(
    document: InclusionDocument,
    *,
    policy: bytes | None = None,
    charter_sha256: str | None = None,
) -> ProvenLeaf:
    """Verify a document by itself: charter, checkpoint and quorum, path, signature, and the step.

    Without ``policy`` the keys come from the document, as with a bundle.

    Raises
    ------
    ProofError
        naming what does not hold.
    """
    findings = Findings()
    try:
        charter = open_charter(document.charter)
        keys = LogKeys.of(charter)
        for change in document.log_keys:
            keys = keys.follow(change.leaf, change.index)
        rendered = render_policy(charter, keys)
        files = {CHARTER: document.charter, POLICY: rendered, CHECKPOINT: document.checkpoint}
        roots = check_roots(files, policy, charter_sha256, findings, keys)
        head = None if roots is None else check_head(files, roots, findings)
        _refuse(findings)
        if roots is None or head is None:
            raise ProofError("charter and checkpoint give nothing to judge by")
        checkpoint = head.checkpoint
        for placed in (
            *document.log_keys,
            PlacedLeaf(document.leaf, document.index, document.path),
        ):
            verify_inclusion(
                placed.index,
                checkpoint.size,
                leaf_hash(placed.leaf),
                placed.path,
                checkpoint.root,
            )
        signed = open_leaf(document.leaf, roots.signers)
        _check_leaf(roots.charter, signed, document.leaf, findings)
        _refuse(findings)
        if document.step is not None:
            _check_step(document.step, signed.statement, roots.charter)
    except ProofError:
        raise
    except FedFMError as error:
        raise ProofError(str(error)) from error
    parties = {party.identity.hex: name for name, party in roots.charter.parties.items()}
    signer = parties.get(signed.signer, f"the log {roots.charter.log_key.name}")
    return ProvenLeaf(
        roots.charter.federation,
        roots.charter.digest.hex(),
        signed.statement,
        signer,
        document.index,
        head,
        roots.trust,
        None if document.step is None else document.step.step,
    )


def _refuse(findings: Findings) -> None:
    for failure in findings.failures:
        raise ProofError(f"{failure.place}: {failure.reason}")


def _check_leaf(
    charter: CharterView, signed: SignedStatement, leaf: bytes, findings: Findings
) -> None:
    check_author(charter, signed, leaf, _PLACE, findings)
    predicate = signed.statement.predicate
    if isinstance(predicate, EnrolmentPredicate):
        return  # made before there was a charter, which names it by its hash instead
    if isinstance(predicate, MarkPredicate):  # the same
        owners = () if charter.watermark is None else charter.watermark["owners"]
        named = {owner["commitment"] for owner in owners}
        if hashlib.sha256(leaf).hexdigest() not in named:
            findings.fail(_PLACE, "commits to a mark that the charter does not name")
        return
    if predicate.charter != charter.digest.hex():
        findings.fail(_PLACE, f"names charter {predicate.charter}, not this one")


def _check_step(proof: StepProof, statement: Statement, charter: CharterView) -> None:
    """The step is the statement's, and its messages are of this charter's parties.

    Whether they follow the protocol only the whole transcript shows.
    """
    predicate = statement.predicate
    if not isinstance(predicate, RoundPredicate):
        raise ProofError("a step is shown, and the statement is about no round")
    verify_step(proof, predicate.steps)
    for position, entry in enumerate(proof.entries()):
        place, header = f"step {proof.step} message {position}", entry.header
        party = charter.parties.get(header.sender)
        if party is None:
            raise ProofError(f"{place}: {header.sender} is not in the charter")
        if header.step != proof.step:
            raise ProofError(f"{place}: is of step {header.step}")
        entry.signed.verify(party.identity)
        if entry.body is not None:
            entry.signed.check_body(entry.body)
