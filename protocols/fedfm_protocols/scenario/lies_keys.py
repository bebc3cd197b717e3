"""Rounds of kind ``keys``: dealers and a coordinator that lie about a collective key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fedfm_crypto.aead import open_sealed, seal
from fedfm_crypto.codec import decode, encode
from fedfm_protocols.client_states import KeyDealt
from fedfm_protocols.key_epoch import associated_data, sealing_key
from fedfm_protocols.key_messages import KeyDealing, KeyDelivery, KeyShareContents, SealedKeyShare
from fedfm_protocols.messages import KeyOffer, RoundOpen
from fedfm_protocols.scenario.actors import OUTSIDER, body_of
from fedfm_protocols.scenario.lies import Moment, lie

BY = ("by",)
POISONED = b"\x66" * 32

# ---------------------------------------------------------------- steps 0 and 1


@lie("name-epoch", "RoundOpen", needs=("count",))
def _name_epoch(moment: Moment, opened: RoundOpen) -> RoundOpen:
    """The opening names key epoch `count`: one that is gone, or was made before."""
    return replace(opened, key_epoch=moment.count)


@lie("offer-no-part", "KeyOffer", needs=BY)
def _offer_no_part(moment: Moment, offer: KeyOffer) -> KeyOffer:
    """No part of the collective key is committed to."""
    return replace(offer, key_commitment=bytes(32))


@lie("offer-a-part", "KeyOffer", needs=BY)
def _offer_a_part(moment: Moment, offer: KeyOffer) -> KeyOffer:
    """A part of a collective key is committed to in a round that makes none."""
    return replace(offer, key_commitment=POISONED)


@lie("offer-copied-part", "KeyOffer", needs=("by", "client"))
def _offer_copied_part(moment: Moment, offer: KeyOffer) -> object:
    """The commitment of `client`, who has spoken before, is copied."""
    seen = moment.stage.last("KeyOffer", moment.client)
    if seen is None:
        return None
    return replace(offer, key_commitment=body_of(seen, KeyOffer).key_commitment)


# ---------------------------------------------------------------- step K1, dealers


def _shifted(share: bytes) -> bytes:
    """Another public share of the right form: the same residues, one place further."""
    return share[8:] + share[:8]


@lie("deal-rogue-part", "KeyDealing", needs=BY)
def _deal_rogue(moment: Moment, dealing: KeyDealing) -> KeyDealing:
    """Another part of the public key is shown than was committed to, as one would that knows the
    others' parts and wants their sum to be its own key."""
    return replace(dealing, public_share=_shifted(dealing.public_share))


@lie("deal-malformed-part", "KeyDealing", needs=BY)
def _deal_malformed(moment: Moment, dealing: KeyDealing) -> KeyDealing:
    """The part of the public key has residues out of range."""
    return replace(dealing, public_share=b"\xff" * len(dealing.public_share))


@lie("deal-key-to-fewer", "KeyDealing", needs=BY)
def _deal_to_fewer(moment: Moment, dealing: KeyDealing) -> KeyDealing:
    """One recipient gets no share of the key."""
    return replace(dealing, shares=dealing.shares[:-1])


@lie("spoil-key-shares", "KeyDealing", needs=("by", "clients"))
def _spoil(moment: Moment, dealing: KeyDealing) -> KeyDealing:
    """What is sealed for `clients` does not open."""
    return replace(
        dealing,
        shares=tuple(
            replace(e, sealed=e.sealed[:-1] + bytes([e.sealed[-1] ^ 1]))
            if e.recipient in moment.clients
            else e
            for e in dealing.shares
        ),
    )


def _resealed(
    moment: Moment, dealing: KeyDealing, change: Callable[[KeyShareContents], KeyShareContents]
) -> object:
    """``dealing`` with other contents, properly sealed for `clients`."""
    dealer = moment.speaker.name
    state = moment.stage.clients[dealer].state
    if not isinstance(state, KeyDealt):
        return None
    context, own = state.session.context, state.secrets.share_key
    entries = []
    for entry in dealing.shares:
        name = entry.recipient
        if name in moment.clients:
            key = sealing_key(context, own, state.offers[name].share_key, dealer, name)
            associated = associated_data(context, dealer, name)
            contents = decode(KeyShareContents, open_sealed(key, entry.sealed, associated))
            data = encode(change(contents))
            sealed = seal(key, data, associated, moment.stage.coordinator.random)
            entries.append(SealedKeyShare(name, sealed))
        else:
            entries.append(entry)
    return replace(dealing, shares=tuple(entries))


