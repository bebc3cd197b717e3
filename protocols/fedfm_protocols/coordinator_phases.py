"""How the coordinator moves from phase to phase.

A phase is over when nobody is left to wait for, when a quorum suffices, or, where ``forced`` by
its deadline, with whoever has answered.  Steps are numbered as in protocols/README.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import Envelope, seal_envelope
from fedfm_crypto.lanes import pack_lanes
from fedfm_protocols.context import NO_HASH, context1, dealers_hash
from fedfm_protocols.coordinator_inbox import transcript_entry
from fedfm_protocols.coordinator_states import (
    Acking,
    Committing,
    CompletedRound,
    CoordinatorContext,
    CoordinatorState,
    Drawing,
    Finished,
    Offering,
    Round,
    RunningRound,
    Sharing,
    Unmasking,
    Uploading,
    Voting,
)
from fedfm_protocols.effects import Effect, RoundEnded, Send, Transition
from fedfm_protocols.errors import BelowThreshold, RoundAborted
from fedfm_protocols.messages import (
    MAX_REASON_BYTES,
    Aggregate,
    Body,
    Cohort,
    CohortProof,
    DeliveredShares,
    GraphNonce,
    GraphNonces,
    KeyOffer,
    KeyRoster,
    RoundAck,
    RoundClose,
    ShareDelivery,
    UploadHash,
    UploadSet,
    body_hash,
    read_body,
    type_name,
)
from fedfm_protocols.neighbourhood import complete_graph, sparse_graph
from fedfm_protocols.shares import ShareLedger
from fedfm_protocols.summing import Opening


def advance(
    context: CoordinatorContext, state: RunningRound, *, forced: bool
) -> Transition[CoordinatorState]:
    """Go to the next phase if this one is over; otherwise stay."""
    match state:
        case Offering():
            return _fix_roster(context, state, forced)
        case Drawing():
            return _draw_graph(context, state, forced)
        case Sharing():
            return _deliver_shares(context, state, forced)
        case Committing():
            return _fix_uploads(context, state, forced)
        case Uploading():
            return _propose_cohort(context, state, forced)
        case Voting():
            return _prove_cohort(context, state, forced)
        case Unmasking():
            return _open_sum(context, state, forced)
        case Acking():
            return _conclude(context, state, forced)


# ---------------------------------------------------------------- saying things


def _seal(
    context: CoordinatorContext, current: Round, body: Body, refers_to: bytes
) -> tuple[Round, Envelope]:
    envelope = seal_envelope(
        context.site.key,
        context=current.context,
        type=type_name(type(body)),
        sender=context.site.name,
        step=current.step,
        sequence=current.sent,
        refers_to=refers_to,
        checkpoint=current.checkpoint,
        body=encode(body),
    )
    transcript = (*current.transcript, transcript_entry(envelope))
    return replace(current, sent=current.sent + 1, transcript=transcript), envelope


def _tell(
    context: CoordinatorContext,
    current: Round,
    recipients: Iterable[str],
    body: Body,
    refers_to: bytes = NO_HASH,
) -> tuple[Round, tuple[Effect, ...]]:
    """One envelope, the same for everyone."""
    after, envelope = _seal(context, current, body, refers_to)
    return after, tuple(Send(name, envelope) for name in recipients)


def _over(current: Round, expected: Collection[str], have: Collection[str], forced: bool) -> bool:
    return forced or not set(expected) - set(have) - current.gone


def _shortened(reason: str) -> str:
    """As much of ``reason`` as RoundClose holds, whose bound counts bytes."""
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def finish(
    context: CoordinatorContext, state: RunningRound, outcome: str, reason: str
) -> Transition[CoordinatorState]:
    """End the round without a result: everyone keeps the adapter from before."""
    before = state.round.identity.adapter_hash
    reason = _shortened(reason)
    acks: tuple[bytes, ...] = ()
    if isinstance(state, Acking):
        acks = tuple(state.acks[name].encode() for name in sorted(state.acks))
    close = RoundClose(outcome, reason, before, acks)
    current, sends = _tell(context, state.round, state.round.identity.invited, close)
    cohort = state.cohort if isinstance(state, Voting | Unmasking | Acking) else Cohort((), ())
    finished = Finished(
        current, outcome, reason, before, cohort.accepted, cohort.removed, (), record=None
    )
    return Transition(
        finished, (*sends, RoundEnded(current.identity.round, outcome, reason, before))
    )


def _abort(
    context: CoordinatorContext, state: RunningRound, what: str, found: int, needed: int
) -> Transition[CoordinatorState]:
    return finish(context, state, "aborted", f"{found} clients {what}, {needed} are needed")


# ---------------------------------------------------------------- steps 2 to 4


def _fix_roster(
    context: CoordinatorContext, state: Offering, forced: bool
) -> Transition[CoordinatorState]:
    current, needed = state.round, context.site.federation.thresholds.vote_quorum
    if not _over(current, current.identity.invited, state.offers, forced):
        return Transition(state)
    if len(state.offers) < needed:
        return _abort(context, state, "offered keys", len(state.offers), needed)
    names = sorted(state.offers)
    roster = KeyRoster(tuple(state.offers[name].encode() for name in names))
    digest = body_hash(roster)
    current = replace(current, context=context1(current.context0, digest), sent=0)
    # To all invited: whoever is left out leaves the round and drops its keys, instead of waiting.
    current, sends = _tell(context, current, current.identity.invited, roster)
    offers = {name: read_body(state.offers[name], KeyOffer) for name in names}
    federation = context.site.federation
    if federation.sparse:
        return Transition(Drawing(current, digest, offers, nonces={}), sends)
    hood = complete_graph(federation, offers)
    return Transition(Sharing(current, digest, offers, hood, bundles={}), sends)


def _draw_graph(
    context: CoordinatorContext, state: Drawing, forced: bool
) -> Transition[CoordinatorState]:
    current, needed = state.round, context.site.federation.thresholds.vote_quorum
    if not _over(current, state.offers, state.nonces, forced):
        return Transition(state)
    if len(state.nonces) < needed:
        return _abort(context, state, "opened their nonces", len(state.nonces), needed)
    names = sorted(state.nonces)
    try:
        hood = sparse_graph(
            context.site.federation,
            current.context0,
            current.context,
            state.offers,
            {name: read_body(state.nonces[name], GraphNonce) for name in names},
        )
    except BelowThreshold as error:
        return finish(context, state, "aborted", str(error))
    published = GraphNonces(tuple(state.nonces[name].encode() for name in names))
    # To everyone with keys: whoever is left out drops them, instead of waiting.
    current, sends = _tell(context, current, sorted(state.offers), published)
    offers = {name: state.offers[name] for name in names}
    return Transition(Sharing(current, state.roster_hash, offers, hood, bundles={}), sends)


def _deliver_shares(
    context: CoordinatorContext, state: Sharing, forced: bool
) -> Transition[CoordinatorState]:
    current, needed = state.round, context.site.federation.thresholds.vote_quorum
    if not _over(current, state.offers, state.bundles, forced):
        return Transition(state)
    if len(state.bundles) < needed:
        return _abort(context, state, "dealt shares", len(state.bundles), needed)
    dealers = tuple(sorted(state.bundles))
    sealed = {
        (dealer, entry.recipient): entry
        for dealer, bundle in state.bundles.items()
        for entry in bundle.shares
    }
    sends: list[Effect] = []
    for name in dealers:
        entries = tuple(
            DeliveredShares(dealer, sealed[dealer, name].sealed, sealed[dealer, name].commitments)
            for dealer in dealers
            if (dealer, name) in sealed
        )
        current, send = _tell(context, current, (name,), ShareDelivery(dealers, entries))
        sends += send
    committing = Committing(
        current,
        state.roster_hash,
        state.offers,
        state.hood,
        state.bundles,
        dealers_hash(current.context, dealers, state.hood.seed),
        hashes={},
    )
    return Transition(committing, tuple(sends))


def _fix_uploads(
    context: CoordinatorContext, state: Committing, forced: bool
) -> Transition[CoordinatorState]:
    current, needed = state.round, context.site.federation.thresholds.min_accepted
    if not _over(current, state.bundles, state.hashes, forced):
        return Transition(state)
    if len(state.hashes) < needed:
        return _abort(context, state, "committed an update", len(state.hashes), needed)
    names = sorted(state.hashes)
    upload_set = UploadSet(tuple(state.hashes[name].encode() for name in names))
    current, sends = _tell(context, current, sorted(state.bundles), upload_set)
    committed = {n: read_body(state.hashes[n], UploadHash).upload_hash for n in names}
    uploading = Uploading(
        current,
        state.roster_hash,
        state.offers,
        state.hood,
        state.bundles,
        upload_set=body_hash(upload_set),
        hashes=committed,
        uploaded=frozenset(),
        total=None,
    )
    return Transition(uploading, sends)


# ---------------------------------------------------------------- steps 8 to 12


def _propose_cohort(
    context: CoordinatorContext, state: Uploading, forced: bool
) -> Transition[CoordinatorState]:
    current, needed = state.round, context.site.federation.thresholds.min_accepted
    if not _over(current, state.hashes, state.uploaded, forced):
        return Transition(state)
    if state.total is None or len(state.uploaded) < needed:
        return _abort(context, state, "uploaded an update", len(state.uploaded), needed)
    dealers = set(state.bundles)
    cohort = Cohort(tuple(sorted(state.uploaded)), tuple(sorted(dealers - state.uploaded)))
    try:
        state.hood.check_cohort(cohort)
    except BelowThreshold as error:
        return finish(context, state, "aborted", str(error))
    current, sends = _tell(context, current, sorted(dealers), cohort, state.upload_set)
    voting = Voting(
        current,
        state.roster_hash,
        state.offers,
        state.hood,
        state.bundles,
        cohort,
        body_hash(cohort),
        votes={},
        total=state.total,
    )
    return Transition(voting, sends)


def _prove_cohort(
    context: CoordinatorContext, state: Voting, forced: bool
) -> Transition[CoordinatorState]:
    current, needed = state.round, context.site.federation.thresholds.vote_quorum
    if len(state.votes) < needed:
        if _over(current, state.bundles, state.votes, forced):
            return _abort(context, state, "voted", len(state.votes), needed)
        return Transition(state)
    proof = CohortProof(tuple(state.votes[name].encode() for name in sorted(state.votes)))
    current, sends = _tell(context, current, sorted(state.bundles), proof, state.cohort_hash)
    commitments = {
        dealer: {entry.recipient: entry.commitments for entry in bundle.shares}
        for dealer, bundle in state.bundles.items()
    }
    opening = Opening(
        federation=context.site.federation,
        context=current.context,
        step=current.step,
        cohort=state.cohort,
        offers=state.offers,
        hood=state.hood,
        ledger=ShareLedger(current.context0, current.context, commitments),
    )
    unmasking = Unmasking(
        current,
        state.roster_hash,
        tuple(sorted(state.bundles)),
        state.cohort,
        state.cohort_hash,
        opening,
        reveals={},
        usable={},
        total=state.total,
    )
    return Transition(unmasking, sends)


def _open_sum(
    context: CoordinatorContext, state: Unmasking, forced: bool
) -> Transition[CoordinatorState]:
    current, federation = state.round, context.site.federation
    shortage = state.opening.shortage(len(state.reveals), state.usable)
    if shortage:
        if _over(current, state.dealers, state.reveals, forced):
            return finish(context, state, "aborted", shortage)
        return Transition(state)
    try:
        total = state.opening.open_sum(state.total, state.reveals)
    except RoundAborted as error:
        return finish(context, state, "aborted", str(error))
    aggregate = Aggregate(
        salt=context.random(32),
        accepted=len(state.cohort.accepted),
        words=pack_lanes(total, federation.lanes.lane_bits),
    )
    current, sends = _tell(context, current, state.dealers, aggregate, state.cohort_hash)
    acking = Acking(
        current,
        state.roster_hash,
        state.cohort,
        aggregate=encode(aggregate),
        aggregate_hash=body_hash(aggregate),
        acks={},
    )
    return Transition(acking, sends)


# ---------------------------------------------------------------- step 14


def _conclude(
    context: CoordinatorContext, state: Acking, forced: bool
) -> Transition[CoordinatorState]:
    current, needed = state.round, context.site.federation.thresholds.vote_quorum
    dealers = set(state.cohort.accepted) | set(state.cohort.removed)
    if not _over(current, dealers, state.acks, forced):
        return Transition(state)
    by_hash: dict[bytes, list[str]] = {}
    for name, envelope in sorted(state.acks.items()):
        by_hash.setdefault(read_body(envelope, RoundAck).adapter_hash, []).append(name)
    adapter, agreeing = max(
        by_hash.items(), key=lambda item: len(item[1]), default=(NO_HASH, list[str]())
    )
    dissenters = tuple(sorted(set(state.acks) - set(agreeing)))
    if len(agreeing) < needed:
        said = f" ({', '.join(dissenters)} disagree)" if dissenters else ""
        return finish(
            context,
            state,
            "void",
            f"{len(agreeing)} clients acknowledge one adapter, {needed} are needed{said}",
        )
    acks = tuple(state.acks[name].encode() for name in sorted(state.acks))
    reason = f"{', '.join(dissenters)} computed another adapter" if dissenters else ""
    reason = _shortened(reason)
    close = RoundClose("completed", reason, adapter, acks)
    current, sends = _tell(context, current, current.identity.invited, close)
    record = CompletedRound(
        opened=current.opened.encode(),
        roster_hash=state.roster_hash,
        aggregate=state.aggregate,
        acks=acks,
    )
    finished = Finished(
        current,
        "completed",
        reason,
        adapter,
        state.cohort.accepted,
        state.cohort.removed,
        dissenters,
        record,
    )
    return Transition(
        finished, (*sends, RoundEnded(current.identity.round, "completed", reason, adapter))
    )
