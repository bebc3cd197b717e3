"""Steps 3 and 4: a malicious coordinator lies about who dealt shares and who committed."""

from __future__ import annotations

from dataclasses import replace

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.context import NO_HASH
from fedfm_protocols.messages import ShareDelivery, UploadHash, UploadSet
from fedfm_protocols.scenario.actors import OUTSIDER, body_of, member, resigned, swapped
from fedfm_protocols.scenario.lies import Moment, Signed, lie

# ---------------------------------------------------------------- step 3


def _without(delivery: ShareDelivery, name: str) -> ShareDelivery:
    return ShareDelivery(
        tuple(dealer for dealer in delivery.dealers if dealer != name),
        tuple(entry for entry in delivery.shares if entry.dealer != name),
    )


@lie("hide-dealer", "ShareDelivery", needs=("client",))
def _hide_dealer(moment: Moment, delivery: ShareDelivery) -> ShareDelivery:
    """`client` is said to have dealt no shares."""
    return _without(delivery, moment.client)


@lie("few-dealers", "ShareDelivery", needs=("count",))
def _few_dealers(moment: Moment, delivery: ShareDelivery) -> ShareDelivery:
    """Only the first `count` clients are said to have dealt shares."""
    kept = delivery.dealers[: moment.count]
    return ShareDelivery(kept, tuple(e for e in delivery.shares if e.dealer in kept))


@lie("few-near-dealers", "ShareDelivery", needs=("count",))
def _few_near_dealers(moment: Moment, delivery: ShareDelivery) -> ShareDelivery:
    """Of the receiver's neighbours only `count`, itself among them, are said to have dealt; all
    others did (sparse graph)."""
    near = [entry.dealer for entry in delivery.shares if entry.dealer != moment.recipient]
    hidden = set(near[moment.count - 1 :])
    return ShareDelivery(
        tuple(dealer for dealer in delivery.dealers if dealer not in hidden),
        tuple(entry for entry in delivery.shares if entry.dealer not in hidden),
    )


@lie("strange-dealer", "ShareDelivery")
def _strange_dealer(moment: Moment, delivery: ShareDelivery) -> ShareDelivery:
    """Somebody who is not on the key roster is said to have dealt shares."""
    entry = replace(delivery.shares[-1], dealer=OUTSIDER)
    return ShareDelivery((*delivery.dealers, OUTSIDER), (*delivery.shares, entry))


@lie("repeat-dealer", "ShareDelivery")
def _repeat_dealer(moment: Moment, delivery: ShareDelivery) -> ShareDelivery:
    """One dealer is listed twice."""
    return ShareDelivery(
        (delivery.dealers[0], *delivery.dealers), (delivery.shares[0], *delivery.shares)
    )


@lie("drop-entry", "ShareDelivery")
def _drop_entry(moment: Moment, delivery: ShareDelivery) -> ShareDelivery:
    """One dealer's sealed shares are not passed on."""
    return ShareDelivery(delivery.dealers, delivery.shares[:-1])


@lie("swap-own-entry", "ShareDelivery")
def _swap_own_entry(moment: Moment, delivery: ShareDelivery) -> ShareDelivery:
    """The shares that the receiver sealed for itself come back exchanged."""
    other = next(e for e in delivery.shares if e.dealer != moment.recipient)
    return ShareDelivery(
        delivery.dealers,
        tuple(
            replace(entry, sealed=other.sealed) if entry.dealer == moment.recipient else entry
            for entry in delivery.shares
        ),
    )


# ---------------------------------------------------------------- step 4b


def _other_hash(moment: Moment) -> UploadHash:
    """A commitment to an update that nobody has, in the form that the suite demands."""
    return UploadHash(bytes(32), b"\x66" * 32 if moment.stage.federation.encrypted else NO_HASH)


@lie("leave-out-hash", "UploadSet", needs=("client",))
def _leave_out_hash(moment: Moment, upload_set: UploadSet) -> UploadSet:
    """The upload hash of `client` is left out."""
    place = member(upload_set.hashes, moment.client)
    return UploadSet((*upload_set.hashes[:place], *upload_set.hashes[place + 1 :]))


@lie("change-hash", "UploadSet", needs=("client",), signs_for=True)
def _change_hash(moment: Moment, upload_set: UploadSet) -> UploadSet:
    """The upload set holds another hash by `client`, properly signed with its key."""
    return UploadSet(moment.accomplice(upload_set.hashes, _other_hash(moment)))


@lie("hash-for-other-dealers", "UploadSet", needs=("client",), signs_for=True)
def _other_dealers(moment: Moment, upload_set: UploadSet) -> UploadSet:
    """An accomplice's hash in the set says that it masked for other dealers."""
    return UploadSet(moment.accomplice(upload_set.hashes, refers_to=bytes(32)))


@lie("copied-hash", "UploadSet", needs=("client",), signs_for=True)
def _copied_hash(moment: Moment, upload_set: UploadSet) -> UploadSet:
    """An accomplice commits to the very upload of the first client in the set."""
    copied = body_of(Envelope.decode(upload_set.hashes[0]), UploadHash)
    return UploadSet(moment.accomplice(upload_set.hashes, copied))


@lie("few-hashes", "UploadSet", needs=("count",))
def _few_hashes(moment: Moment, upload_set: UploadSet) -> UploadSet:
    """Only the first `count` hashes are in the upload set."""
    return UploadSet(upload_set.hashes[: moment.count])


@lie("repeat-hash", "UploadSet")
def _repeat_hash(moment: Moment, upload_set: UploadSet) -> UploadSet:
    """One hash is in the upload set twice."""
    return UploadSet((upload_set.hashes[0], *upload_set.hashes))


@lie("forge-hash", "UploadSet", needs=("client",))
def _forge_hash(moment: Moment, upload_set: UploadSet) -> UploadSet:
    """The coordinator signs a hash in the name of `client`."""
    place = member(upload_set.hashes, moment.client)
    false = resigned(moment.speaker, upload_set.hashes[place], _other_hash(moment))
    return UploadSet(swapped(upload_set.hashes, place, false))


@lie("misplace-step", "UploadSet")
def _misplace_step(moment: Moment, upload_set: UploadSet) -> Signed:
    """The upload set is signed for another step of the session."""
    return Signed(upload_set, {"step": moment.envelope.header.step + 1})
