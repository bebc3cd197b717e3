"""Client, steps 2 and 3: check the key roster, deal shares, take those of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import ShareError
from fedfm_protocols import shares
from fedfm_protocols.beacon import BeaconPart
from fedfm_protocols.checks import check_place, is_sorted_unique
from fedfm_protocols.client_epoch import deal_contribution
from fedfm_protocols.client_protect import begin_step, prepare_step
from fedfm_protocols.client_session import ClientContext, say, taken
from fedfm_protocols.client_states import (
    ClientMemory,
    ClientState,
    Offered,
    Opened,
    Session,
    Shared,
)
from fedfm_protocols.context import TRAIN
from fedfm_protocols.effects import Charge, Effect, Note, Transition
from fedfm_protocols.errors import BelowThreshold, EquivocationError, RoundRefused
from fedfm_protocols.masking import RoundSecrets
from fedfm_protocols.messages import (
    GraphNonce,
    GraphNonces,
    KeyOffer,
    KeyRoster,
    ShareDelivery,
    read_body,
)
from fedfm_protocols.neighbourhood import Neighbourhoods, complete_graph, sparse_graph
from fedfm_protocols.offers import OfferRules, check_offers
from fedfm_protocols.split_view import check_echo, one_history
from fedfm_protocols.steps import keys_of_steps


def take_roster(
    context: ClientContext, state: Offered, envelope: Envelope
) -> Transition[ClientState]:
    site, session = context.site, state.session
    federation = site.federation
    roster = read_body(envelope, KeyRoster)
    fixed = session.context1(envelope.header.body_hash)
    check_place(envelope, context=fixed, step=session.step)
    check_echo(session.head, session.note, envelope)
    # Before a share leaves, and also by whoever was left off the roster.
    members = one_history(context.open_set, session)(
        roster.offers,
        KeyOffer,
        federation=federation,
        allowed=session.identity.invited,
        context=session.context0,
        step=0,
    )
    if site.name not in members:
        raise RoundRefused("this site's key offer came too late or was left out")
    if members[site.name][0].encode() != state.offer:
        raise EquivocationError("the key roster does not hold this site's own offer unchanged")
    offers = {name: body for name, (_, body) in members.items()}
    check_offers(offers, OfferRules.of(federation, session.identity))
    quorum = federation.thresholds.vote_quorum
    if len(offers) < quorum:
        raise BelowThreshold(f"{len(offers)} clients offered keys, {quorum} are needed")
    session = taken(replace(session, context=fixed, sent=0), envelope)
    if session.identity.makes_keys:
        return deal_contribution(context, state, session, offers)
    if federation.sparse:
        nonce = GraphNonce(state.secrets.graph_nonce.reveal())
        session, send = say(context, state.memory, session, nonce)
        return Transition(Opened(state.memory, session, state.secrets, offers), (send,))
    hood = complete_graph(federation, offers)
    beacon = _beacon_part(context, state.secrets, offers)
    return _deal(context, state.memory, session, state.secrets, offers, hood, beacon)


def take_nonces(
    context: ClientContext, state: Opened, envelope: Envelope
) -> Transition[ClientState]:
    """Sparse graph: check everybody's opened nonce, derive the ring, deal to the neighbours."""
    site, session = context.site, state.session
    federation = site.federation
    published = read_body(envelope, GraphNonces)
    members = one_history(context.open_set, session)(
        published.nonces,
        GraphNonce,
        federation=federation,
        allowed=state.offers,
        context=session.context,
        step=session.step,
    )
    if site.name not in members:
        raise RoundRefused("this site's graph nonce came too late or was left out")
    hood = sparse_graph(
        federation,
        session.context0,
        session.context,
        state.offers,
        {name: body for name, (_, body) in members.items()},
    )
    session = taken(session, envelope)
    near = {name: state.offers[name] for name in hood.of(site.name)}
    beacon = _beacon_part(context, state.secrets, state.offers)
    return _deal(context, state.memory, session, state.secrets, near, hood, beacon)


def _beacon_part(
    context: ClientContext, secrets: RoundSecrets, offers: Mapping[str, KeyOffer]
) -> BeaconPart | None:
    """Of everybody, not of the neighbours only: one beacon sketches all updates."""
    return BeaconPart.of(secrets.nonce, offers) if context.site.federation.robust else None


def _deal(
    context: ClientContext,
    memory: ClientMemory,
    session: Session,
    secrets: RoundSecrets,
    offers: Mapping[str, KeyOffer],
    hood: Neighbourhoods,
    beacon: BeaconPart | None,
) -> Transition[ClientState]:
    federation = context.site.federation
    bundle = shares.deal(
        context=session.context,
        dealer=context.site.name,
        secrets=secrets if federation.masked else replace(secrets, steps=()),
        share_keys={n: o.share_key for n, o in offers.items()} if federation.masked else {},
        share_index=federation.share_index,
        threshold=hood.threshold,
        random=context.random,
    )
    session, send = say(context, memory, session, bundle)
    return Transition(Shared(memory, session, secrets, offers, hood, beacon), (send,))


def take_shares(
    context: ClientContext, state: Shared, envelope: Envelope
) -> Transition[ClientState]:
    site, session = context.site, state.session
    federation = site.federation
    delivery = read_body(envelope, ShareDelivery)
    dealers = delivery.dealers
    if not is_sorted_unique(dealers) or not set(dealers) <= set(state.hood.everyone):
        raise EquivocationError("dealers must be sorted, distinct and taking part in the round")
    if site.name not in dealers:
        raise RoundRefused("this site's shares came too late or were left out")
    quorum = federation.thresholds.vote_quorum
    if len(dealers) < quorum:
        raise BelowThreshold(f"{len(dealers)} clients dealt shares, {quorum} are needed")
    near = tuple(dealer for dealer in dealers if dealer in state.offers)
    if len(near) < state.hood.threshold:
        raise BelowThreshold(
            f"{len(near)} of this site's neighbours dealt shares, {state.hood.threshold} are needed"
        )
    held = {}
    notes: list[Effect] = []
    if federation.masked:
        if tuple(entry.dealer for entry in delivery.shares) != near:
            raise EquivocationError("the delivery must hold one sealed entry per dealer nearby")
        for entry in delivery.shares:
            try:
                held[entry.dealer] = shares.open_shares(
                    context=session.context,
                    dealer=entry.dealer,
                    recipient=site.name,
                    sealed=entry.sealed,
                    own_key=state.secrets.share_key,
                    dealer_public=state.offers[entry.dealer].share_key,
                    steps=session.identity.steps,
                    commitments=entry.commitments,
                )
            except ShareError as error:
                # One bad dealer must not stop an honest site: it goes on without that share.
                notes.append(Note(str(error)))
        if site.name not in held:
            raise EquivocationError("the share this site sealed for itself came back changed")
    session = taken(session, envelope)
    keys = keys_of_steps(
        session.identity.steps,
        state.secrets,
        state.offers,
        held,
        dealers,
        masked=federation.masked,
    )
    following = prepare_step(context, state.memory, session, state.hood, dealers, keys)
    following = replace(following, beacon=state.beacon)
    private = federation.charter.privacy.mode != "none" and session.identity.kind == TRAIN
    charge = [Charge(session.identity.round)] if private else []
    begun = begin_step(state.memory, session, following)
    return Transition(begun.state, (*notes, *charge, *begun.effects))
