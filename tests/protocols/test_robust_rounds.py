"""Robust rounds between honest parties: exact sums over the accepted, who drops out at which step,
what a crash leaves, keys of several epochs; and federations without a validator, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from fedfm_crypto.codec import decode
from fedfm_crypto.envelope import Envelope
from fedfm_protocols.client_states import Idle
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.effects import Effect, JudgeScores, RenewKey, ScoresComputed, ScoresJudged
from fedfm_protocols.errors import RoundAborted, RoundRefused
from fedfm_protocols.messages import read_body
from fedfm_protocols.robust_messages import SketchKey, Verdict
from fedfm_protocols.scenario.federations import LEAST_ROBUST_VALUES
from fedfm_protocols.simulation import Delivery, SimulatedValidator
from fedfm_protocols.validator import announcements, score_commitment
from tests.protocols.robust_federations import (
    OUTLIER,
    SCALE,
    restart_validator,
    robust_simulation,
    robust_update,
    validator_of,
)
from tests.protocols.scripted import (
    START,
    Crash,
    RecordingSimulation,
    all_idle_at,
    exact_simulation,
    sent_types,
)

FAR = {OUTLIER: 1.0}
ROBUST_MESSAGES = ("BeaconNonce", "Sketch", "SumSketch")
DIGESTS = {  # of every envelope of two rounds, computed before there were validators
    "masked": "718b31dd0fed34751a46e81451d28390edede6dd6ad1fd0fc970cda814a86e7e",
    "clear": "ea05809377d069d6f8995ee1720378686e1de8131ab19f7c748052ca009731e4",
    "session": "a936095aa6e4b0820a9e9a5a6012804143d37a4db6d2573491b2abe02c4990d9",
}


def _sum_of(
    simulation: RecordingSimulation, finished: Finished, outliers: dict[str, float]
) -> None:
    """Every client that adopted a sum adopted the plaintext sum of the accepted, to the integer."""
    number = finished.round.identity.round
    values = simulation.federation.charter.quantiser.values
    expected = sum(robust_update(name, number, outliers, values) for name in finished.accepted)
    for client in simulation.clients.values():
        if client.state.memory.adapter_hash == finished.adapter_hash:
            assert np.array_equal(np.rint(client.totals[-1] * SCALE), expected)


def _next(simulation: RecordingSimulation) -> int:
    return 2 if simulation.federation.encrypted else 1


# ---------------------------------------------------------------- honest rounds


@pytest.mark.parametrize("suite", ["masked", "layered", "sealed", "clear"])
def test_the_sum_is_exactly_that_of_whom_the_validator_accepts(suite: str) -> None:
    if suite in ("layered", "sealed"):
        pytest.importorskip("tenseal", reason="encryption needs TenSEAL (extra: federation)")
    simulation = robust_simulation(suite=suite, outliers=FAR, whole=True)
    finished = simulation.run_round(_next(simulation))
    assert (finished.outcome, finished.reason) == ("completed", "")
    assert finished.removed == (OUTLIER,)
    assert all_idle_at(simulation, finished.adapter_hash)
    _sum_of(simulation, finished, FAR)
    for name, client in simulation.clients.items():
        (seen,) = client.verdicts
        own = ("removed", "norm") if name == OUTLIER else ("accepted", "")
        assert (seen.own, seen.reason, seen.removed) == (*own, ((OUTLIER, "norm"),))
        assert client.violations == []
    assert validator_of(simulation).refused == []


def test_nobody_is_removed_where_nobody_stands_out() -> None:
    simulation = robust_simulation()
    finished = simulation.run_round(1)
    assert (finished.outcome, finished.removed) == ("completed", ())
    _sum_of(simulation, finished, {})


def test_groups_of_tensors_are_sketched_by_themselves() -> None:
    half = LEAST_ROBUST_VALUES // 2
    groups = [
        {"name": "head", "spans": [[0, half]]},
        {"name": "rest", "spans": [[half, 2 * half]]},
    ]
    simulation = robust_simulation(outliers=FAR, rule={"groups": groups}, whole=True)
    finished = simulation.run_round(1)
    assert (finished.outcome, finished.removed) == ("completed", (OUTLIER,))


def test_the_transcript_shows_what_an_auditor_needs_and_no_more() -> None:
    simulation = robust_simulation(outliers=FAR)
    entries = simulation.run_round(1).round.transcript.entries
    public = {e.signed.header.type for e in entries if e.body is not None}
    assert public >= {"BeaconNonce", "Verdict", "BindingResult", "Cohort", "CohortVote"}
    hidden = {e.signed.header.type for e in entries if e.body is None}
    assert hidden >= {"SketchKey", "Sketch", "ScoreRequest", "SumSketch", "BindingRequest"}
    (verdict,) = (e for e in entries if e.signed.header.type == "Verdict")
    assert verdict.body is not None
    body = decode(Verdict, verdict.body)
    hashes = [e.signed.header.body_hash for e in entries if e.signed.header.type == "Sketch"]
    assert sorted(body.sketches) == sorted(hashes)
    named = verdict.signed.header.body_hash
    votes = [e for e in entries if e.signed.header.type in ("Cohort", "CohortVote")]
    assert len(votes) >= 5
    assert {e.signed.header.refers_to for e in votes} == {named}


def test_commitments_open_to_scores_that_only_the_validator_keeps() -> None:
    simulation = robust_simulation(outliers=FAR)
    simulation.run_round(1)
    validator = validator_of(simulation)
    (stored,) = validator.stored
    verdict = read_body(validator.sent[-2], Verdict)
    context = validator.sent[-2].header.context
    for name, commitment in zip(verdict.judged, verdict.commitments, strict=True):
        salt, row = stored.openings[name]
        assert score_commitment(context, 0, name, salt, row) == commitment
    assert validator.journal[-2].record == "judged"
    assert row.hex() not in repr(stored)


def test_the_rule_remembers_between_rounds() -> None:
    simulation = robust_simulation()
    for number in (1, 2, 3):
        simulation.run_round(number)
    assert validator_of(simulation).state.memory.rule == bytes([3])


# ---------------------------------------------------------------- who drops out


@pytest.mark.parametrize("message", ROBUST_MESSAGES)
def test_one_client_gone_at_a_step_of_a_robust_round(message: str) -> None:
    simulation = robust_simulation(intercept=Crash({"client-02": message}))
    finished = simulation.run_round(1)
    assert finished.outcome == "completed"
    gone = ("client-02",) if message != "SumSketch" else ()
    assert finished.removed == gone
    _sum_of(simulation, finished, {})


REASONS = {
    "BeaconNonce": ("aborted", "3 clients uploaded and opened their nonces, 4 are needed"),
    "Sketch": ("aborted", "3 clients sent a sketch, 4 are needed"),
    "SumSketch": ("void", "3 clients reported the sketch of the sum, 4 are needed"),
}


@pytest.mark.parametrize("message", ROBUST_MESSAGES)
def test_too_few_at_a_step_end_the_round_cleanly(message: str) -> None:
    crash = Crash({"client-02": message, "client-04": message})
    simulation = robust_simulation(intercept=crash)
    finished = simulation.run_round(1)
    assert (finished.outcome, finished.reason) == REASONS[message]
    assert finished.record is None
    assert all_idle_at(simulation, START, ["client-01", OUTLIER, "client-05"])


def test_a_withheld_nonce_removes_its_owner_only() -> None:
    def withhold(sender: str, to: str, envelope: Envelope) -> Sequence[Delivery]:
        lost = (sender, envelope.header.type) == ("client-04", "BeaconNonce")
        return () if lost else ((to, envelope),)

    simulation = robust_simulation(intercept=withhold)
    finished = simulation.run_round(1)
    assert (finished.outcome, finished.removed) == ("completed", ("client-04",))
    assert "Sketch" not in sent_types(simulation)["client-04"]
    assert sent_types(simulation)["client-04"].count("CohortVote") == 1
    assert simulation.clients["client-04"].verdicts[0].own == "unseen"
    assert all_idle_at(simulation, finished.adapter_hash)


@pytest.mark.parametrize(
    ("message", "outcome", "reason"),
    [
        ("Verdict", "aborted", "the validator validator gave no verdict"),
        ("BindingResult", "void", "the validator validator did not check the sum"),
    ],
)
def test_a_silent_validator(message: str, outcome: str, reason: str) -> None:
    simulation = robust_simulation(intercept=Crash({"validator": message}))
    finished = simulation.run_round(1)
    assert (finished.outcome, finished.reason) == (outcome, reason)
    assert all_idle_at(simulation, START)


def test_an_outlier_and_a_dropout_are_one_too_many() -> None:
    simulation = robust_simulation(outliers=FAR, intercept=Crash({"client-01": "Sketch"}))
    finished = simulation.run_round(1)
    assert finished.outcome == "aborted"
    assert finished.reason == ("the validator accepts 3 updates, 4 are needed (client-03: norm)")
    assert all_idle_at(simulation, START, ["client-02", OUTLIER, "client-04", "client-05"])


def test_scores_that_cannot_be_computed_abort_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = robust_simulation()
    answer = ScoresComputed(1, 0, b"", "a worker died")
    monkeypatch.setattr(simulation, "_compute", lambda effect: answer)
    finished = simulation.run_round(1)
    assert finished.outcome == "aborted"
    assert finished.reason == "the scores could not be computed: a worker died"


def test_scores_that_never_come_abort_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = robust_simulation()
    late = ScoresComputed(7, 0, b"scores of another round")
    monkeypatch.setattr(simulation, "_compute", lambda effect: late)
    finished = simulation.run_round(1)
    assert finished.outcome == "aborted"
    assert finished.reason == "the scores of the sketches were not there in time"


def test_a_rule_that_fails_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = robust_simulation()
    monkeypatch.setattr(simulation, "_judge", lambda e: ScoresJudged(1, 0, None, "no such scores"))
    finished = simulation.run_round(1)
    assert finished.reason == "the validator validator gave no verdict"
    assert "no such scores" in validator_of(simulation).notes[0]
    assert validator_of(simulation).state.memory.judged is None


def test_a_client_catches_up_with_a_robust_round() -> None:
    simulation = robust_simulation(intercept=Crash({"client-02": "Sketch"}))
    finished = simulation.run_round(1)
    simulation.intercept = lambda sender, to, envelope: ((to, envelope),)
    simulation.catch_up("client-02")
    assert all_idle_at(simulation, finished.adapter_hash)
    assert simulation.run_round(2).removed == ()


# ---------------------------------------------------------------- what a crash leaves


class RestartBefore:
    """The validator dies in the act of sending its first ``message``; it comes back with its
    durable memory, and the coordinator sends it ``request`` again, byte for byte."""

    def __init__(self, message: str, request: str) -> None:
        self.message, self.request = message, request
        self.simulation: RecordingSimulation | None = None
        self.asked: Envelope | None = None
        self.lost: Envelope | None = None
        self.said: list[Envelope] = []

    def __call__(self, sender: str, to: str, envelope: Envelope) -> Sequence[Delivery]:
        assert self.simulation is not None
        if to == "validator" and envelope.header.type == self.request:
            self.asked = envelope
        if sender == "validator" and envelope.header.type == self.message:
            if self.lost is None:
                assert self.asked is not None
                self.lost = envelope
                restart_validator(self.simulation)
                return (("validator", self.asked),)
            self.said.append(envelope)
        return ((to, envelope),)


@pytest.mark.parametrize(
    ("message", "request_type", "record"),
    [("Verdict", "ScoreRequest", "judged"), ("BindingResult", "BindingRequest", "bound")],
)
def test_a_validator_that_comes_back_says_the_same_bytes(
    message: str, request_type: str, record: str
) -> None:
    network = RestartBefore(message, request_type)
    simulation = robust_simulation(outliers=FAR, intercept=network)
    network.simulation = simulation
    finished = simulation.run_round(1)
    assert finished.outcome == "completed"
    assert network.lost is not None
    assert [envelope.encode() for envelope in network.said] == [network.lost.encode()]
    records = [entry.record for entry in validator_of(simulation).journal]
    assert records == ["sketch-key", "judged", "bound"]
    assert record in records


def test_a_validator_that_dies_before_it_has_judged_judges_afresh() -> None:
    simulation = robust_simulation(outliers=FAR)
    validator = validator_of(simulation)
    died: list[Effect] = []
    judge = simulation._carry_out_validator

    def die_once(validator: SimulatedValidator, effect: Effect) -> None:
        if isinstance(effect, JudgeScores) and not died:
            died.append(effect)
            return
        judge(validator, effect)

    simulation._carry_out_validator = die_once  # type: ignore[method-assign]
    asked: list[Envelope] = []

    def network(sender: str, to: str, envelope: Envelope) -> Sequence[Delivery]:
        if to == "validator":
            asked.append(envelope)
        return ((to, envelope),)

    simulation.intercept = network
    tell = simulation._tell_coordinator

    def resend(event: object) -> None:
        if died and validator.state.memory.judged is None:
            restart_validator(simulation)
            simulation._queue.append(("validator", asked[0]))
            return
        tell(event)  # type: ignore[arg-type]

    simulation._tell_coordinator = resend  # type: ignore[method-assign]
    assert simulation.run_round(1).outcome == "completed"
    assert [entry.record for entry in validator.journal] == ["sketch-key", "judged", "bound"]


def test_a_client_keeps_the_sketch_key_over_a_restart() -> None:
    simulation = robust_simulation()
    simulation.renew_sketch_key()
    for name, client in simulation.clients.items():
        assert [entry.record for entry in client.journal] == ["sketch-key"]
        simulation.restart_client(name)
    assert simulation.run_round(1).removed == ()


@pytest.mark.parametrize("message", [*ROBUST_MESSAGES, "CohortVote"])
def test_a_client_that_comes_back_takes_no_part_in_the_same_round(message: str) -> None:
    simulation = robust_simulation()

    def restart(sender: str, to: str, envelope: Envelope) -> Sequence[Delivery]:
        if (sender, envelope.header.type) == ("client-02", message):
            simulation.restart_client("client-02")
        return ((to, envelope),)

    simulation.intercept = restart
    # What it was about to send is out; nothing follows it.
    assert simulation.run_round(1).outcome == "completed"
    client = simulation.clients["client-02"]
    assert isinstance(client.state, Idle)
    assert [envelope.header.type for envelope in client.sent][-1] == message
    kinds = [type(error) for error in client.violations]
    assert kinds == []


def test_everything_that_is_said_twice_is_taken_once() -> None:
    simulation = robust_simulation(
        outliers=FAR, intercept=lambda sender, to, envelope: ((to, envelope), (to, envelope))
    )
    finished = simulation.run_round(1)
    assert (finished.outcome, finished.removed) == ("completed", (OUTLIER,))
    assert all(client.violations == [] for client in simulation.clients.values())
    assert {type(e).__name__ for e in validator_of(simulation).refused} <= {"ReplayedMessage"}
    _sum_of(simulation, finished, FAR)


# ---------------------------------------------------------------- sketch keys


def test_a_new_key_after_so_many_rounds() -> None:
    simulation = robust_simulation(rule={"key_rounds": 2})
    epochs = []
    for number in (1, 2, 3):
        assert simulation.run_round(number).outcome == "completed"
        held = {c.state.memory.sketch_key.epoch for c in simulation.clients.values()}  # type: ignore[union-attr]
        epochs.append(held)
    assert epochs == [{1}, {1}, {2}]
    memory = validator_of(simulation).state.memory
    assert [(key.epoch, key.served) for key in memory.keys] == [(2, 1)]


def test_a_validator_judges_no_round_more_than_the_charter_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = robust_simulation(rule={"key_rounds": 1})
    assert simulation.run_round(1).outcome == "completed"
    monkeypatch.setattr(simulation, "renew_sketch_key", lambda: None)
    finished = simulation.run_round(2)
    assert finished.reason == "the validator validator gave no verdict"
    (error,) = validator_of(simulation).refused
    assert isinstance(error, RoundRefused)
    assert "as many as the charter allows" in str(error)


def test_a_key_that_comes_in_the_middle_of_a_round_serves_the_next() -> None:
    simulation = robust_simulation()
    done: list[str] = []

    def renew(sender: str, to: str, envelope: Envelope) -> Sequence[Delivery]:
        if envelope.header.type == "UploadSet" and not done:
            done.append(to)
            simulation.tell_validator(RenewKey())
        return ((to, envelope),)

    simulation.intercept = renew
    assert simulation.run_round(1).outcome == "completed"
    assert simulation.run_round(2).outcome == "completed"
    memory = validator_of(simulation).state.memory
    assert [(key.epoch, key.served) for key in memory.keys] == [(2, 1)]


def test_a_round_is_not_opened_before_the_validator_has_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = robust_simulation()
    monkeypatch.setattr(simulation, "renew_sketch_key", lambda: None)
    with pytest.raises(RoundAborted, match="has sent its sketch key: start it"):
        simulation.run_round(1)


def test_a_client_without_the_key_does_not_join() -> None:
    def lose(sender: str, to: str, envelope: Envelope) -> Sequence[Delivery]:
        lost = envelope.header.type == "SketchKey" and to == "client-02"
        return () if lost else ((to, envelope),)

    simulation = robust_simulation(intercept=lose)
    finished = simulation.run_round(1)
    assert finished.outcome == "completed"
    assert "client-02" not in finished.accepted
    (error,) = simulation.clients["client-02"].violations
    assert "has not been given yet" in str(error)


def test_a_client_with_an_older_key_is_in_no_context_with_the_others() -> None:
    simulation = robust_simulation(rule={"key_rounds": 1})
    simulation.run_round(1)

    def lose(sender: str, to: str, envelope: Envelope) -> Sequence[Delivery]:
        lost = envelope.header.type == "SketchKey" and to == "client-02"
        return () if lost else ((to, envelope),)

    simulation.intercept = lose
    finished = simulation.run_round(2)
    assert finished.outcome == "completed"
    assert "client-02" not in finished.accepted
    assert type(simulation.clients["client-02"].refused[-1]).__name__ in ("WrongContext",)


def test_a_key_can_be_asked_for_again() -> None:
    simulation = robust_simulation()
    simulation.renew_sketch_key()
    validator = validator_of(simulation)
    again = announcements(validator.context, validator.state.memory)
    assert [send.envelope.encode() for send in again] == [e.encode() for e in validator.sent]
    assert read_body(again[0].envelope, SketchKey).epoch == 1


# ---------------------------------------------------------------- without a validator


@pytest.mark.parametrize("which", DIGESTS)
def test_a_federation_without_a_validator_says_the_same_bytes(which: str) -> None:
    changes = {"masked": {}, "clear": {"suite": "clear"}, "session": {"session": 3}}
    simulation = exact_simulation(5, **changes[which])  # type: ignore[arg-type]
    digest = hashlib.sha256()

    def listen(sender: str, to: str, envelope: Envelope) -> Sequence[Delivery]:
        digest.update(sender.encode() + to.encode() + envelope.encode())
        return ((to, envelope),)

    simulation.intercept = listen
    for number in (1, 2):
        assert simulation.run_round(number).outcome == "completed"
    assert digest.hexdigest() == DIGESTS[which]