@lie("deal-no-share", "KeyDealing", needs=("by", "clients"))
def _deal_no_share(moment: Moment, dealing: KeyDealing) -> object:
    """`clients`, who are to hold shares, are sealed an empty one."""
    return _resealed(moment, dealing, lambda c: replace(c, share=b""))


@lie("deal-malformed-share", "KeyDealing", needs=("by", "clients"))
def _deal_malformed_share(moment: Moment, dealing: KeyDealing) -> object:
    """`clients` are sealed a share with residues out of range."""
    return _resealed(moment, dealing, lambda c: replace(c, share=b"\xff" * len(c.share)))


@lie("deal-other-share", "KeyDealing", needs=("by", "clients"))
def _deal_other_share(moment: Moment, dealing: KeyDealing) -> object:
    """`clients` are sealed a share that fits nothing: whoever they open a sum with will fail."""
    return _resealed(moment, dealing, lambda c: replace(c, share=_shifted(c.share)))


@lie("deal-other-group", "KeyDealing", needs=("by", "clients"))
def _deal_other_group(moment: Moment, dealing: KeyDealing) -> object:
    """`clients` are sealed another group key than the one committed to."""
    return _resealed(moment, dealing, lambda c: replace(c, group=POISONED))


# ---------------------------------------------------------------- step K2, coordinator


def _kept(delivery: KeyDelivery, keep: Callable[[str], bool]) -> KeyDelivery:
    places = [place for place, name in enumerate(delivery.dealers) if keep(name)]
    return KeyDelivery(
        tuple(delivery.dealers[i] for i in places),
        tuple(delivery.public_shares[i] for i in places),
        tuple(delivery.group_commitments[i] for i in places),
        tuple(delivery.sealed[i] for i in places),
    )


@lie("hide-key-dealer", "KeyDelivery", needs=("client",))
def _hide_dealer(moment: Moment, delivery: KeyDelivery) -> KeyDelivery:
    """`client` is said to have dealt no part of the key."""
    return _kept(delivery, lambda name: name != moment.client)


@lie("few-key-dealers", "KeyDelivery", needs=("count",))
def _few_dealers(moment: Moment, delivery: KeyDelivery) -> KeyDelivery:
    """Only the first `count` clients, and the receiver, are said to have dealt."""
    first = delivery.dealers[: moment.count]
    return _kept(delivery, lambda name: name in first)


@lie("strange-key-dealer", "KeyDelivery")
def _strange_dealer(moment: Moment, delivery: KeyDelivery) -> KeyDelivery:
    """Somebody who is not on the key roster is said to have dealt."""
    return KeyDelivery(
        (*delivery.dealers, OUTSIDER),
        (*delivery.public_shares, delivery.public_shares[-1]),
        (*delivery.group_commitments, delivery.group_commitments[-1]),
        (*delivery.sealed, delivery.sealed[-1]),
    )


@lie("repeat-key-dealer", "KeyDelivery")
def _repeat_dealer(moment: Moment, delivery: KeyDelivery) -> KeyDelivery:
    """One dealer is listed twice."""
    return KeyDelivery(
        (delivery.dealers[0], *delivery.dealers),
        (delivery.public_shares[0], *delivery.public_shares),
        (delivery.group_commitments[0], *delivery.group_commitments),
        (delivery.sealed[0], *delivery.sealed),
    )


@lie("drop-key-entry", "KeyDelivery")
def _drop_entry(moment: Moment, delivery: KeyDelivery) -> KeyDelivery:
    """One dealer's sealed share is not passed on."""
    return replace(delivery, sealed=delivery.sealed[:-1])


@lie("pass-rogue-part", "KeyDelivery", needs=("client",))
def _pass_rogue(moment: Moment, delivery: KeyDelivery) -> KeyDelivery:
    """Another part of the public key is passed on as that of `client`."""
    place = delivery.dealers.index(moment.client)
    shares = list(delivery.public_shares)
    shares[place] = _shifted(shares[place])
    return replace(delivery, public_shares=tuple(shares))


@lie("swap-group-commitment", "KeyDelivery")
def _swap_group(moment: Moment, delivery: KeyDelivery) -> KeyDelivery:
    """The first dealer is said to have committed to another group key."""
    return replace(delivery, group_commitments=(POISONED, *delivery.group_commitments[1:]))
