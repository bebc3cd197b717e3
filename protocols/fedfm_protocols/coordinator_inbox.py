"""What the coordinator takes from clients in each phase, and why it refuses the rest.

One handler per phase; each returns the phase with the message added.  Whatever a single client
sends, the round goes on: a bad message is refused and the client counts as silent.
Steps are numbered as in protocols/README.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CryptoError
from fedfm_protocols import summing
from fedfm_protocols.beacon import opens_nonce
from fedfm_protocols.checks import check_place, check_verdict, place_of, verify_signature
from fedfm_protocols.context import NO_HASH
from fedfm_protocols.coordinator_round import StepSum, TranscriptEntry
from fedfm_protocols.coordinator_states import (
    Acking,
    Committing,
    Comparing,
    CoordinatorContext,
    Dealing,
    Decrypting,
    Drawing,
    Judging,
    KeyAcking,
    Measuring,
    Offering,
    Reporting,
    RunningRound,
    Scoring,
    Sharing,
    Unmasking,
    Uploading,
    Voting,
    phase_of,
)
from fedfm_protocols.errors import (
    EquivocationError,
    MalformedMessage,
    OutOfOrder,
    ReplayedMessage,
    UnknownSender,
    WrongContext,
)
from fedfm_protocols.key_epoch import opens_commitment
from fedfm_protocols.key_messages import KeyDealing, KeyOpening, WrappedKey
from fedfm_protocols.masking import graph_commitment
from fedfm_protocols.messages import (
    Cohort,
    CohortVote,
    GraphNonce,
    KeyOffer,
    RoundAck,
    RoundClose,
    RoundOpen,
    ShareBundle,
    Unmask,
    Upload,
    UploadHash,
    body_hash,
    read_body,
    type_name,
)
from fedfm_protocols.offers import OfferRules, check_offer
from fedfm_protocols.robust_messages import (
    BeaconNonce,
    BindingResult,
    Sketch,
    SumSketch,
    Verdict,
)
from fedfm_protocols.steps import StepResult, basis_of

# Bodies that a transcript shows; everything else is evidence by its signed header only.
PUBLIC_BODIES = frozenset(
    type_name(body)
    for body in (
        RoundOpen,
        KeyOffer,
        GraphNonce,
        UploadHash,
        Cohort,
        CohortVote,
        RoundAck,
        RoundClose,
        BeaconNonce,
        Verdict,
        BindingResult,
    )
)
FROM_VALIDATOR = frozenset({type_name(Verdict), type_name(BindingResult)})


def transcript_entry(envelope: Envelope) -> TranscriptEntry:
    """A message as evidence: its body only where the body is public."""
    public = envelope.header.type in PUBLIC_BODIES
    return TranscriptEntry(envelope.signed_header, envelope.body if public else None)


def take(context: CoordinatorContext, state: RunningRound, envelope: Envelope) -> RunningRound:
    """Add one client's message to the phase.

    Raises
    ------
    MessageRefused
        saying why the message is dropped.
    """
    federation, current = context.site.federation, state.round
    header = envelope.header
    verify_signature(envelope, federation)
    if federation.robust and header.type in FROM_VALIDATOR:
        if header.sender != federation.validator:
            raise UnknownSender(
                f"{header.type} from {header.sender}; it is {federation.validator}'s to say"
            )
    elif header.sender not in current.identity.invited:
        raise UnknownSender(f"{header.type} from {header.sender}, who was not invited")
    place = (header.sender, header.step, place_of(envelope))
    earlier = current.taken.get(place)
    if earlier == header.body_hash:
        raise ReplayedMessage(f"{header.type} from {header.sender} was taken already")
    check_place(envelope, context=current.context, step=_expected_step(state, header.type))
    if header.checkpoint != current.checkpoint:
        # In a set it would look as if the log had two histories; the round has one head.
        raise WrongContext(
            f"{header.type} from {header.sender} echoes the log at size {header.checkpoint_size}, "
            f"root {header.checkpoint_root.hex()[:16]}; this round was opened at size "
            f"{current.checkpoint.size}, root {current.checkpoint.root.hex()[:16]}"
        )
    if earlier is not None:
        raise ReplayedMessage(
            f"{header.sender} signed two different {header.type} messages; the first stands"
        )
    handler = _HANDLERS[type(state)].get(header.type)
    if handler is None:
        phase = phase_of(state).replace("_", " ")
        raise OutOfOrder(f"{header.type} from {header.sender} while waiting for {phase}")
    members = _members(state, header.type)
    if members is not None and header.sender not in members:
        raise OutOfOrder(
            f"{header.type} from {header.sender}, who takes no part in step {header.step}"
        )
    new_state: RunningRound = handler(context, state, envelope)
    recorded = replace(
        new_state.round,
        taken={**current.taken, place: header.body_hash},
        transcript=current.transcript.add(transcript_entry(envelope)),
    )
    return replace(new_state, round=recorded)


def _expected_step(state: RunningRound, kind: str) -> int:
    """The present step; acknowledgements of the one before come while the next is trained."""
    if isinstance(state, Committing) and state.before is not None and kind == type_name(RoundAck):
        return state.before.step
    return state.round.step


def _members(state: RunningRound, kind: str) -> Collection[str] | None:
    """Who may speak now; None before anybody has dealt, where every phase says so itself."""
    match state:
        case Acking(_, result) | Reporting(_, result):
            return result.everyone
        case Measuring():
            return state.uploads
        case Committing(_, group, StepSum() as before):
            return before.everyone if kind == type_name(RoundAck) else group.bundles
        case Committing() | Uploading() | Voting() | Unmasking() | Decrypting():
            return state.group.bundles
    return None


def _take_offer(context: CoordinatorContext, state: Offering, envelope: Envelope) -> Offering:
    sender = envelope.header.sender
    try:
        own = check_offer(
            sender,
            read_body(envelope, KeyOffer),
            state.owners,
            OfferRules.of(context.site.federation, state.round.identity),
        )
    except EquivocationError as error:
        raise MalformedMessage(str(error)) from error
    offers = {**state.offers, sender: envelope}
    return replace(state, offers=offers, owners={**state.owners, **own})


def _take_nonce(context: CoordinatorContext, state: Drawing, envelope: Envelope) -> Drawing:
    nonce, sender = read_body(envelope, GraphNonce), envelope.header.sender
    offer = state.offers.get(sender)
    if offer is None:
        raise OutOfOrder(f"a graph nonce from {sender}, who offered no keys")
    if graph_commitment(state.round.context0, sender, nonce.nonce) != offer.graph_commitment:
        raise MalformedMessage(f"{sender} opened another nonce than it committed to")
    return replace(state, nonces={**state.nonces, sender: envelope})


def _take_bundle(context: CoordinatorContext, state: Sharing, envelope: Envelope) -> Sharing:
    bundle = read_body(envelope, ShareBundle)
    sender = envelope.header.sender
    if sender not in state.offers:
        raise OutOfOrder(f"shares from {sender}, who offered no keys")
    recipients = tuple(entry.recipient for entry in bundle.shares)
    expected = state.hood.of(sender) if context.site.federation.masked else ()
    steps = state.round.identity.steps
    if recipients != expected or any(len(e.commitments) != steps for e in bundle.shares):
        raise MalformedMessage(f"the shares of {sender} do not cover its neighbours, in order")
    return replace(state, bundles={**state.bundles, sender: bundle})


def _take_dealing(context: CoordinatorContext, state: Dealing, envelope: Envelope) -> Dealing:
    dealing, sender = read_body(envelope, KeyDealing), envelope.header.sender
    if sender not in state.holders:
        raise OutOfOrder(f"a part of the key from {sender}, who is not to hold a share of it")
    if tuple(entry.recipient for entry in dealing.shares) != tuple(sorted(state.offers)):
        raise MalformedMessage(f"the key shares of {sender} do not cover the key roster, in order")
    encryption, context0 = context.need_encryption(), state.round.context0
    if not opens_commitment(
        encryption, context0, sender, dealing.public_share, state.offers[sender]
    ):
        raise MalformedMessage(f"{sender} shows another public share than it committed to")
    return replace(state, dealings={**state.dealings, sender: dealing})


def _take_hash(context: CoordinatorContext, state: Committing, envelope: Envelope) -> Committing:
    federation, sender = context.site.federation, envelope.header.sender
    own = read_body(envelope, UploadHash)
    if envelope.header.refers_to != _basis(state, sender):
        raise WrongContext(
            f"{sender} masked for another set of dealers, on another graph or on another adapter"
        )
    if (own.wrap_hash != NO_HASH) != federation.encrypted:
        raise MalformedMessage(
            f"{sender} commits to {'no' if federation.encrypted else 'a'} wrapped key, which does "
            f"not fit suite {federation.charter.suite}"
        )
    hashes: tuple[bytes, ...] = ()
    if federation.masked or federation.encrypted:  # else two updates may well be the same
        hashes = (own.upload_hash, own.wrap_hash) if federation.encrypted else (own.upload_hash,)
    for digest in hashes:
        if digest in state.owners:
            raise MalformedMessage(
                f"{sender} committed to the same upload as {state.owners[digest]}"
            )
    owners = {**state.owners, **dict.fromkeys(hashes, sender)}
    return replace(state, hashes={**state.hashes, sender: envelope}, owners=owners)


def _basis(state: Committing, sender: str) -> bytes:
    """What an upload hash must refer to: after the first step also the sum and the adapter that
    its sender acknowledged."""
    current, before = state.round, None
    if state.before is not None:
        adapter = state.before.adapter_of(sender)
        if adapter is None:
            raise OutOfOrder(f"an upload hash from {sender}, who has not acknowledged the last sum")
        before = StepResult(state.before.step, state.before.aggregate_hash, adapter)
    group = state.group
    return basis_of(current.context, current.step, group.dealers, group.hood.seed, before)


def _take_wrap(context: CoordinatorContext, state: Uploading, envelope: Envelope) -> Uploading:
    sender, wrapped = envelope.header.sender, read_body(envelope, WrappedKey)
    committed = state.hashes.get(sender)
    if committed is None or committed.wrap_hash != envelope.header.body_hash:
        raise MalformedMessage(
            f"the wrapped key of {sender} is not the one whose hash it committed to"
        )
    if envelope.header.refers_to != state.upload_set:
        raise WrongContext(f"the wrapped key of {sender} refers to another upload set")
    try:
        context.need_encryption().check_wrap(wrapped.wrap)
    except CryptoError as error:
        raise MalformedMessage(f"the wrapped key of {sender}: {error}") from error
    return replace(state, wraps={**state.wraps, sender: envelope})


def _take_upload(context: CoordinatorContext, state: Uploading, envelope: Envelope) -> Uploading:
    sender, federation = envelope.header.sender, context.site.federation
    committed = state.hashes.get(sender)
    if committed is None or committed.upload_hash != envelope.header.body_hash:
        raise MalformedMessage(f"the upload of {sender} is not the one whose hash it committed to")
    if envelope.header.refers_to != state.upload_set:
        raise WrongContext(f"the upload of {sender} refers to another upload set")
    if federation.encrypted and sender not in state.wraps:
        raise OutOfOrder(f"the upload of {sender} before its wrapped key")
    upload = read_body(envelope, Upload)
    if federation.robust:  # whose uploads are added is for the validator to say
        summing.check_upload(federation, context.encryption, upload, sender)
        return replace(
            state, uploaded=state.uploaded | {sender}, kept={**state.kept, sender: upload}
        )
    total = summing.add_upload(federation, context.encryption, state.total, upload, sender)
    return replace(state, uploaded=state.uploaded | {sender}, total=total)


def _take_beacon_nonce(
    context: CoordinatorContext, state: Uploading, envelope: Envelope
) -> Uploading:
    nonce, sender = read_body(envelope, BeaconNonce), envelope.header.sender
    if not context.site.federation.robust or sender not in state.hashes:
        raise OutOfOrder(f"a beacon nonce from {sender}, of whom none is waited for")
    if envelope.header.refers_to != state.upload_set:
        raise WrongContext(f"the beacon nonce of {sender} refers to another upload set")
    commitment = state.group.offers[sender].nonce_commitment
    if not opens_nonce(state.round.context0, sender, nonce.nonce, commitment):
        raise MalformedMessage(f"{sender} opened another beacon nonce than it committed to")
    return replace(state, nonces={**state.nonces, sender: envelope})


def _take_sketch(context: CoordinatorContext, state: Measuring, envelope: Envelope) -> Measuring:
    sketch, sender = read_body(envelope, Sketch), envelope.header.sender
    if envelope.header.refers_to != body_hash(state.nonces):
        raise WrongContext(f"the sketch of {sender} refers to other nonces")
    for other, known in state.sketches.items():
        if known.header.body_hash == envelope.header.body_hash:
            raise MalformedMessage(f"{sender} sent the same sketch as {other}")
    try:
        context.need_sketching().check_sketch(sketch.ciphertext)
    except CryptoError as error:
        raise MalformedMessage(f"the sketch of {sender}: {error}") from error
    return replace(
        state,
        sketches={**state.sketches, sender: envelope},
        ciphertexts={**state.ciphertexts, sender: sketch.ciphertext},
    )


def _take_verdict(context: CoordinatorContext, state: Judging, envelope: Envelope) -> Judging:
    verdict, sketches = read_body(envelope, Verdict), state.measured.sketches
    if envelope.header.refers_to != state.request_hash:
        raise WrongContext("the verdict is on another request")
    try:
        check_verdict(verdict, frozenset(sketches))
    except EquivocationError as error:
        raise MalformedMessage(str(error)) from error
    judged = tuple(sketches[name].header.body_hash for name in verdict.judged)
    if verdict.judged != tuple(sorted(sketches)) or verdict.sketches != judged:
        raise MalformedMessage("the verdict is not about exactly the sketches that were scored")
    return replace(state, verdict=(envelope, verdict))


def _take_report(context: CoordinatorContext, state: Reporting, envelope: Envelope) -> Reporting:
    read_body(envelope, SumSketch)
    sender = envelope.header.sender
    if envelope.header.refers_to != state.result.aggregate_hash:
        raise WrongContext(f"{sender} reports the sketch of another sum")
    return replace(state, reports={**state.reports, sender: envelope})


def _take_binding(context: CoordinatorContext, state: Comparing, envelope: Envelope) -> Comparing:
    result = read_body(envelope, BindingResult)
    if envelope.header.refers_to != state.result.aggregate_hash:
        raise WrongContext("the validator checked another sum")
    return replace(state, binding=(envelope, result))


def _take_vote(context: CoordinatorContext, state: Voting, envelope: Envelope) -> Voting:
    vote = read_body(envelope, CohortVote)
    if vote.cohort_hash != state.cohort_hash or envelope.header.refers_to != state.named:
        raise MalformedMessage(f"{envelope.header.sender} voted for another cohort")
    return replace(state, votes={**state.votes, envelope.header.sender: envelope})


def _take_shares(context: CoordinatorContext, state: Unmasking, envelope: Envelope) -> Unmasking:
    reveal = read_body(envelope, Unmask)
    sender = envelope.header.sender
    if envelope.header.refers_to != state.cohort_hash:
        raise WrongContext(f"the shares of {sender} refer to another cohort")
    wrong = state.opening.check_reveal(sender, reveal)
    if wrong:
        raise MalformedMessage(
            f"{sender} reveals false shares of {', '.join(wrong)}: they do not open the "
            "commitments that the dealers signed"
        )
    usable = Counter(state.usable)
    usable.update(entry.dealer for entry in (*reveal.seed_shares, *reveal.key_shares))
    return replace(state, reveals={**state.reveals, sender: reveal}, usable=usable)


def _take_opening(context: CoordinatorContext, state: Decrypting, envelope: Envelope) -> Decrypting:
    read_body(envelope, KeyOpening)
    sender = envelope.header.sender
    if sender not in state.active or envelope.header.refers_to != state.active_hash:
        raise WrongContext(f"{sender} opens the key sum with another set of holders than asked")
    return replace(state, openings={**state.openings, sender: envelope})


def _take_ack(context: CoordinatorContext, state: Acking, envelope: Envelope) -> Acking:
    return replace(state, result=_acknowledged(state.result, envelope))


def _take_early_ack(
    context: CoordinatorContext, state: Committing, envelope: Envelope
) -> Committing:
    if state.before is None:
        raise OutOfOrder(f"{envelope.header.sender} acknowledges a sum before there was one")
    return replace(state, before=_acknowledged(state.before, envelope))


def _acknowledged(result: StepSum, envelope: Envelope) -> StepSum:
    read_body(envelope, RoundAck)
    sender = envelope.header.sender
    if envelope.header.refers_to != result.aggregate_hash:
        raise WrongContext(f"{sender} acknowledges another aggregate")
    return replace(result, acks={**result.acks, sender: envelope})


def _take_key_ack(context: CoordinatorContext, state: KeyAcking, envelope: Envelope) -> KeyAcking:
    ack, sender = read_body(envelope, RoundAck), envelope.header.sender
    if envelope.header.refers_to != state.key.key_hash:
        raise WrongContext(f"{sender} acknowledges another key than was dealt")
    if ack.adapter_hash != state.round.identity.adapter_hash:
        raise WrongContext(f"{sender} acknowledges the key for another adapter")
    return replace(state, acks={**state.acks, sender: envelope})


# Phase -> message that it waits for -> handler.  The handlers' state types differ, hence Any.
_HANDLERS: Mapping[type[RunningRound], Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {
        Offering: {type_name(KeyOffer): _take_offer},
        Dealing: {type_name(KeyDealing): _take_dealing},
        Drawing: {type_name(GraphNonce): _take_nonce},
        Sharing: {type_name(ShareBundle): _take_bundle},
        Committing: {type_name(UploadHash): _take_hash, type_name(RoundAck): _take_early_ack},
        Uploading: {
            type_name(WrappedKey): _take_wrap,
            type_name(Upload): _take_upload,
            type_name(BeaconNonce): _take_beacon_nonce,
        },
        Measuring: {type_name(Sketch): _take_sketch},
        Scoring: {},
        Judging: {type_name(Verdict): _take_verdict},
        Reporting: {type_name(SumSketch): _take_report},
        Comparing: {type_name(BindingResult): _take_binding},
        Voting: {type_name(CohortVote): _take_vote},
        Unmasking: {type_name(Unmask): _take_shares},
        Decrypting: {type_name(KeyOpening): _take_opening},
        Acking: {type_name(RoundAck): _take_ack},
        KeyAcking: {type_name(RoundAck): _take_key_ack},
    }
)
