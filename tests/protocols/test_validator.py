"""The validator's state machine, and the formulas that a second implementation must hit."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CryptoError
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from fedfm_protocols.beacon import beacon
from fedfm_protocols.context import judged_keys_hash
from fedfm_protocols.effects import (
    AdapterComputed,
    JudgeScores,
    Received,
    RenewKey,
    ScoresJudged,
    Send,
)
from fedfm_protocols.errors import (
    EquivocationError,
    OutOfOrder,
    ReplayedMessage,
    RoundRefused,
    WrongContext,
)
from fedfm_protocols.robust_messages import ScoreRequest
from fedfm_protocols.sketching import Judgement
from fedfm_protocols.sum_sketch import Place, most_report, open_sum, seal_sum
from fedfm_protocols.validator import is_whole, key_due, score_commitment, validator_step
from fedfm_protocols.validator_states import Deliberating, Ready, ValidatorState
from tests.protocols.robust_federations import robust_simulation, validator_of
from tests.protocols.scripted import RecordingSimulation, body_of, forge, key_of

CONTEXT = b"\x01" * 32


def _hp(label: str, *parts: bytes) -> bytes:
    """As the README writes it, by hand."""
    text = b"".join(
        len(part).to_bytes(8, "big") + part
        for part in (b"secure-fedfm/v1/" + label.encode(), *parts)
    )
    return hashlib.sha256(text).digest()


def _played() -> tuple[RecordingSimulation, Envelope, Envelope]:
    """A round that is over, and both requests of it."""
    simulation = robust_simulation(outliers={"client-03": 1.0})
    assert simulation.run_round(1).outcome == "completed"
    asked = [e.envelope for _, e in simulation.validator_tape if isinstance(e, Received)]
    scores, check = asked
    return simulation, scores, check


def _before(simulation: RecordingSimulation, kind: type[object]) -> ValidatorState:
    """The state in which the validator was first told of an event of this kind."""
    return next(state for state, event in simulation.validator_tape if isinstance(event, kind))


# ---------------------------------------------------------------- formulas


def test_the_beacon_is_of_uploads_names_and_nonces() -> None:
    nonces = {"b": b"\x02" * 32, "a": b"\x03" * 32}
    names = (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"a" + (1).to_bytes(4, "big") + b"b"
    expected = _hp("beacon", CONTEXT, b"\x00\x00", b"\x09" * 32, names, b"\x03" * 32, b"\x02" * 32)
    assert beacon(CONTEXT, 0, b"\x09" * 32, nonces) == expected
    others: list[bytes] = [
        beacon(b"\x02" * 32, 0, b"\x09" * 32, nonces),
        beacon(CONTEXT, 1, b"\x09" * 32, nonces),
        beacon(CONTEXT, 0, b"\x08" * 32, nonces),
        beacon(CONTEXT, 0, b"\x09" * 32, {**nonces, "a": bytes(32)}),
        beacon(CONTEXT, 0, b"\x09" * 32, {"a": nonces["a"]}),
    ]
    assert len({expected, *others}) == 6


def test_what_context1_names_for_keys() -> None:
    assert judged_keys_hash(bytes(32), CONTEXT) == _hp("judged-keys", bytes(32), CONTEXT)


def test_commitments_to_scores() -> None:
    expected = _hp("commit-score", CONTEXT, b"\x00\x03", b"client-01", b"salt", b"row")
    assert score_commitment(CONTEXT, 3, "client-01", b"salt", b"row") == expected


# ---------------------------------------------------------------- boxed sketches


def test_a_box_opens_in_its_place_only() -> None:
    random = SeededRandom(b"box")
    box, sketch = AgreementKey.generate(random), np.arange(4096, dtype=np.int64) - 9
    place = Place(CONTEXT, 0, "client-01", b"\x05" * 32)
    sealed = seal_sum(sketch, box.public, place, random)
    assert open_sum(sealed, box, place) == sketch.astype("<i8").tobytes()
    changes: list[dict[str, Any]] = [
        {"context": bytes(32)},
        {"step": 1},
        {"sender": "client-02"},
        {"aggregate_hash": bytes(32)},
    ]
    for change in changes:
        with pytest.raises(CryptoError):
            open_sum(sealed, box, replace(place, **change))
    with pytest.raises(CryptoError):
        open_sum(sealed, AgreementKey.generate(random), place)
    for broken in (b"", sealed[:40], bytes(32) + sealed[32:], sealed[:-1]):
        with pytest.raises(CryptoError):
            open_sum(broken, box, place)
    short = seal_sum(sketch[:10], box.public, place, random)
    with pytest.raises(CryptoError, match="a sketch of 80 bytes"):
        open_sum(short, box, place)


def test_what_most_report() -> None:
    agreed = most_report({"a": b"x", "b": b"y", "c": b"x", "d": b""})
    assert (agreed.value, agreed.count, agreed.deviators) == (b"x", 2, ("b", "d"))
    nobody = most_report({"a": b"", "b": b""})
    assert (nobody.value, nobody.count) == (b"", 0)


# ---------------------------------------------------------------- requests


def test_the_same_request_gets_the_same_bytes_also_much_later() -> None:
    simulation, scores, check = _played()
    validator = validator_of(simulation)
    for request, kind in ((scores, "Verdict"), (check, "BindingResult")):
        sent = [e for e in validator.sent if e.header.type == kind]
        state = Ready(validator.state.memory)
        after = validator_step(validator.context, state, Received(request))
        assert after.state == state
        assert after.effects == (Send("coordinator", sent[0]),)


def test_while_the_rule_is_at_work_nothing_else_is_asked_of_this_round() -> None:
    simulation, scores, check = _played()
    validator = validator_of(simulation)
    thinking = _before(simulation, ScoresJudged)
    assert isinstance(thinking, Deliberating)
    with pytest.raises(ReplayedMessage, match="is being judged"):
        validator_step(validator.context, thinking, Received(scores))
    request = body_of(scores, ScoreRequest)
    key = key_of(simulation, "coordinator")
    other = forge(key, scores, replace(request, sketches=request.sketches[:-1]))
    with pytest.raises(EquivocationError, match="two different requests"):
        validator_step(validator.context, thinking, Received(other))
    with pytest.raises(WrongContext, match="of no round that was judged last"):
        validator_step(validator.context, thinking, Received(check))


def test_a_later_round_takes_the_place_of_one_that_is_being_judged() -> None:
    simulation, _, _ = _played()
    validator = validator_of(simulation)
    thinking = _before(simulation, ScoresJudged)
    assert simulation.run_round(2).outcome == "completed"
    second = [e.envelope for _, e in simulation.validator_tape if isinstance(e, Received)][2]
    after = validator_step(validator.context, thinking, Received(second))
    assert isinstance(after.state, Deliberating)
    assert after.state.round == 2
    assert isinstance(after.effects[0], JudgeScores)
    late = ScoresJudged(1, 0, None, "too late")
    with pytest.raises(OutOfOrder, match="a judgement of round 1"):
        validator_step(validator.context, after.state, late)


def test_an_earlier_round_is_not_judged_any_more() -> None:
    simulation, scores, check = _played()
    validator = validator_of(simulation)
    assert simulation.run_round(2).outcome == "completed"
    with pytest.raises(RoundRefused, match="is not above round 2"):
        validator_step(validator.context, validator.state, Received(scores))
    with pytest.raises(WrongContext):
        validator_step(validator.context, validator.state, Received(check))


def test_a_sum_is_checked_under_the_key_of_its_round() -> None:
    """The next key may be made between a verdict and its check."""
    simulation = robust_simulation(rule={"key_rounds": 1})

    def renew(sender: str, to: str, envelope: Envelope) -> Any:
        validator = validator_of(simulation)
        if envelope.header.type == "Aggregate" and key_due(
            validator.context, validator.state.memory
        ):
            simulation.tell_validator(RenewKey())
        return ((to, envelope),)

    simulation.intercept = renew
    assert simulation.run_round(1).outcome == "completed"
    assert [key.epoch for key in validator_of(simulation).state.memory.keys] == [1, 2]
    assert simulation.run_round(2).outcome == "completed"


def test_events_that_are_for_others() -> None:
    simulation, _, _ = _played()
    validator = validator_of(simulation)
    for event in (AdapterComputed(1, 0, bytes(32)), ScoresJudged(1, 0, None)):
        with pytest.raises(OutOfOrder, match="has no use for this event"):
            validator_step(validator.context, Ready(validator.state.memory), event)


def test_a_judgement_must_be_about_everybody_once() -> None:
    simulation, _, _ = _played()
    thinking = _before(simulation, ScoresJudged)
    assert isinstance(thinking, Deliberating)
    names = thinking.question.names
    rows = (b"row",) * len(names)
    whole = Judgement(names[1:], ((names[0], "far"),), rows, b"")
    assert is_whole(whole, thinking.question)
    for broken in (
        replace(whole, accepted=names[2:]),
        replace(whole, accepted=names),
        replace(whole, accepted=tuple(reversed(names[1:]))),
        replace(whole, rows=rows[1:]),
        replace(whole, removed=((names[0], "far"), (names[0], "far"))),
    ):
        assert not is_whole(broken, thinking.question)
        event = ScoresJudged(thinking.round, thinking.step, broken)
        after = validator_step(validator_of(simulation).context, thinking, event)
        assert isinstance(after.state, Ready)
        assert [type(effect).__name__ for effect in after.effects] == ["Note"]


def test_nothing_secret_shows() -> None:
    simulation, scores, _ = _played()
    memory = validator_of(simulation).state.memory
    assert memory.newest is not None
    secrets = [memory.newest.secret.reveal(), memory.newest.box.secret.reveal()]
    thinking = _before(simulation, ScoresJudged)
    effects = validator_step(
        validator_of(simulation).context, _before(simulation, Received), Received(scores)
    ).effects
    text = f"{memory!r}{thinking!r}{effects!r}{memory.newest!r}"
    for secret in secrets:
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text
    assert isinstance(memory.newest.secret, Secret)
