"""What a validator demands of a request before it decrypts anything: steps 7 and 13.

A request is the coordinator's word, and nothing in it is believed that a client did not sign: which
round it is, whose sketches were scored, who reports which sum.  What cannot be checked is said in
protocols/README.md, section "The validator".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedfm_crypto.envelope import Envelope, SignedHeader
from fedfm_crypto.errors import CodecError, CryptoError, SignatureError
from fedfm_protocols.checks import check_place, verify_signature
from fedfm_protocols.context import (
    TRAIN,
    WATERMARK,
    RoundIdentity,
    context1,
    judged_keys_hash,
)
from fedfm_protocols.effects import JudgeScores, Persist, Send, Transition
from fedfm_protocols.errors import (
    BelowThreshold,
    EquivocationError,
    MalformedMessage,
    ReplayedMessage,
    RoundRefused,
    UnknownSender,
    WrongContext,
)
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import RoundOpen, body_hash, read_body, type_name
from fedfm_protocols.robust_messages import (
    BeaconNonce,
    BindingRequest,
    BindingResult,
    ScoreRequest,
    Sketch,
    SumSketch,
)
from fedfm_protocols.sketching import Question
from fedfm_protocols.sum_sketch import Agreed, Place, most_report, open_sum
from fedfm_protocols.validator_speech import speak
from fedfm_protocols.validator_states import (
    Deliberating,
    EpochSecret,
    JudgedRound,
    ValidatorContext,
    ValidatorMemory,
    ValidatorState,
)


def take_score_request(
    context: ValidatorContext, state: ValidatorState, envelope: Envelope
) -> Transition[ValidatorState]:
    """Step 7: a round that was opened, sketches that clients signed in it, never judged before."""
    federation, header, memory = context.site.federation, envelope.header, state.memory
    request = read_body(envelope, ScoreRequest)
    opened, identity = _read_opening(context, request.opened)
    key = _key_of_round(memory, identity, request, header.context)
    if header.step >= identity.steps:
        raise WrongContext(f"scores of step {header.step} in a round of {identity.steps} steps")
    again = _judged_before(context, state, envelope, identity.round)
    if again is not None:
        return again
    section = federation.charter.robustness
    if section is None or key.served >= section.key_rounds:
        raise RoundRefused(
            f"the sketch key of epoch {key.epoch} has judged {key.served} rounds, as many as the "
            "charter allows; use the next one"
        )
    names = _check_sketches(context, request, identity.invited, header.context, header.step)
    needed = federation.thresholds.min_accepted
    if len(names) < needed:
        raise BelowThreshold(f"{len(names)} sketches to judge, {needed} are needed")
    bounds = _bounds(federation, identity.kind, names)
    question = Question(identity.round, names, needed, memory.rule, bounds)
    deliberating = Deliberating(
        memory,
        identity.round,
        header.step,
        header.context,
        key.epoch,
        header.body_hash,
        tuple(signed.header.body_hash for signed in request.sketches),
        opened.header.checkpoint,
        question,
    )
    judge = JudgeScores(identity.round, header.step, key.secret, request.scores, question)
    return Transition(deliberating, (judge,))


def _bounds(federation: Federation, kind: str, names: Sequence[str]) -> tuple[float, ...]:
    """How long the marks of each may be, as a sketch measures it; none in a round of training."""
    section = federation.charter.watermark
    if kind != WATERMARK or section is None:
        return ()
    return tuple(section.measured_bound(name) for name in names)


def _read_opening(context: ValidatorContext, encoded: bytes) -> tuple[Envelope, RoundIdentity]:
    federation = context.site.federation
    try:
        envelope = Envelope.decode(encoded)
    except CodecError as error:
        raise MalformedMessage(f"the opening in the request does not decode: {error}") from error
    if envelope.header.sender != federation.coordinator:
        raise UnknownSender(f"the opening in the request is from {envelope.header.sender}")
    verify_signature(envelope, federation)
    opened = read_body(envelope, RoundOpen)
    identity = RoundIdentity.of(federation.charter_hash, opened)
    check_place(envelope, context=identity.context0(), step=0)
    judged = opened.kind == TRAIN or (federation.marked and opened.kind == WATERMARK)
    if not judged or opened.config_hash != federation.config_hash:
        raise RoundRefused(
            f"round {opened.round} of kind {opened.kind} is none that a validator judges, or has "
            "another configuration than the charter"
        )
    return envelope, identity


def _key_of_round(
    memory: ValidatorMemory, identity: RoundIdentity, request: ScoreRequest, found: bytes
) -> EpochSecret:
    """The sketch key that the round's context names."""
    context0 = identity.context0()
    for key in memory.keys:
        named = judged_keys_hash(request.key_hash, key.key_hash)
        if context1(context0, request.roster_hash, named) == found:
            return key
    raise WrongContext(
        f"the request of round {identity.round} is for context {found.hex()[:16]}, which no sketch "
        f"key of this validator leads to (epochs {[key.epoch for key in memory.keys]})"
    )


def _judged_before(
    context: ValidatorContext, state: ValidatorState, envelope: Envelope, number: int
) -> Transition[ValidatorState] | None:
    """What is to be said of a step that was judged already: the same again, or nothing."""
    header, judged = envelope.header, state.memory.judged
    if isinstance(state, Deliberating) and (number, header.step) == (state.round, state.step):
        if header.body_hash == state.request_hash:
            raise ReplayedMessage(f"the request of round {number} is being judged")
        raise EquivocationError(f"two different requests to judge round {number}")
    if judged is None or (number, header.step) > (judged.round, judged.step):
        return None
    if (header.context, header.step) == (judged.context, judged.step):
        if header.body_hash == judged.request_hash:
            coordinator = context.site.federation.coordinator
            return Transition(state, (Send(coordinator, Envelope.decode(judged.verdict)),))
        raise EquivocationError(f"two different requests to judge round {number}")
    raise RoundRefused(
        f"round {number} step {header.step} is not above round {judged.round} step {judged.step}, "
        "the last one judged"
    )


