"""How the coordinator carries a collective key from its dealers to everybody, without having it.

Steps K1 and K2 of protocols/README.md, section "Key epochs".
"""

from __future__ import annotations

import hashlib

from fedfm_crypto.errors import CryptoError
from fedfm_protocols.coordinator_round import CollectiveKey
from fedfm_protocols.coordinator_speech import abort, ended, finish, over, tell
from fedfm_protocols.coordinator_states import (
    CoordinatorContext,
    CoordinatorState,
    Dealing,
    Finished,
    KeyAcking,
)
from fedfm_protocols.effects import Effect, Transition
from fedfm_protocols.key_epoch import key_hash
from fedfm_protocols.key_messages import KeyDelivery
from fedfm_protocols.messages import RoundClose


def deliver_key(
    context: CoordinatorContext, state: Dealing, forced: bool
) -> Transition[CoordinatorState]:
    """Step K2: everybody gets what was sealed for it, and all that is public."""
    current, needed = state.round, context.site.federation.thresholds.key_dealers
    if not over(current, state.holders, state.dealings, forced):
        return Transition(state)
    if len(state.dealings) < needed:
        return abort(context, state, "dealt a part of the key", len(state.dealings), needed)
    dealers = tuple(sorted(state.dealings))
    public_shares = tuple(state.dealings[name].public_share for name in dealers)
    commitments = tuple(state.dealings[name].group_commitment for name in dealers)
    try:
        public_key = context.need_encryption().public_key(current.context0, public_shares)
    except CryptoError as error:
        return finish(context, state, "aborted", f"what was dealt makes no key: {error}")
    key = CollectiveKey(
        current.identity.key_epoch,
        key_hash(
            current.context,
            current.identity.key_epoch,
            dealers,
            hashlib.sha256(public_key).digest(),
            commitments[0],
        ),
        dealers,
    )
    sealed = {
        (dealer, entry.recipient): entry.sealed
        for dealer, dealing in state.dealings.items()
        for entry in dealing.shares
    }
    recipients = tuple(sorted(state.offers))
    sends: list[Effect] = []
    for name in recipients:
        entries = tuple(sealed[dealer, name] for dealer in dealers)
        delivery = KeyDelivery(dealers, public_shares, commitments, entries)
        current, send = tell(context, current, (name,), delivery)
        sends += send
    # Who was to hold a share and did not deal leaves the round; nobody waits for it.
    waiting = tuple(n for n in recipients if n in dealers or n not in state.holders)
    return Transition(KeyAcking(current, key, waiting, acks={}), tuple(sends))


def conclude_key(
    context: CoordinatorContext, state: KeyAcking, forced: bool
) -> Transition[CoordinatorState]:
    """Step 14 of a round that makes a key: a quorum holds it, by its name."""
    current, needed = state.round, context.site.federation.thresholds.vote_quorum
    if not over(current, state.recipients, state.acks, forced):
        return Transition(state)
    if len(state.acks) < needed:
        return abort(context, state, "hold the key that was made", len(state.acks), needed)
    adapter = current.identity.adapter_hash
    acks = tuple(state.acks[name].encode() for name in sorted(state.acks))
    close = RoundClose("completed", "", adapter, acks)
    current, sends = tell(context, current, current.identity.invited, close)
    finished = Finished(current, "completed", "", adapter, (), (), (), record=None, key=state.key)
    return Transition(finished, (*sends, ended(finished)))
