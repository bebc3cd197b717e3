"""Client, steps 2 and 3: check the key roster, deal shares, take those of the others."""

from __future__ import annotations

from dataclasses import replace

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import ShareError
from fedfm_protocols import shares
from fedfm_protocols.checks import check_place, is_sorted_unique, open_signed_set
from fedfm_protocols.client_session import ClientContext, say, taken
from fedfm_protocols.client_states import ClientState, Offered, Shared, Training
from fedfm_protocols.context import context1
from fedfm_protocols.effects import Effect, Note, Train, Transition
from fedfm_protocols.errors import BelowThreshold, EquivocationError, RoundRefused
from fedfm_protocols.messages import KeyOffer, KeyRoster, ShareDelivery, read_body
from fedfm_protocols.offers import check_offers


def take_roster(
    context: ClientContext, state: Offered, envelope: Envelope
) -> Transition[ClientState]:
    site, session = context.site, state.session
    federation = site.federation
    roster = read_body(envelope, KeyRoster)
    fixed = context1(session.context0, envelope.header.body_hash)
    check_place(envelope, context=fixed, step=session.step)
    members = open_signed_set(
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
    check_offers(offers, masked=federation.masked, steps=session.identity.steps)
    threshold = federation.thresholds.share_threshold
    if len(offers) < threshold:
        raise BelowThreshold(f"{len(offers)} clients offered keys, {threshold} are needed")
    session = taken(replace(session, context=fixed, sent=0), envelope)
    bundle = shares.deal(
        context=fixed,
        dealer=site.name,
        secrets=state.secrets if federation.masked else replace(state.secrets, steps=()),
        share_keys={n: o.share_key for n, o in offers.items()} if federation.masked else {},
        share_index=federation.share_index,
        threshold=threshold,
        random=context.random,
    )
    session, send = say(context, state.memory, session, bundle)
    return Transition(Shared(state.memory, session, state.secrets, offers), (send,))


def take_shares(
    context: ClientContext, state: Shared, envelope: Envelope
) -> Transition[ClientState]:
    site, session = context.site, state.session
    federation = site.federation
    delivery = read_body(envelope, ShareDelivery)
    dealers = delivery.dealers
    if not is_sorted_unique(dealers) or not set(dealers) <= set(state.offers):
        raise EquivocationError("dealers must be sorted, distinct and on the key roster")
    if site.name not in dealers:
        raise RoundRefused("this site's shares came too late or were left out")
    threshold = federation.thresholds.share_threshold
    if len(dealers) < threshold:
        raise BelowThreshold(f"{len(dealers)} clients dealt shares, {threshold} are needed")
    held = {}
    notes: list[Effect] = []
    if federation.masked:
        if tuple(entry.dealer for entry in delivery.shares) != dealers:
            raise EquivocationError("the delivery must hold one sealed entry per dealer")
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
    train = Train(session.identity.round, session.step, session.identity.kind)
    return Transition(
        Training(state.memory, session, state.secrets, state.offers, dealers, held),
        (*notes, train),
    )
