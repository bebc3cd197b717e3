"""The validator's side of robust rounds, as a pure function of (state, event).

It decrypts inner products of sketches, never a sketch, and answers with accept bits; later it
compares the sketch of the opened sum with what it accepted, and answers with one bit.  It answers
once for a step: the same request gets the same bytes, another one gets nothing.
Source: protocols/README.md, section "The validator".
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.labels import Label
from fedfm_protocols.checks import verify_signature
from fedfm_protocols.context import NO_HASH
from fedfm_protocols.effects import (
    Effect,
    Event,
    Note,
    Persist,
    Received,
    RenewKey,
    ScoresJudged,
    Send,
    StoreScores,
    Transition,
)
from fedfm_protocols.errors import OutOfOrder, UnknownSender
from fedfm_protocols.messages import type_name
from fedfm_protocols.robust_messages import (
    BindingRequest,
    RemovedClient,
    ScoreRequest,
    SketchEvaluationKeys,
    SketchKey,
    Verdict,
)
from fedfm_protocols.sketching import Judgement, Question
from fedfm_protocols.validator_requests import take_binding_request, take_score_request
from fedfm_protocols.validator_speech import speak
from fedfm_protocols.validator_states import (
    Deliberating,
    EpochSecret,
    JudgedRound,
    Ready,
    ValidatorContext,
    ValidatorMemory,
    ValidatorState,
)
from fedfm_protocols.witness import NOTHING_SEEN


def validator_step(
    context: ValidatorContext, state: ValidatorState, event: Event
) -> Transition[ValidatorState]:
    """One transition of the validator.

    Raises
    ------
    MessageRefused, RoundViolation
        saying why the request gets no answer; the caller keeps the old state.
    """
    if isinstance(event, Received):
        return _receive(context, state, event.envelope)
    if isinstance(event, RenewKey):
        return renew_key(context, state)
    if isinstance(event, ScoresJudged) and isinstance(state, Deliberating):
        return give_verdict(context, state, event)
    raise OutOfOrder(f"a validator in state {type(state).__name__} has no use for this event")


def key_due(context: ValidatorContext, memory: ValidatorMemory) -> bool:
    """Whether the next round needs a sketch key that is not made yet."""
    section, newest = context.site.federation.charter.robustness, memory.newest
    return section is not None and (newest is None or newest.served >= section.key_rounds)


def announcements(context: ValidatorContext, memory: ValidatorMemory) -> tuple[Send, ...]:
    """The newest key once more, as it was signed: for a coordinator that does not have it."""
    coordinator, newest = context.site.federation.coordinator, memory.newest
    if newest is None:
        return ()
    return tuple(Send(coordinator, Envelope.decode(data)) for data in newest.announced)


def _receive(
    context: ValidatorContext, state: ValidatorState, envelope: Envelope
) -> Transition[ValidatorState]:
    federation, header = context.site.federation, envelope.header
    if header.sender != federation.coordinator:
        raise UnknownSender(
            f"{header.type} from {header.sender}; a validator takes requests only from the "
            f"coordinator {federation.coordinator}"
        )
    verify_signature(envelope, federation)
    if header.type == type_name(ScoreRequest):
        return take_score_request(context, state, envelope)
    if header.type == type_name(BindingRequest):
        return take_binding_request(context, state, envelope)
    raise OutOfOrder(f"{header.type}, of which a validator takes none")


# ---------------------------------------------------------------- keys


def renew_key(context: ValidatorContext, state: ValidatorState) -> Transition[ValidatorState]:
    """Make the key of the next epoch.  The one before stays until a verdict is given under the new
    one: a round may be going on."""
    memory, site = state.memory, context.site
    epoch = memory.epoch + 1
    pair, box = context.sketching.make_keys(context.random), AgreementKey.generate(context.random)
    evaluation = SketchEvaluationKeys(epoch, pair.evaluation)
    key = SketchKey(epoch, pair.public_key, box.public, hashlib.sha256(pair.evaluation).digest())
    envelopes = tuple(
        speak(context, site.federation.link_context, 0, epoch, body, NO_HASH, NOTHING_SEEN)
        for body in (key, evaluation)
    )
    first, second = envelopes
    made = EpochSecret(
        epoch,
        first.header.body_hash,
        pair.secret,
        box,
        served=0,
        announced=(first.encode(), second.encode()),
    )
    memory = replace(memory, epoch=epoch, keys=(*memory.keys[-1:], made))
    persist = Persist(epoch, 0, "sketch-key", made.key_hash)
    sends = (Send(site.federation.coordinator, envelope) for envelope in envelopes)
    return Transition(replace(state, memory=memory), (persist, *sends))


# ---------------------------------------------------------------- step 7


def give_verdict(
    context: ValidatorContext, state: Deliberating, event: ScoresJudged
) -> Transition[ValidatorState]:
    """Sign what the rule decided; durable before it is said."""
    if (event.round, event.step) != (state.round, state.step):
        raise OutOfOrder(
            f"a judgement of round {event.round} step {event.step} while at round {state.round} "
            f"step {state.step}"
        )
    memory, judgement = state.memory, event.judgement
    if judgement is None or not is_whole(judgement, state.question):
        why = event.reason or "its answer does not cover the candidates"
        note = Note(f"round {state.round} step {state.step} was not judged: {why}")
        return Transition(Ready(memory), (note,))
    names = state.question.names
    salts = tuple(context.random(32) for _ in names)
    openings = {
        name: (salt, row) for name, salt, row in zip(names, salts, judgement.rows, strict=True)
    }
    verdict = Verdict(
        accepted=judgement.accepted,
        removed=tuple(RemovedClient(name, reason) for name, reason in judgement.removed),
        sketches=state.sketches,
        commitments=tuple(
            score_commitment(state.context, state.step, name, *openings[name]) for name in names
        ),
    )
    envelope = speak(
        context,
        state.context,
        state.step,
        2 * state.step,
        verdict,
        state.request_hash,
        state.checkpoint,
    )
    judged = JudgedRound(
        state.round,
        state.step,
        state.context,
        state.key_epoch,
        state.request_hash,
        envelope.encode(),
        envelope.header.body_hash,
        verdict.accepted,
        state.checkpoint,
    )
    keys = tuple(
        replace(key, served=key.served + 1) if key.epoch == state.key_epoch else key
        for key in memory.keys
        if key.epoch >= state.key_epoch  # what came before this one has no round left to judge
    )
    # A round of marks is judged by norms alone: the rule has learnt nothing from it.
    rule = memory.rule if state.question.bounds else judgement.memory
    memory = replace(memory, keys=keys, rule=rule, judged=judged)
    effects: tuple[Effect, ...] = (
        StoreScores(state.round, state.step, openings),
        Persist(state.round, state.step, "judged", judged.verdict_hash),
        Send(context.site.federation.coordinator, envelope),
    )
    return Transition(Ready(memory), effects)


def is_whole(judgement: Judgement, question: Question) -> bool:
    """Whether a judgement is about exactly the candidates, in order, each once."""
    removed = tuple(name for name, _ in judgement.removed)
    in_order = sorted(judgement.accepted) == list(judgement.accepted) and sorted(removed) == list(
        removed
    )
    everybody = tuple(sorted((*judgement.accepted, *removed)))
    return in_order and everybody == question.names and len(judgement.rows) == len(question.names)


def score_commitment(context: bytes, step: int, name: str, salt: bytes, row: bytes) -> bytes:
    """What a verdict says of one candidate's scores: nothing, until salt and row are shown."""
    return hash_parts(
        Label.SCORE_COMMITMENT, context, step.to_bytes(2, "big"), name.encode(), salt, row
    )
