"""The verifier on an honest bundle: what it reports, and on whose word."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pymerkle import InmemoryTree
from safetensors.numpy import save_file

from fedfm_audit.charter_view import open_charter
from fedfm_audit.policy import render_policy
from fedfm_audit.report import STEP_TITLES, Report, Status
from fedfm_audit.verify import verify_files
from fedfm_crypto.hashing import hash_tensors
from fedfm_crypto.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
)
from fedfm_crypto.note import NoteAlgorithm, format_vkey
from tests.audit.played_round import ABORTED, Script
from tests.audit.synthetic import Federation, play_federation

Files = dict[str, bytes]


def test_the_honest_bundle_is_verified(bundle: Files) -> None:
    report = verify_files(bundle, name="bundle")
    assert report.ok, report.to_text()
    assert [step.number for step in report.steps] == list(range(10))
    assert all(report.step(number).status is Status.VERIFIED for number in range(6))
    for number in range(6, 10):
        assert report.step(number).status is Status.NOT_CHECKABLE
        assert report.step(number).detail
    summary = report.summary
    assert summary is not None
    assert (summary.rounds_completed, summary.rounds_void, summary.rounds_aborted) == (2, 0, 1)
    assert summary.concluded


@pytest.mark.parametrize(
    "stop",
    ["KeyRoster", "ShareDelivery", "UploadSet", "Cohort", "CohortProof", "Aggregate"],
)
def test_a_round_may_be_aborted_at_any_point(stop: str) -> None:
    federation = play_federation(Script(stop_before=stop, reason="stopped"), Script())
    report = verify_files(federation.files(), name="bundle")
    assert report.ok, report.to_text()


@pytest.mark.parametrize("kind", ["KeyOffer", "ShareBundle", "UploadHash", "Upload", "CohortVote"])
def test_one_client_may_drop_at_any_point(kind: str) -> None:
    federation = play_federation(Script(silent={"client-02": kind}), Script())
    report = verify_files(federation.files(), name="bundle")
    assert report.ok, report.to_text()


def test_a_void_round_keeps_the_adapter() -> None:
    split = {"client-01": bytes(32), "client-02": bytes(32)}
    federation = play_federation(Script(acknowledged=split, outcome="void", reason="no quorum"))
    report = verify_files(federation.files(), name="bundle")
    assert report.ok, report.to_text()
    assert report.summary is not None
    assert report.summary.adapter == open_charter(federation.charter).initial_adapter.hex()


def test_one_dissenter_does_not_void_a_round() -> None:
    federation = play_federation(Script(acknowledged={"client-03": bytes(32)}))
    assert verify_files(federation.files(), name="bundle").ok


def test_suite_clear_is_replayed_alike() -> None:
    federation = play_federation(change_charter=lambda fields: fields.update(suite="clear"))
    assert verify_files(federation.files(), name="bundle").ok


def test_a_running_federation_has_no_conclusion() -> None:
    federation = play_federation(Script(), conclude=False)
    report = verify_files(federation.files(), name="bundle")
    assert report.ok
    assert any("still running" in warning for warning in report.warnings)


def test_a_federation_before_its_first_round() -> None:
    federation = Federation()
    assert verify_files(federation.files(), name="bundle").ok


# ---- trust roots


def test_without_a_policy_the_report_says_so(bundle: Files) -> None:
    report = verify_files(bundle, name="bundle")
    assert (report.roots.policy, report.roots.charter) == ("bundle", "bundle")
    assert any("came from the bundle itself" in warning for warning in report.warnings)


def test_the_auditors_policy_and_charter_hash_are_the_roots(
    federation: Federation, bundle: Files
) -> None:
    policy = render_policy(open_charter(federation.charter))
    report = verify_files(bundle, name="bundle", policy=policy)
    assert (report.ok, report.roots.policy, report.roots.charter) == (True, "auditor", "policy")
    digest = federation.charter_hash.hex()
    report = verify_files(bundle, name="bundle", policy=policy, charter_sha256=digest)
    assert (report.ok, report.roots.charter, report.warnings) == (True, "auditor", ())


def own_policy(federation: Federation, *, witness: str = "client-01", log: bool = True) -> bytes:
    """A policy that trusts one witness and the log (or some other log)."""
    charter = open_charter(federation.charter)
    key = charter.log_key if log else replace(charter.log_key, name="log.example/other")
    cosigner = charter.parties[witness].identity
    name = f"{charter.federation}/client-01"
    lines = [
        f"log {format_vkey(key.name, key.public)}",
        f"witness w {format_vkey(name, cosigner, NoteAlgorithm.COSIGNATURE_V1)}",
        "quorum w",
    ]
    return ("\n".join(lines) + "\n").encode()


def test_a_policy_that_trusts_one_witness(federation: Federation, bundle: Files) -> None:
    report = verify_files(bundle, name="bundle", policy=own_policy(federation))
    assert report.ok
    assert report.roots.charter == "bundle"  # one founder of a quorum of two is not enough
    without = {**bundle, "checkpoint": federation.note(witnesses=federation.names[1:])}
    assert verify_files(without, name="bundle").ok
    report = verify_files(without, name="bundle", policy=own_policy(federation))
    assert report.step(1).status is Status.FAILED


def test_policies_and_hashes_of_another_federation_fail(
    federation: Federation, bundle: Files
) -> None:
    other = Federation(seed=b"other")
    cases = [
        verify_files(bundle, name="b", policy=render_policy(open_charter(other.charter))),
        verify_files(bundle, name="b", policy=own_policy(federation, log=False)),
        verify_files(bundle, name="b", policy=own_policy(federation, witness="client-02")),
        verify_files(bundle, name="b", policy=b"nonsense\n"),
        verify_files(bundle, name="b", charter_sha256=other.charter_hash.hex()),
    ]
    for report in cases:
        assert report.step(0).status is Status.FAILED
        assert not report.ok


def test_a_witness_key_that_had_expired() -> None:
    federation = play_federation(Script(), not_after="2026-12-31")
    report = verify_files(federation.files(), name="bundle")
    assert report.step(3).status is Status.FAILED
    assert "expired 2026-12-31" in report.step(3).failures[0].reason


# ---- adapter


def adapter_files(tensors: dict[str, NDArray[np.float32]]) -> Files:
    """A bundle whose adapter in force is the one of these tensors (no round changed it)."""
    final = hash_tensors(tensors).hex()
    federation = Federation(change_charter=lambda fields: fields.update(initial_adapter=final))
    federation.play(ABORTED)
    federation.conclude()
    return federation.files()


def test_the_adapter_folder_is_compared(tmp_path: Path) -> None:
    weights = {"lora.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    head = {"weight": np.ones((2, 2), dtype=np.float32)}
    files = adapter_files({**weights, "head.weight": head["weight"]})
    save_file(weights, tmp_path / "adapter_model.safetensors")
    assert not verify_files(files, name="b", adapter=tmp_path).ok
    save_file(head, tmp_path / "head.safetensors")
    report = verify_files(files, name="b", adapter=tmp_path)
    assert report.ok, report.to_text()
    head["weight"][0, 0] = 2
    save_file(head, tmp_path / "head.safetensors")
    report = verify_files(files, name="b", adapter=tmp_path)
    assert report.step(5).failures[0].place == str(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 64, (2**40).to_bytes(8, "little")])
def test_an_unreadable_adapter_is_a_failure(
    tmp_path: Path, bundle: Files, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "adapter_model.safetensors").write_bytes(content)
    report = verify_files(bundle, name="b", adapter=tmp_path)
    assert "cannot be hashed" in report.step(5).failures[0].reason


# ---- the report


def test_json_and_text_agree(bundle: Files) -> None:
    report = verify_files(bundle, name="bundle")
    document = json.loads(json.dumps(report.to_json()))
    assert document["version"] == 1
    assert document["verdict"] == "verified"
    assert [step["title"] for step in document["steps"]] == list(STEP_TITLES.values())
    text = report.to_text()
    assert text.startswith("VERIFIED")
    for title in STEP_TITLES.values():
        assert title in text


def test_names_from_a_bundle_cannot_drive_a_terminal(bundle: Files) -> None:
    report = verify_files({**bundle, "\x1b[2J\u202e": b""}, name="b\x07")
    text = report.to_text()
    assert text.startswith("FAILED")
    assert all(character.isprintable() or character == "\n" for character in text)


def test_failures_are_bounded(bundle: Files) -> None:
    extra = {f"x{number}": b"" for number in range(500)}
    report = verify_files({**bundle, **extra}, name="b")
    assert len(report.step(0).failures) == 101
    assert "400 more" in report.step(0).failures[-1].reason


def test_nothing_at_all_fails_without_a_crash() -> None:
    report: Report = verify_files({}, name="b")
    assert not report.ok
    assert report.step(0).status is Status.FAILED
    assert report.step(5).status is Status.NOT_CHECKABLE


# ---- independent checks


def test_pymerkle_gives_the_same_roots_and_proofs(federation: Federation, bundle: Files) -> None:
    theirs = InmemoryTree(algorithm="sha256")
    hashes = [leaf_hash(leaf) for leaf in federation.leaves]
    assert tree_root([]) == EMPTY_ROOT
    for leaf in federation.leaves:
        theirs.append_entry(leaf)
    report = verify_files(bundle, name="b")
    assert report.summary is not None
    assert theirs.get_root().hex() == report.summary.root
    size = len(hashes)
    for prefix in range(1, size + 1):
        assert theirs.get_root(prefix) == tree_root(hashes[:prefix])
    for index in range(size):
        # pymerkle lists the leaf's own hash first
        assert theirs.prove_inclusion(index + 1, size).path[1:] == inclusion_proof(hashes, index)
    assert consistency_proof(hashes, size) == []


def test_the_verifier_loads_no_heavy_package() -> None:
    code = (
        "import sys, fedfm_audit.verify, fedfm_audit.log\n"
        "heavy = {'torch', 'transformers', 'peft', 'zmq', 'opacus', 'tenseal', 'numba',"
        " 'fedfm_protocols', 'secure_fedfm', 'socket', 'urllib.request', 'requests'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]", found.stdout