def _check_sketches(
    context: ValidatorContext,
    request: ScoreRequest,
    invited: tuple[str, ...],
    signed_for: bytes,
    step: int,
) -> tuple[str, ...]:
    """Whose sketches were scored, by their own signatures, in the order of their names."""
    federation = context.site.federation
    members = context.open_set(
        request.nonces.nonces,
        BeaconNonce,
        federation=federation,
        allowed=frozenset(invited) & frozenset(federation.clients),
        context=signed_for,
        step=step,
    )
    for name, (member, _) in members.items():
        if member.header.refers_to != request.upload_set:
            raise WrongContext(f"{name} opened its nonce for another upload set than the request's")
    drawn, seen = body_hash(request.nonces), set[bytes]()
    last = ""
    for signed in request.sketches:
        header = signed.header
        if header.sender <= last:
            raise MalformedMessage(
                f"the sketches must be sorted and hold each sender once; {header.sender} follows "
                f"{last}"
            )
        last = header.sender
        if header.sender not in members:
            raise UnknownSender(f"a sketch of {header.sender}, who opened no nonce")
        _verify_header(context, signed, signed_for, step)
        if header.refers_to != drawn:
            raise WrongContext(f"the sketch of {header.sender} is under another beacon")
        if header.body_hash in seen:
            raise MalformedMessage(f"{header.sender} sent the same sketch as somebody else")
        seen.add(header.body_hash)
    return tuple(signed.header.sender for signed in request.sketches)


def _verify_header(
    context: ValidatorContext, signed: SignedHeader, signed_for: bytes, step: int
) -> None:
    header, federation = signed.header, context.site.federation
    try:
        signed.verify(federation.identities[header.sender])
    except SignatureError as error:
        raise UnknownSender(
            f"a sketch that claims to be from {header.sender} is not signed by it: {error}"
        ) from error
    if (header.type, header.context, header.step) != (type_name(Sketch), signed_for, step):
        raise WrongContext(
            f"what {header.sender} signed is a {header.type} of step {header.step} for context "
            f"{header.context.hex()[:16]}, no sketch of this step"
        )


# ---------------------------------------------------------------- step 13


def take_binding_request(
    context: ValidatorContext, state: ValidatorState, envelope: Envelope
) -> Transition[ValidatorState]:
    """Step 13: whether the sum that a quorum opened is the sum of the sketches accepted."""
    federation, header, memory = context.site.federation, envelope.header, state.memory
    request, judged = read_body(envelope, BindingRequest), memory.judged
    if judged is None or (header.context, header.step) != (judged.context, judged.step):
        raise WrongContext("the sum to check is of no round that was judged last")
    if header.refers_to != judged.verdict_hash:
        raise WrongContext("the sum to check refers to another verdict")
    if judged.binding:
        if header.body_hash != judged.binding_request:
            raise EquivocationError(f"two different sums to check in round {judged.round}")
        return Transition(state, (Send(federation.coordinator, Envelope.decode(judged.binding)),))
    if request.accepted != judged.accepted:
        raise EquivocationError("the sum to check is of other clients than the verdict accepts")
    key = memory.of(judged.key_epoch)
    if key is None:
        raise RoundRefused(f"the sketch key of epoch {judged.key_epoch} is gone")
    agreed = _read_reports(context, key, request, judged)
    result = _compare(context, key, request.total, agreed)
    answer = speak(
        context,
        judged.context,
        judged.step,
        2 * judged.step + 1,
        result,
        request.aggregate_hash,
        judged.checkpoint,
    )
    judged = replace(judged, binding_request=header.body_hash, binding=answer.encode())
    after = replace(state, memory=replace(memory, judged=judged))
    persist = Persist(judged.round, judged.step, "bound", answer.header.body_hash)
    return Transition(after, (persist, Send(federation.coordinator, answer)))


def _read_reports(
    context: ValidatorContext, key: EpochSecret, request: BindingRequest, judged: JudgedRound
) -> Agreed:
    """What most clients report; a box that does not open counts as another report."""
    federation = context.site.federation
    members = context.open_set(
        request.reports,
        SumSketch,
        federation=federation,
        allowed=federation.clients,
        context=judged.context,
        step=judged.step,
    )
    quorum = federation.thresholds.vote_quorum
    if len(members) < quorum:
        raise BelowThreshold(f"{len(members)} clients report the sum, {quorum} are needed")
    reports: dict[str, bytes] = {}
    for name, (member, body) in members.items():
        if member.header.refers_to != request.aggregate_hash:
            raise WrongContext(f"{name} reports another sum than the request is about")
        place = Place(judged.context, judged.step, name, request.aggregate_hash)
        try:
            reports[name] = open_sum(body.sealed, key.box, place)
        except CryptoError:
            reports[name] = b""
    return most_report(reports)


def _compare(
    context: ValidatorContext, key: EpochSecret, total: bytes, agreed: Agreed
) -> BindingResult:
    quorum = context.site.federation.thresholds.vote_quorum
    if agreed.count < quorum:
        reason = f"{agreed.count} clients report one sketch of the sum, {quorum} are needed"
        return BindingResult(False, reason, ())
    try:
        passed = context.sketching.matches(key.secret, total, agreed.sketch)
    except CryptoError as error:
        raise MalformedMessage(f"the sum of sketches in the request: {error}") from error
    reason = "" if passed else "the opened sum does not match the accepted sketches"
    return BindingResult(passed, reason, agreed.deviators)
