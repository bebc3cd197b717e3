"""Client, steps K1 and K2: deal a part of a collective key, keep what the others dealt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.checks import is_sorted_unique
from fedfm_protocols.client_session import ClientContext, say, taken
from fedfm_protocols.client_states import Acked, ClientState, InRound, KeyDealt, Offered, Session
from fedfm_protocols.effects import Persist, Transition
from fedfm_protocols.errors import BelowThreshold, EquivocationError, RoundRefused
from fedfm_protocols.key_epoch import deal_key, holders_of, take_key
from fedfm_protocols.key_messages import KeyDelivery
from fedfm_protocols.key_ring import EpochKeys
from fedfm_protocols.messages import KeyOffer, RoundAck, read_body
from fedfm_protocols.steps import StepResult


def deal_contribution(
    context: ClientContext, state: Offered, session: Session, offers: Mapping[str, KeyOffer]
) -> Transition[ClientState]:
    """Step K1: all commitments are fixed, so this site's part may be seen."""
    federation, name = context.site.federation, context.site.name
    dealt = KeyDealt(state.memory, session, state.secrets, offers)
    if name not in holders_of(federation, sorted(offers)):
        return Transition(dealt)
    dealing = deal_key(
        context.need_encryption(),
        federation,
        context=session.context,
        dealer=name,
        secrets=state.secrets,
        offers=offers,
        earlier=state.memory.keys.all_groups(),
        random=context.random,
    )
    session, send = say(context, state.memory, session, dealing)
    return Transition(replace(dealt, session=session), (send,))


def take_key_delivery(
    context: ClientContext, state: KeyDealt, envelope: Envelope
) -> Transition[ClientState]:
    """Step K2: add up what was dealt, store it, and acknowledge the key by its name."""
    site, session = context.site, state.session
    federation = site.federation
    delivery = read_body(envelope, KeyDelivery)
    dealers, holders = delivery.dealers, holders_of(federation, sorted(state.offers))
    if not is_sorted_unique(dealers) or not set(dealers) <= set(holders):
        raise EquivocationError("dealers must be sorted, distinct and among those who may deal")
    if site.name in holders and site.name not in dealers:
        raise RoundRefused("this site's part of the key came too late or was left out")
    needed = federation.thresholds.key_dealers
    if len(dealers) < needed:
        raise BelowThreshold(f"{len(dealers)} clients dealt a part of the key, {needed} are needed")
    made = take_key(
        context.need_encryption(),
        federation,
        delivery,
        context0=session.context0,
        context=session.context,
        epoch=session.identity.key_epoch,
        name=site.name,
        own_key=state.secrets.share_key,
        offers=state.offers,
    )
    session = taken(session, envelope)
    # On disk with the journal's record, before anybody may count on this site holding its share.
    memory = replace(state.memory, keys=state.memory.keys.add(made.keys, made.passed_on))
    persist = Persist(session.identity.round, session.step, "keyed", made.keys.key_hash)
    unchanged = session.identity.adapter_hash
    session, send = say(context, memory, session, RoundAck(unchanged), made.keys.key_hash)
    session = session.finish(StepResult(session.step, made.keys.key_hash, unchanged))
    return Transition(Acked(memory, session), (persist, send))


def epoch_keys(state: InRound) -> EpochKeys:
    """The keys of the round's epoch, which the opening was checked to be at hand.

    Raises
    ------
    RoundRefused
        if they are not (any longer).
    """
    keys = state.memory.keys.of(state.session.identity.key_epoch)
    if keys is None:
        raise RoundRefused(f"this site lost the key of epoch {state.session.identity.key_epoch}")
    return keys
