"""How the coordinator moves from phase to phase, up to the vote on a cohort.

A phase is over when nobody is left to wait for, when a quorum suffices, or, where ``forced`` by
its deadline, with whoever has answered.  Steps are numbered as in protocols/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from fedfm_protocols.context import context1
from fedfm_protocols.coordinator_epoch import conclude_key, deliver_key
from fedfm_protocols.coordinator_results import conclude, open_sum, publish_sum, void
from fedfm_protocols.coordinator_robust import (
    ask_binding,
    compute_scores,
    conclude_binding,
    out_of_time,
    propose_judged,
    publish_nonces,
)
from fedfm_protocols.coordinator_round import Group
from fedfm_protocols.coordinator_speech import abort, finish, over, tell
from fedfm_protocols.coordinator_states import (
    Acking,
    Committing,
    Comparing,
    CoordinatorContext,
    CoordinatorState,
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
)
from fedfm_protocols.effects import Effect, Transition
from fedfm_protocols.errors import BelowThreshold
from fedfm_protocols.key_epoch import holders_of
from fedfm_protocols.messages import (
    Cohort,
    CohortProof,
    DeliveredShares,
    GraphNonce,
    GraphNonces,
    KeyOffer,
    KeyRoster,
    ShareDelivery,
    UploadHash,
    UploadSet,
    body_hash,
    read_body,
)
from fedfm_protocols.neighbourhood import complete_graph, sparse_graph
from fedfm_protocols.shares import ShareLedger
from fedfm_protocols.summing import Opening


def advance(
    context: CoordinatorContext, state: RunningRound, *, forced: bool
) -> Transition[CoordinatorState]:
    """Go to the next phase if this one is over; otherwise stay."""
    transition: Transition[CoordinatorState] = _ADVANCE[type(state)](context, state, forced)
    return transition


def _fix_roster(
    context: CoordinatorContext, state: Offering, forced: bool
) -> Transition[CoordinatorState]:
    current, needed = state.round, context.site.federation.thresholds.vote_quorum
    if not over(current, current.identity.invited, state.offers, forced):
        return Transition(state)
    if len(state.offers) < needed:
        return abort(context, state, "offered keys", len(state.offers), needed)
    names = sorted(state.offers)
    roster = KeyRoster(tuple(state.offers[name].encode() for name in names))
    digest = body_hash(roster)
    fixed = context1(current.context0, digest, current.key_hash)
    current = replace(current, context=fixed, sent=0, roster_hash=digest)
    # To all invited: whoever is left out leaves the round and drops its keys, instead of waiting.
    current, sends = tell(context, current, current.identity.invited, roster)
    offers = {name: read_body(state.offers[name], KeyOffer) for name in names}
    federation = context.site.federation
    if current.identity.makes_keys:
        holders = holders_of(federation, names)
        return Transition(Dealing(current, offers, holders, dealings={}), sends)
    if federation.sparse:
        return Transition(Drawing(current, offers, nonces={}), sends)
    hood = complete_graph(federation, offers)
    return Transition(Sharing(current, offers, hood, bundles={}), sends)


def _draw_graph(
    context: CoordinatorContext, state: Drawing, forced: bool
) -> Transition[CoordinatorState]:
    current, needed = state.round, context.site.federation.thresholds.vote_quorum
    if not over(current, state.offers, state.nonces, forced):
        return Transition(state)
    if len(state.nonces) < needed:
        return abort(context, state, "opened their nonces", len(state.nonces), needed)
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
    current, sends = tell(context, current, sorted(state.offers), published)
    offers = {name: state.offers[name] for name in names}
    return Transition(Sharing(current, offers, hood, bundles={}), sends)


def _deliver_shares(
    context: CoordinatorContext, state: Sharing, forced: bool
) -> Transition[CoordinatorState]:
    current, needed = state.round, context.site.federation.thresholds.vote_quorum
    if not over(current, state.offers, state.bundles, forced):
        return Transition(state)
    if len(state.bundles) < needed:
        return abort(context, state, "dealt shares", len(state.bundles), needed)
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
        current, send = tell(context, current, (name,), ShareDelivery(dealers, entries))
        sends += send
    group = Group(state.offers, state.hood, state.bundles)
    return Transition(Committing(current, group, None, hashes={}, owners={}), tuple(sends))


def _fix_uploads(
    context: CoordinatorContext, state: Committing, forced: bool
) -> Transition[CoordinatorState]:
    current, needed = state.round, context.site.federation.thresholds.min_accepted
    if not over(current, state.group.dealers, state.hashes, forced):
        return Transition(state)
    names = sorted(state.hashes)
    if state.before is not None:
        agreed, agreeing = state.before.most_agree()
        quorum = context.site.federation.thresholds.vote_quorum
        if agreeing < quorum:
            if not over(current, state.before.everyone, state.before.acks, forced):
                return Transition(state)
            return void(context, state, state.before, quorum)
        current = replace(current, good=state.before.good(agreed, current.good))
        before = state.before
        names = [name for name in names if before.adapter_of(name) == agreed]
    if len(names) < needed:
        return abort(context, state, "committed an update", len(names), needed)
    upload_set = UploadSet(tuple(state.hashes[name].encode() for name in names))
    current, sends = tell(context, current, state.group.dealers, upload_set)
    committed = {name: read_body(state.hashes[name], UploadHash) for name in names}
    uploading = Uploading(
        current,
        state.group,
        upload_set=body_hash(upload_set),
        hashes=committed,
        uploaded=frozenset(),
        wraps={},
        total=None,
    )
    return Transition(uploading, sends)


# ---------------------------------------------------------------- steps 8 to 10


def _propose_cohort(
    context: CoordinatorContext, state: Uploading, forced: bool
) -> Transition[CoordinatorState]:
    if context.site.federation.robust:
        return publish_nonces(context, state, forced)
    current, needed = state.round, context.site.federation.thresholds.min_accepted
    if not over(current, state.hashes, state.uploaded, forced):
        return Transition(state)
    if state.total is None or len(state.uploaded) < needed:
        return abort(context, state, "uploaded an update", len(state.uploaded), needed)
    dealers = state.group.dealers
    accepted, removed = sorted(state.uploaded), sorted(set(dealers) - state.uploaded)
    cohort = Cohort(state.upload_set, tuple(accepted), tuple(removed))
    try:
        state.group.hood.check_cohort(cohort)
    except BelowThreshold as error:
        return finish(context, state, "aborted", str(error))
    current, sends = tell(context, current, dealers, cohort, state.upload_set)
    voting = Voting(
        current,
        state.group,
        cohort,
        body_hash(cohort),
        votes={},
        wraps=state.wraps,
        total=state.total,
    )
    return Transition(voting, sends)


def _prove_cohort(
    context: CoordinatorContext, state: Voting, forced: bool
) -> Transition[CoordinatorState]:
    current, needed = state.round, context.site.federation.thresholds.vote_quorum
    if len(state.votes) < needed:
        if over(current, state.group.dealers, state.votes, forced):
            return abort(context, state, "voted", len(state.votes), needed)
        return Transition(state)
    proof = CohortProof(tuple(state.votes[name].encode() for name in sorted(state.votes)))
    group = state.group
    current, sends = tell(context, current, group.dealers, proof, state.cohort_hash)
    commitments = {
        dealer: {entry.recipient: entry.commitments for entry in bundle.shares}
        for dealer, bundle in group.bundles.items()
    }
    opening = Opening(
        federation=context.site.federation,
        context=current.context,
        step=current.step,
        cohort=state.cohort,
        offers={name: group.offers[name] for name in group.dealers},
        hood=group.hood,
        ledger=ShareLedger(current.context0, current.context, commitments),
    )
    unmasking = Unmasking(
        current,
        group,
        state.cohort,
        state.cohort_hash,
        opening,
        reveals={},
        usable={},
        wraps=state.wraps,
        voters=frozenset(state.votes),
        total=state.total,
        judged=state.judged,
    )
    return Transition(unmasking, sends)


# Phase -> what ends it.  The functions' state types differ, hence Any.
_ADVANCE: Mapping[type[RunningRound], Callable[..., Any]] = MappingProxyType(
    {
        Offering: _fix_roster,
        Dealing: deliver_key,
        Drawing: _draw_graph,
        Sharing: _deliver_shares,
        Committing: _fix_uploads,
        Uploading: _propose_cohort,
        Measuring: compute_scores,
        Scoring: out_of_time,
        Judging: propose_judged,
        Voting: _prove_cohort,
        Unmasking: open_sum,
        Decrypting: publish_sum,
        Reporting: ask_binding,
        Comparing: conclude_binding,
        Acking: conclude,
        KeyAcking: conclude_key,
    }
)
