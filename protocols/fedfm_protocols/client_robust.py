"""Client, steps 5 to 8 and 13 of robust rounds: sketch what was uploaded, check what the validator
says, and apply no sum that is not the sum of what was judged."""

from __future__ import annotations

from dataclasses import replace

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CryptoError
from fedfm_crypto.lanes import from_lanes
from fedfm_protocols.beacon import beacon, nonces_of, opens_nonce
from fedfm_protocols.checks import check_verdict
from fedfm_protocols.client_cohort import cast_vote
from fedfm_protocols.client_session import ClientContext, say, taken
from fedfm_protocols.client_states import (
    Applying,
    Binding,
    ClientState,
    Judged,
    JudgedStep,
    NonceOpened,
    Session,
    Sketched,
    Unbound,
    Unmasked,
)
from fedfm_protocols.context import NO_HASH
from fedfm_protocols.effects import ApplySum, Effect, Note, Persist, Transition, VerdictSeen
from fedfm_protocols.errors import BelowThreshold, EquivocationError, RoundRefused
from fedfm_protocols.masking import Words
from fedfm_protocols.messages import Cohort, read_body
from fedfm_protocols.robust_messages import (
    BeaconNonce,
    BeaconNonces,
    BindingResult,
    Sketch,
    SumSketch,
    Verdict,
)
from fedfm_protocols.sketch_keys import HeldSketchKey, read_sketch_key
from fedfm_protocols.sum_sketch import Place, seal_sum


def take_sketch_key(
    context: ClientContext, state: ClientState, envelope: Envelope
) -> Transition[ClientState]:
    """Store the validator's next key; a round in progress goes on with the one it began with."""
    federation, memory = context.site.federation, state.memory
    key = read_sketch_key(federation, context.need_sketching(), envelope, memory.sketch_key)
    # Under the epoch's number: a journal holds one value for a round, step and record.
    persist = Persist(key.epoch, 0, "sketch-key", key.key_hash)
    return Transition(replace(state, memory=replace(memory, sketch_key=key)), (persist,))


def sketch_update(
    context: ClientContext, state: NonceOpened, envelope: Envelope
) -> Transition[ClientState]:
    """Steps 5 and 6: check everybody's nonce, derive the beacon, sketch the very integers that
    went into the upload."""
    site, session, uploaded = context.site, state.session, state.uploaded
    published = read_body(envelope, BeaconNonces)
    if envelope.header.refers_to != uploaded.upload_set:
        raise EquivocationError("the nonces of the beacon are of another upload set")
    members = context.open_set(
        published.nonces,
        BeaconNonce,
        federation=site.federation,
        allowed=frozenset(uploaded.wraps),
        context=session.context,
        step=session.step,
    )
    for name, (member, body) in members.items():
        if member.header.refers_to != uploaded.upload_set:
            raise EquivocationError(f"{name} opened its nonce for another upload set")
        commitment = state.measured.part.commitments[name]
        if not opens_nonce(session.context0, name, body.nonce, commitment):
            raise EquivocationError(f"{name} opened another nonce than it committed to")
    needed = site.federation.thresholds.min_accepted
    if len(members) < needed:
        raise BelowThreshold(f"{len(members)} clients opened their nonces, {needed} are needed")
    session = taken(session, envelope)
    drawn = beacon(session.context, session.step, uploaded.upload_set, nonces_of(members))
    sketched = Sketched(state.memory, session, uploaded, frozenset(members), drawn, sketch=NO_HASH)
    if site.name not in members:  # removed already; it still votes on the others
        return Transition(sketched)
    sketching = context.need_sketching()
    try:
        sketch = sketching.sketch(state.measured.integers, drawn)
        ciphertext = sketching.encrypt(sketch, _sketch_key(session).public_key)
    except CryptoError as error:
        raise RoundRefused(f"this site's update cannot be sketched: {error}") from error
    session, send = say(
        context, state.memory, session, Sketch(ciphertext), envelope.header.body_hash
    )
    own = send.envelope.header.body_hash
    return Transition(replace(sketched, session=session, sketch=own), (send,))


