"""Sessions played by the federation's real state machines: the auditor accepts what they leave."""

from __future__ import annotations

from typing import Any

import pytest

from fedfm_audit.charter_view import open_charter
from fedfm_audit.messages import KEYS, TRAIN
from fedfm_audit.report import Report, Status
from fedfm_audit.statements import RoundPredicate
from fedfm_audit.steps_summary import prove_step, verify_step
from fedfm_audit.transcript import Transcript
from fedfm_crypto.identity import IdentityPublicKey
from fedfm_protocols.federation import Federation
from tests.audit.lies import reasons
from tests.audit.simulated import Evidence, played

STEPS = 4
SHARED_NOISE: dict[str, Any] = {
    "mode": "shared-noise",
    "epsilon": 8.0,
    "delta": 1e-5,
    "noise_multiplier": 1.0,
    "sampling_rate": 0.1,
    "steps_per_round": STEPS,
    "clip": 1.0,
    "mechanism": "discrete-gaussian",
    "honest_shares": 3,
    "batch": 32.0,
}
TWO = ["client-01", "client-04"]


def session(losses: dict[str, list[str]], rounds: int = 1, **options: Any) -> Evidence:
    first = 1 if options.get("key_rounds") else 0
    privacy = {**SHARED_NOISE, "steps_per_round": options.pop("steps", STEPS)}
    return played(5, rounds + first, {first + 1: losses}, privacy=privacy, **options)


def assert_verified(report: Report) -> None:
    """Steps 0 to 5: the simulation keeps no ledgers."""
    assert all(step.status is Status.VERIFIED for step in report.steps[:6]), report.to_text()


def stated(evidence: Evidence, number: int = 1) -> RoundPredicate:
    return evidence.predicates[number]


def test_whole_sessions_verify() -> None:
    evidence = session({}, rounds=2)
    assert_verified(evidence.verify())
    for number in (1, 2):
        predicate = stated(evidence, number)
        assert (predicate.outcome, predicate.reason) == ("completed", "")
        steps = predicate.steps
        assert (steps.planned, steps.good, steps.recorded) == (STEPS,) * 3
        transcript = Transcript.decode(evidence.transcripts[number])
        for step in range(STEPS):
            verify_step(prove_step(transcript, step), steps)


CUT: dict[str, tuple[dict[str, list[str]], str, int]] = {
    "one upload lost": ({"Upload 1": ["client-02"]}, "completed", 4),
    "one client silent from a step on": (
        {"UploadHash 2": ["client-03"], "CohortVote 2": ["client-03"]},
        "completed",
        4,
    ),
    "one acknowledgement lost": ({"RoundAck 1": ["client-03"]}, "completed", 4),
    "one after the other": ({"Upload 1": ["client-02"], "Upload 2": ["client-04"]}, "completed", 2),
    "too few commit to the first step": ({"UploadHash 0": TWO}, "aborted", 0),
    "too few commit to a later step": ({"UploadHash 2": TWO}, "completed", 2),
    "too few upload": ({"Upload 1": TWO}, "completed", 1),
    "too few vote": ({"CohortVote 3": TWO}, "completed", 3),
    "too few unmask": ({"Unmask 2": TWO}, "completed", 2),
    "too few acknowledge the first step": ({"RoundAck 0": TWO}, "void", 0),
    "too few acknowledge a later step": ({"RoundAck 2": TWO}, "completed", 2),
    "too few acknowledge the last step": ({"RoundAck 3": TWO}, "completed", 3),
}


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("suite", ["masked"])
def test_sessions_that_lose_messages_verify(name: str, suite: str) -> None:
    losses, outcome, good = CUT[name]
    evidence = session(losses, suite=suite)
    predicate = stated(evidence)
    assert (predicate.outcome, predicate.steps.good) == (outcome, good)
    if outcome == "completed" and good < STEPS:
        assert predicate.reason.startswith(f"ended after {good} of {STEPS} steps: ")
    assert_verified(evidence.verify())


@pytest.mark.slow
def test_encrypted_sessions_verify() -> None:
    losses = {"KeyOpening 0": ["client-01"], "Upload 1": ["client-02"]}
    evidence = session(losses, suite="layered", steps=2, key_rounds=(1,))
    report = evidence.verify()
    assert_verified(report)
    keys, train = stated(evidence, 1), stated(evidence, 2)
    assert (keys.kind, keys.steps.planned, keys.steps.good) == (KEYS, 1, 1)
    assert (train.steps.planned, train.steps.good, train.counts.removed) == (2, 2, 1)
    assert train.counts.openings == 3 + 2


def test_both_readers_plan_the_same_steps() -> None:
    evidence = session({})
    view, federation = open_charter(evidence.envelope), Federation.of(evidence.charter)
    for kind in (TRAIN, KEYS):
        assert view.steps_of(kind) == federation.steps_of(kind)
    assert view.steps_of(TRAIN) == STEPS


def test_a_key_that_did_not_sign_is_found_in_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """One signature of the third step does not verify; everything else does."""
    evidence = session({})
    entry = Transcript.decode(evidence.transcripts[1]).steps[2][0]
    verify = IdentityPublicKey.verify_raw

    def refusing(self: IdentityPublicKey, signature: bytes, message: bytes) -> None:
        verify(self, bytes(64) if signature == entry.signed.signature else signature, message)

    monkeypatch.setattr(IdentityPublicKey, "verify_raw", refusing)
    found = reasons(evidence.verify(), 3)
    assert found.startswith(
        f"transcripts/000001.json step 2 message 0 (UploadHash of {entry.header.sender}): "
    )


def test_sessions_on_a_sparse_graph_verify() -> None:
    """The graph's seed is part of what later steps build on."""
    losses = {
        "GraphNonce": ["client-02"],
        "Upload 0": ["client-54"],
        "RoundAck 0": ["client-11"],
        "Unmask 1": ["client-33"],
    }
    privacy = {**SHARED_NOISE, "steps_per_round": 2, "honest_shares": 60}
    limits = {"colluding": 5, "dropouts": 5}
    evidence = played(70, 1, {1: losses}, privacy=privacy, limits=limits)
    assert_verified(evidence.verify())
    predicate = stated(evidence)
    assert (predicate.outcome, predicate.steps.good, predicate.counts.removed) == (
        "completed",
        2,
        2,
    )
