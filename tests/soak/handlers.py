"""Targets: every state of a client and every phase of the coordinator, under hostile messages.

Each case takes an honest moment, damages a message (its own, another round's, another type's) and
has it signed again by the real key of its sender, so that the deeper checks are reached.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any, get_args

import numpy as np

from fedfm_crypto.aead import seal
from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError
from fedfm_protocols import shares
from fedfm_protocols.client import client_step, leave_round
from fedfm_protocols.client_states import Idle
from fedfm_protocols.coordinator import coordinator_step
from fedfm_protocols.coordinator_states import Finished, RunningRound, phase_of
from fedfm_protocols.effects import (
    AdapterComputed,
    ApplySum,
    Deadline,
    Effect,
    Received,
    Send,
    Train,
    UpdateReady,
)
from fedfm_protocols.errors import DivergenceError, MessageRefused, RoundViolation
from fedfm_protocols.messages import DeliveredShares, Unmask, read_body
from tests.protocols.scripted import forge
from tests.soak import recordings
from tests.soak.damage import EDGES, damage_bytes, damage_value, encoded_or_raw
from tests.soak.engine import Attempt, OracleError, Target
from tests.soak.recordings import (
    SETS,
    Moment,
    Recording,
    body_of,
    fingerprint,
    fitting_context,
    member_forged,
    seeded,
)

CLIENT_STATES = {
    "Idle": "RoundOpen",
    "Offered": "KeyRoster",
    "Opened": "GraphNonces",
    "Shared": "ShareDelivery",
    "Training": "UploadSet",
    "Committed": "UploadSet",
    "Uploaded": "Cohort",
    "Voted": "CohortProof",
    "Unmasked": "Aggregate",
    "Applying": "RoundClose",
    "Acked": "RoundClose",
    "LeftOut": "RoundClose",
}
PHASE_MESSAGES = {
    "Offering": "KeyOffer",
    "Drawing": "GraphNonce",
    "Sharing": "ShareBundle",
    "Committing": "UploadHash",
    "Uploading": "Upload",
    "Voting": "CohortVote",
    "Unmasking": "Unmask",
    "Acking": "RoundAck",
}
SPARSE_ONLY = ("Opened", "Drawing")
SESSIONS_ONLY = ("LeftOut",)


def client_targets() -> list[Target]:
    """One target a client state, and one for shares that a dealer sealed wrongly."""
    return [
        *(
            Target(f"client/{state}", _maker(state, kind, client_attempt))
            for state, kind in CLIENT_STATES.items()
        ),
        Target("client/sealed-shares", _sealed_shares),
    ]


def coordinator_targets() -> list[Target]:
    """One target a phase of the coordinator."""
    return [
        Target(f"coordinator/{state}", _maker(state, kind, coordinator_attempt))
        for state, kind in PHASE_MESSAGES.items()
    ]


_Attempter = Callable[[random.Random, Recording, Moment, bytes], Attempt]


def _maker(state: str, kind: str, attempt: _Attempter) -> Callable[[random.Random], Attempt]:
    def make(rng: random.Random) -> Attempt:
        if state in SPARSE_ONLY:
            recording = recordings.sparse()
        elif state in SESSIONS_ONLY or rng.random() < 0.4:
            recording = recordings.sessions()
        else:
            recording = recordings.masked() if rng.random() < 0.8 else recordings.clear()
        moment = rng.choice(recording.moments[state])
        made = attempt(rng, recording, moment, hostile(rng, recording, moment, kind))
        return _on_small_graphs(made) if state in SPARSE_ONLY else made

    return make


def _on_small_graphs(attempt: Attempt) -> Attempt:
    def run() -> str:
        with recordings.small_graphs():
            return attempt.run()

    return dataclasses.replace(attempt, run=run)


# ---------------------------------------------------------------- hostile messages


def hostile(rng: random.Random, recording: Recording, moment: Moment, kind: str) -> bytes:
    """Bytes of a message that somebody might send to a party in this moment."""
    envelope = _choose(rng, recording, moment, kind)
    if rng.random() < 0.08:
        others = [other.encode() for other in rng.sample(recording.all_envelopes, 3)]
        return damage_bytes(rng, envelope.encode(), others)
    kind = envelope.header.type
    body = envelope.body
    if rng.random() < 0.8:
        body = _damaged_body(rng, recording, envelope)
    header = {} if rng.random() < 0.8 else _damaged_header(rng, recording, envelope)
    if "context" not in header and rng.random() < 0.9:
        context = fitting_context(moment.state, kind, body, recording.federation)
        header = {**header, **({"context": context} if context else {})}
    signer = header.get("sender", envelope.header.sender)
    try:
        return forge(recording.key(signer), envelope, body, **header).encode()
    except CodecError:
        return damage_bytes(rng, envelope.encode())


def _choose(rng: random.Random, recording: Recording, moment: Moment, kind: str) -> Envelope:
    place = rng.random()
    if place < 0.6 and moment.envelope is not None:
        return moment.envelope
    if place < 0.9:
        pool = recording.envelopes[kind]
    elif place < 0.95:
        pool = recordings.stranger().envelopes.get(kind) or recording.envelopes[kind]
    else:
        pool = recording.all_envelopes
    return rng.choice(pool)


def _damaged_body(rng: random.Random, recording: Recording, envelope: Envelope) -> bytes:
    kind, body = envelope.header.type, body_of(envelope)
    others = recording.bodies(kind)[:12]
    if kind in SETS and rng.random() < 0.6:
        forged = member_forged(
            rng,
            recording,
            body,
            kind,
            lambda rng, honest, bodies: encoded_or_raw(rng, body_of(honest), bodies),
        )
        try:
            return encode(forged)
        except CodecError:  # the member has grown beyond what a set may hold
            pass
    return encoded_or_raw(rng, body, others)


def _damaged_header(rng: random.Random, recording: Recording, envelope: Envelope) -> dict[str, Any]:
    names = ("context", "type", "sender", "step", "sequence", "refers_to", "checkpoint_size")
    name = rng.choice(names)
    honest = getattr(envelope.header, name)
    other = rng.choice(recording.all_envelopes).header
    match honest:
        case bytes():
            return {name: rng.choice((getattr(other, name), bytes(32), rng.randbytes(32)))}
        case str():
            return {name: rng.choice((getattr(other, name), "nobody", "ShareContents", "Hello"))}
        case _:
            width = 16 if name == "step" else 32
            return {name: rng.choice([edge for edge in EDGES if edge < 2**width])}


# ---------------------------------------------------------------- clients


def client_attempt(
    rng: random.Random, recording: Recording, moment: Moment, data: bytes
) -> Attempt:
    honest = recording.simulation.clients[moment.party].context
    context = dataclasses.replace(honest, random=seeded(rng))
    update = recording.simulation.updates(moment.party, 1, 0)

    def run() -> str:
        try:
            envelope = Envelope.decode(data)
        except CodecError:
            return "undecodable"
        try:
            transition = client_step(context, moment.state, Received(envelope))
        except MessageRefused as error:
            _unchanged(moment)
            return type(error).__name__
        except (RoundViolation, DivergenceError) as error:
            _unchanged(moment)
            left = leave_round(moment.state, str(error))
            if not isinstance(left.state, Idle) or _sent(left.effects):
                raise OracleError("a client that leaves a round says or keeps something") from error
            return type(error).__name__
        _unchanged(moment)
        _check_release(transition.effects)
        for effect in transition.effects:
            if isinstance(effect, Train):
                event = UpdateReady(effect.round, effect.step, update)
                client_step(context, transition.state, event)
            if isinstance(effect, ApplySum):
                if not np.all(np.isfinite(effect.total)):
                    raise OracleError("a sum that is not finite")
                applied = AdapterComputed(effect.round, effect.step, bytes(32))
                client_step(context, transition.state, applied)
        return "taken"

    return Attempt(data, run, allowed=())


def _sent(effects: tuple[Effect, ...]) -> list[Envelope]:
    return [effect.envelope for effect in effects if isinstance(effect, Send)]


def _check_release(effects: tuple[Effect, ...]) -> None:
    """Never both kinds of share for one dealer, never a message to anybody but the coordinator."""
    for envelope in _sent(effects):
        if envelope.header.type == "Unmask":
            reveal = read_body(envelope, Unmask)
            seeds = {entry.dealer for entry in reveal.seed_shares}
            if seeds & {entry.dealer for entry in reveal.key_shares}:
                raise OracleError("both kinds of share were released for one dealer")


def _unchanged(moment: Moment) -> None:
    if fingerprint(moment.state) != moment.fingerprint:
        raise OracleError("the transition changed the state that it was given")


def _sealed_shares(rng: random.Random) -> Attempt:
    """A dealer and the coordinator together: any plaintext, sealed with the right key, with
    commitments that fit it."""
    recording = recordings.masked()
    moments = [m for m in recording.moments["Shared"] if m.envelope is not None]
    moment = rng.choice(moments)
    assert moment.envelope is not None
    state, context = moment.state, moment.state.session.context
    delivery = body_of(moment.envelope)
    place = rng.randrange(len(delivery.shares))
    entry = delivery.shares[place]
    secrets = state.secrets.share_key
    public = state.offers[entry.dealer].share_key
    arguments = {"context": context, "dealer": entry.dealer, "recipient": moment.party}
    contents = shares.open_shares(
        **arguments,
        sealed=entry.sealed,
        own_key=secrets,
        dealer_public=public,
        steps=1,
        commitments=entry.commitments,
    )
    plain = encoded_or_raw(rng, contents, [contents])
    commitments = entry.commitments
    try:
        changed = damage_value(rng, contents, [contents])
        commitments = shares.commit(context, entry.dealer, moment.party, changed)
        if rng.random() < 0.8:
            plain = encode(changed)
    except CodecError:
        pass
    key = shares._sealing_key(context, secrets, public, entry.dealer, moment.party)
    associated = shares._associated(context, entry.dealer, moment.party)
    sealed = seal(key, plain, associated, seeded(rng))
    forged = DeliveredShares(entry.dealer, sealed, commitments[:1024])
    entries = (*delivery.shares[:place], forged, *delivery.shares[place + 1 :])
    try:
        body = encode(dataclasses.replace(delivery, shares=entries))
    except CodecError:
        body = moment.envelope.body
    message = forge(recording.key("coordinator"), moment.envelope, body)
    return client_attempt(rng, recording, moment, message.encode())


# ---------------------------------------------------------------- the coordinator


def coordinator_attempt(
    rng: random.Random, recording: Recording, moment: Moment, data: bytes
) -> Attempt:
    context = dataclasses.replace(recording.simulation.coordinator, random=seeded(rng))

    def run() -> str:
        try:
            envelope = Envelope.decode(data)
        except CodecError:
            return "undecodable"
        try:
            transition = coordinator_step(context, moment.state, Received(envelope))
        except MessageRefused as error:
            _unchanged(moment)
            return type(error).__name__
        _unchanged(moment)
        state = transition.state
        # What was taken must not break anything later: the phases end by their deadlines.
        for _ in range(len(get_args(RunningRound)) + 1):
            if isinstance(state, Finished):
                break
            state = coordinator_step(context, state, Deadline(phase_of(state))).state
        if not isinstance(state, Finished):
            raise OracleError("a round goes on after all its deadlines")
        return f"taken, {state.outcome}"

    return Attempt(data, run, allowed=())
