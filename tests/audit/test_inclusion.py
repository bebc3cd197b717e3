"""Documents about one leaf: what they prove alone, in whose tools, and which lies they refuse."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from pymerkle import InmemoryTree

from fedfm_audit.errors import ProofError
from fedfm_audit.inclusion import find_leaf, prove_inclusion, verify_document
from fedfm_audit.inclusion_document import InclusionDocument
from fedfm_audit.statements import RoundPredicate, sign_statement
from fedfm_crypto.errors import FedFMError
from fedfm_crypto.merkle import leaf_hash
from tests.audit.played_round import Script
from tests.audit.synthetic import Federation, play_federation

Files = Mapping[str, bytes]
ROUND_LEAF = 7  # after six enrolments and the federation


@pytest.fixture
def document(bundle: Files) -> InclusionDocument:
    """The statement about round 1, as anybody may be given it."""
    return prove_inclusion(bundle, ROUND_LEAF)


@pytest.fixture(scope="module")
def sessions() -> Federation:
    """One session of three steps."""
    return play_federation(Script(), steps=3)


# ---- finding a leaf


def test_a_leaf_by_number_hash_and_round(federation: Federation, bundle: Files) -> None:
    leaf = federation.leaves[ROUND_LEAF]
    for name in (str(ROUND_LEAF), "round:1", hashlib.sha256(leaf).hexdigest()):
        assert find_leaf(bundle, name) == ROUND_LEAF
    assert find_leaf(bundle, leaf_hash(leaf).hex().upper()) == ROUND_LEAF


@pytest.mark.parametrize("name", ["99", "round:9", "ab" * 32, "", "-1", "07", "round:0", "\u0661"])
def test_a_leaf_that_is_not_there(bundle: Files, name: str) -> None:
    with pytest.raises(ProofError):
        find_leaf(bundle, name)


# ---- what holds


def test_every_leaf_can_be_shown_alone(federation: Federation, bundle: Files) -> None:
    for index, leaf in enumerate(federation.leaves):
        sent = prove_inclusion(bundle, index).encode()
        received = InclusionDocument.decode(sent)
        assert received.leaf == leaf
        found = verify_document(received, policy=bundle["policy"])
        assert (found.index, found.head.checkpoint.size) == (index, len(federation.leaves))
        assert found.trust.policy == "auditor"


def test_what_it_proves_is_said(document: InclusionDocument) -> None:
    found = verify_document(document)
    assert isinstance(found.statement.predicate, RoundPredicate)
    said = json.loads(json.dumps(found.to_json()))
    assert said["verdict"] == "verified"
    assert said["signer"] == "coordinator"
    assert said["statement"]["predicate"]["round"] == 1
    assert said["trust_roots"] == {"charter": "bundle", "policy": "bundle"}


def test_a_step_of_a_session(sessions: Federation) -> None:
    files = sessions.files()
    index = find_leaf(files, "round:1")
    for step in range(3):
        sent = prove_inclusion(files, index, step).encode()
        received = InclusionDocument.decode(sent)
        assert verify_document(received, policy=files["policy"]).step == step
        assert received.step is not None
        assert {entry.header.step for entry in received.step.entries()} == {step}
    with pytest.raises(FedFMError, match="no step 3"):
        prove_inclusion(files, index, 3)
    with pytest.raises(ProofError, match="about no round"):
        prove_inclusion(files, 0, 0)


def test_the_tlog_proof_reads_as_the_specification_says(
    federation: Federation, bundle: Files, document: InclusionDocument
) -> None:
    """Parsed by hand, and the path compared with pymerkle's."""
    lines, _, note = document.tlog_proof().partition(b"\n\n")
    head, index, *path = lines.decode().split("\n")
    assert (head, index) == ("c2sp.org/tlog-proof@v1", f"index {ROUND_LEAF}")
    assert note == bundle["checkpoint"]
    theirs = InmemoryTree(algorithm="sha256")
    for leaf in federation.leaves:
        theirs.append_entry(leaf)
    expected = theirs.prove_inclusion(ROUND_LEAF + 1, len(federation.leaves)).path[1:]
    assert [base64.b64decode(node) for node in path] == expected


# ---- lies


