"""Targets: states, phases and the validator of robust rounds, under hostile messages."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError, CryptoError
from fedfm_protocols.effects import Effect, JudgeScores, Persist, Received, ScoresJudged, Send
from fedfm_protocols.errors import MessageRefused, RoundViolation
from fedfm_protocols.validator import validator_step
from fedfm_protocols.validator_states import ValidatorState
from tests.soak import recordings
from tests.soak.engine import Attempt, OracleError, Target
from tests.soak.handlers import client_attempt, coordinator_attempt, hostile
from tests.soak.recordings import Moment, Recording, fingerprint, seeded

CLIENT_STATES = {
    "NonceOpened": "BeaconNonces",
    "Sketched": "Verdict",
    "Judged": "Cohort",
    "Binding": "BindingResult",
    "Unbound": "RoundClose",
}
PHASES = {
    "Measuring": "Sketch",
    "Scoring": "Sketch",
    "Judging": "Verdict",
    "Reporting": "SumSketch",
    "Comparing": "BindingResult",
}
VALIDATOR_STATES = {"Ready": "ScoreRequest", "Deliberating": "ScoreRequest"}

_Attempter = Callable[[random.Random, Recording, Moment, bytes], Attempt]


def robust_targets() -> list[Target]:
    """One target a state of a client and of the validator, and a phase of the coordinator."""
    return [
        *(_target(f"client/{s}", s, kind, client_attempt) for s, kind in CLIENT_STATES.items()),
        *(_target(f"coordinator/{s}", s, kind, coordinator_attempt) for s, kind in PHASES.items()),
        *(
            _target(f"validator/{s}", s, kind, validator_attempt)
            for s, kind in VALIDATOR_STATES.items()
        ),
        _target("client/sketch-key", "Idle", "SketchKey", client_attempt),
        _target("coordinator/beacon-nonce", "Uploading", "BeaconNonce", coordinator_attempt),
        _target("validator/check", "Ready", "BindingRequest", validator_attempt),
    ]


def _target(name: str, state: str, kind: str, attempt: _Attempter) -> Target:
    def make(rng: random.Random) -> Attempt:
        recording = recordings.robust()
        moments = recording.moments[state]
        fitting = [m for m in moments if m.envelope and m.envelope.header.type == kind]
        moment = rng.choice(fitting or moments)
        return attempt(rng, recording, moment, hostile(rng, recording, moment, kind))

    return Target(name, make)


def validator_attempt(
    rng: random.Random, recording: Recording, moment: Moment, data: bytes
) -> Attempt:
    """A request to the validator: refused with the state kept, or judged and answered once."""
    validator = recording.simulation.validator
    assert validator is not None
    context = dataclasses.replace(validator.context, random=seeded(rng))

    def run() -> str:
        try:
            envelope = Envelope.decode(data)
        except CodecError:
            return "undecodable"
        try:
            transition = validator_step(context, moment.state, Received(envelope))
        except (MessageRefused, RoundViolation) as error:
            _unchanged(moment)
            return type(error).__name__
        _unchanged(moment)
        effects = list(transition.effects)
        for effect in transition.effects:
            if isinstance(effect, JudgeScores):
                effects += _judged(effect, transition.state)
        _answers_once(effects)
        return "taken"

    def _judged(effect: JudgeScores, state: ValidatorState) -> tuple[Effect, ...]:
        try:
            judgement = context.sketching.judge(effect.secret, effect.scores, effect.question)
        except CryptoError as error:
            event = ScoresJudged(effect.round, effect.step, None, str(error))
        else:
            event = ScoresJudged(effect.round, effect.step, judgement)
        return validator_step(context, state, event).effects

    return Attempt(data, run, allowed=())


def _unchanged(moment: Moment) -> None:
    if fingerprint(moment.state) != moment.fingerprint:
        raise OracleError("the transition changed the state that it was given")


def _answers_once(effects: list[Effect]) -> None:
    """One answer at most, to the coordinator, and durable before it is said if it is new."""
    sent = [effect for effect in effects if isinstance(effect, Send)]
    if len(sent) > 1 or any(send.recipient != "coordinator" for send in sent):
        raise OracleError("the validator answers more than once, or somebody else")
    stored = [effect for effect in effects if isinstance(effect, Persist)]
    if stored and effects.index(stored[0]) > effects.index(sent[0]):
        raise OracleError("the validator answers before it has journalled")