def _sketch_key(session: Session) -> HeldSketchKey:
    if session.sketch_key is None:
        raise RoundRefused("this site has no sketch key of the validator")
    return session.sketch_key


def take_verdict(
    context: ClientContext, state: Sketched, envelope: Envelope
) -> Transition[ClientState]:
    """Step 8, first half: the validator's word, as far as a client can check it."""
    verdict, name = read_body(envelope, Verdict), context.site.name
    check_verdict(verdict, state.candidates)
    own = "unseen"
    if name in verdict.judged:
        if verdict.sketches[verdict.judged.index(name)] != state.sketch:
            raise EquivocationError("the verdict is about another sketch than this site sent")
        own = "accepted" if name in verdict.accepted else "removed"
    needed = context.site.federation.thresholds.min_accepted
    if len(verdict.accepted) < needed:
        raise BelowThreshold(
            f"the verdict accepts {len(verdict.accepted)} updates, {needed} are needed"
        )
    session = taken(state.session, envelope)
    removed = tuple((client.name, client.reason) for client in verdict.removed)
    seen = VerdictSeen(
        session.identity.round, session.step, own, dict(removed).get(name, ""), removed
    )
    step = JudgedStep(envelope.header.body_hash, state.beacon)
    return Transition(Judged(state.memory, session, state.uploaded, verdict, step), (seen,))


def vote_judged(
    context: ClientContext, state: Judged, envelope: Envelope
) -> Transition[ClientState]:
    """Steps 8 and 9: the cohort is exactly whom the verdict accepts, and so is the vote."""
    cohort = read_body(envelope, Cohort)
    if envelope.header.refers_to != state.step.verdict_hash:
        raise EquivocationError("the cohort refers to another verdict than this site was shown")
    if cohort.upload_set != state.uploaded.upload_set:
        raise EquivocationError("the cohort refers to another upload set")
    if cohort.accepted != state.verdict.accepted:
        different = sorted(set(cohort.accepted) ^ set(state.verdict.accepted))
        raise EquivocationError(
            f"the cohort is not what the validator accepted: {', '.join(different)}"
        )
    uploaded = replace(state.uploaded, memory=state.memory, session=state.session)
    return cast_vote(context, uploaded, envelope, cohort, state.step)


def report_sum(
    context: ClientContext,
    state: Unmasked,
    session: Session,
    judged: JudgedStep,
    total: Words,
    aggregate_hash: bytes,
    apply: ApplySum,
) -> Transition[ClientState]:
    """Step 13: tell the validator the sketch of what was opened; nothing is applied yet."""
    lane_bits = context.site.federation.lanes.lane_bits
    sketching = context.need_sketching()
    try:
        sketch = sketching.sketch(from_lanes(total, lane_bits), judged.beacon)
    except CryptoError as error:
        raise RoundRefused(f"the opened sum cannot be sketched: {error}") from error
    place = Place(session.context, session.step, context.site.name, aggregate_hash)
    sealed = seal_sum(sketch, _sketch_key(session).box_key, place, context.random)
    session, send = say(context, state.memory, session, SumSketch(sealed), aggregate_hash)
    binding = Binding(state.memory, session, aggregate_hash, apply, state.following)
    return Transition(binding, (send,))


def take_binding(
    context: ClientContext, state: Binding, envelope: Envelope
) -> Transition[ClientState]:
    """Step 13: apply the sum if it is bound to what was judged, else drop it."""
    result = read_body(envelope, BindingResult)
    if envelope.header.refers_to != state.aggregate_hash:
        raise EquivocationError("the validator's check is of another sum than this site was given")
    session = taken(state.session, envelope)
    notes: tuple[Effect, ...] = ()
    if context.site.name in result.deviators:
        notes = (
            Note("the validator says that this site reported another sketch of the sum: compare"),
        )
    if not result.passed:
        return Transition(Unbound(state.memory, session), notes)
    applying = Applying(state.memory, session, state.aggregate_hash, state.following)
    return Transition(applying, (*notes, state.apply))