def _flip(data: bytes, at: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


LIES: dict[str, Callable[[InclusionDocument], InclusionDocument]] = {
    "another index": lambda d: replace(d, index=d.index + 1),
    "an index beyond the log": lambda d: replace(d, index=1000),
    "an altered path": lambda d: replace(d, path=(_flip(d.path[0]), *d.path[1:])),
    "a path cut short": lambda d: replace(d, path=d.path[:-1]),
    "a path too long": lambda d: replace(d, path=(*d.path, d.path[0])),
    "an altered leaf": lambda d: replace(d, leaf=_flip(d.leaf, 100)),
    "an altered charter": lambda d: replace(d, charter=_flip(d.charter, 100)),
    "an altered checkpoint": lambda d: replace(
        d, checkpoint=d.checkpoint.replace(b"\n11\n", b"\n12\n")
    ),
    "no cosignatures": lambda d: replace(
        d, checkpoint=b"\n".join(d.checkpoint.split(b"\n")[:5]) + b"\n"
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(document: InclusionDocument, lie: str) -> None:
    changed = LIES[lie](document)
    assert changed != document
    with pytest.raises(ProofError):
        verify_document(changed)


def test_a_leaf_of_another_federation_under_this_log(document: InclusionDocument) -> None:
    other = prove_inclusion(play_federation(seed=b"other").files(), ROUND_LEAF)
    with pytest.raises(ProofError):
        verify_document(replace(document, leaf=other.leaf))
    with pytest.raises(ProofError, match="unknown key"):
        verify_document(replace(document, charter=other.charter))


def test_a_document_of_strangers_does_not_pass_my_policy(bundle: Files) -> None:
    strangers = prove_inclusion(play_federation(seed=b"other").files(), ROUND_LEAF)
    verify_document(strangers)
    with pytest.raises(ProofError, match="the policy given by the auditor"):
        verify_document(strangers, policy=bundle["policy"])
    with pytest.raises(ProofError, match="the auditor expects"):
        verify_document(strangers, charter_sha256="00" * 32)


def test_a_log_that_holds_what_its_signer_may_not_say(
    federation: Federation, document: InclusionDocument
) -> None:
    """The log's owner may log anything: here a round's statement under an institution's key."""
    leaves = list(federation.leaves)
    statement = verify_document(document).statement
    leaves[ROUND_LEAF] = sign_statement(statement, federation.keys["client-01"])
    with pytest.raises(ProofError, match="only the coordinator makes"):
        verify_document(prove_inclusion(federation.files(leaves=leaves), ROUND_LEAF))


def test_steps_of_another_number_or_round(sessions: Federation) -> None:
    files = sessions.files()
    index = find_leaf(files, "round:1")
    shown = prove_inclusion(files, index, 1)
    other = prove_inclusion(files, index, 2)
    assert shown.step is not None
    assert other.step is not None
    for step in (
        replace(shown.step, step=2),
        replace(shown.step, leaf=other.step.leaf),
        replace(shown.step, path=other.step.path),
        replace(shown.step, leaf=b"[]"),
    ):
        with pytest.raises(ProofError):
            verify_document(replace(shown, step=step))
    enrolment = prove_inclusion(files, 0)
    with pytest.raises(ProofError, match="about no round"):
        verify_document(replace(enrolment, step=shown.step))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + " ",
        lambda text: text.replace('"version":1', '"version":2'),
        lambda text: text.replace('"index":7', '"index":7.5'),
        lambda text: text.replace('"index":7', '"index":-7'),
        lambda text: text.replace('"index":7', '"index":true'),
        lambda text: text.replace('"step":null', '"step":null,"stop":null'),
        lambda text: text.replace('"step":null', '"step":{}'),
        lambda text: text.replace('"path":["', '"path":["0'),
        lambda text: text.replace('"leaf":"', '"leaf":"!'),
        lambda text: "[]",
        lambda text: "",
        lambda text: text[:-20],
    ],
)
def test_other_bytes_are_no_document(
    document: InclusionDocument, change: Callable[[str], str]
) -> None:
    text = document.encode().decode()
    changed = change(text)
    assert changed != text
    with pytest.raises(ProofError):
        InclusionDocument.decode(changed.encode())
