"""Client, steps 11 and 12 with encryption: help to open the key sum, and open the sum with it.

A holder never decrypts a sum that it was merely handed: it adds up the wrapped keys itself, after
checking that they are those of exactly the accepted clients, as committed before any was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedfm_crypto.aead import open_sealed, seal
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CryptoError
from fedfm_crypto.kdf import derive_key
from fedfm_crypto.labels import Label
from fedfm_crypto.secret import Secret
from fedfm_protocols.checks import OpenSet, is_sorted_unique
from fedfm_protocols.client_epoch import epoch_keys
from fedfm_protocols.client_session import ClientContext, say, taken
from fedfm_protocols.client_states import ClientState, Unmasked
from fedfm_protocols.context import NO_HASH, active_hash, bulk_seed
from fedfm_protocols.effects import Persist, Transition
from fedfm_protocols.encryption import MAX_ACTIVE_SETS, ActiveSet, Encryption
from fedfm_protocols.errors import BelowThreshold, EquivocationError
from fedfm_protocols.federation import Federation
from fedfm_protocols.key_messages import KeyOpening, KeyRequest, WrappedKey
from fedfm_protocols.masking import Words
from fedfm_protocols.messages import Aggregate, read_body
from fedfm_protocols.split_view import one_history

_RECORDS = ("decrypting", "decrypting-again")


def open_keys(
    context: ClientContext, state: Unmasked, envelope: Envelope
) -> Transition[ClientState]:
    """Step 11: a partial decryption of the sum of the accepted clients' wrapped keys."""
    site, session = context.site, state.session
    federation, keys = site.federation, epoch_keys(state)
    request = read_body(envelope, KeyRequest)
    digest = active_hash(session.context, session.step, state.cohort_hash, request.active)
    if envelope.header.refers_to != digest:
        raise EquivocationError("the key request does not name its own active set and cohort")
    active = check_active(federation, request.active, keys.holders)
    if site.name not in request.active:
        raise EquivocationError("the key request is for holders that this site is not one of")
    if len(state.opened_with) >= MAX_ACTIVE_SETS:
        raise BelowThreshold(
            f"this site opened the key sum with {MAX_ACTIVE_SETS} sets of holders already; another "
            "would tell too much about its share, the step must be repeated with new keys"
        )
    wraps = _check_wraps(context, state, request)
    try:
        opened = context.need_encryption().open_share(
            wraps,
            public_key=keys.public_key,
            share=keys.share,
            point=federation.share_index[site.name],
            active=active,
            random=context.random,
        )
    except CryptoError as error:
        raise EquivocationError(f"the wrapped keys do not add up: {error}") from error
    key = opening_key(keys.group, session.context, site.name, digest)
    sealed = seal(key, opened, digest, context.random)
    session = taken(session, envelope)
    record = _RECORDS[len(state.opened_with)]
    persist = Persist(session.identity.round, session.step, record, digest)
    session, send = say(context, state.memory, session, KeyOpening(sealed), digest)
    after = replace(state, session=session, opened_with=(*state.opened_with, digest))
    return Transition(after, (persist, send))


def check_active(
    federation: Federation, names: tuple[str, ...], holders: tuple[str, ...]
) -> ActiveSet:
    """An active set of exactly as many holders as it takes.

    Raises
    ------
    EquivocationError
        if somebody in it holds no share, or is there twice.
    BelowThreshold
        if there are more or fewer than ``key_threshold``.
    """
    if not is_sorted_unique(names) or not set(names) <= set(holders):
        raise EquivocationError("an active set must be sorted and hold each key holder once")
    threshold = federation.thresholds.key_threshold
    if len(names) != threshold:
        raise BelowThreshold(
            f"{len(names)} holders are to open the key sum, it takes exactly {threshold}"
        )
    return ActiveSet(tuple(federation.share_index[name] for name in names), threshold)


def _check_wraps(context: ClientContext, state: Unmasked, request: KeyRequest) -> tuple[bytes, ...]:
    session = state.session
    members = one_history(context.open_set, session)(
        request.wraps,
        WrappedKey,
        federation=context.site.federation,
        allowed=state.cohort.accepted,
        context=session.context,
        step=session.step,
    )
    if tuple(members) != state.cohort.accepted:
        raise EquivocationError("the wrapped keys are not those of exactly the accepted clients")
    for name, (member, _) in members.items():
        if member.header.refers_to != state.cohort.upload_set:
            raise EquivocationError(f"the wrapped key of {name} refers to another upload set")
        if member.header.body_hash != state.wraps[name]:
            raise EquivocationError(f"the wrapped key of {name} is not the one it committed to")
    return tuple(body.wrap for _, body in members.values())


def opening_key(group: bytes, context: bytes, sender: str, digest: bytes) -> Secret:
    """What ``sender`` seals its part of an opened key sum with, for whoever has the group key."""
    return derive_key(Label.KEY_OPENING, Secret(group), context, sender.encode(), digest)


def open_aggregate(
    encryption: Encryption,
    federation: Federation,
    aggregate: Aggregate,
    *,
    open_set: OpenSet,
    holders: tuple[str, ...] | None,
    group_keys: tuple[bytes, ...],
    context: bytes,
    step: int,
    cohort_hash: bytes | None,
) -> Words:
    """Step 12: lane words of the sum, from a ciphertext and one active set's openings.

    ``holders`` and ``cohort_hash`` of ``None`` stand for a missed round: a quorum signed that this
    very aggregate was in order, who opened it need not be known.  ``group_keys`` are tried in turn.

    Raises
    ------
    EquivocationError
        if the openings are not those of one active set, or do not open this sum.
    """
    members = open_set(
        aggregate.openings,
        KeyOpening,
        federation=federation,
        allowed=federation.clients if holders is None else holders,
        context=context,
        step=step,
    )
    names = tuple(members)
    active = check_active(federation, names, names if holders is None else holders)
    digest = next((member.header.refers_to for member, _ in members.values()), NO_HASH)
    if cohort_hash is not None:
        digest = active_hash(context, step, cohort_hash, names)
    if any(member.header.refers_to != digest for member, _ in members.values()):
        raise EquivocationError("the key openings are not those of one active set for this cohort")
    sealed = {name: body.sealed for name, (_, body) in members.items()}
    shares = _unseal(sealed, group_keys, context, digest)
    lanes = federation.lanes
    try:
        return encryption.open_sum(
            aggregate.words,
            shares=[(federation.share_index[name], share) for name, share in shares.items()],
            active=active,
            clients=aggregate.accepted,
            seed=bulk_seed(context, step),
            values=federation.lane_count,
            lane_bits=lanes.lane_bits,
        )
    except CryptoError as error:
        raise EquivocationError(f"the sum does not open: {error}") from error


def _unseal(
    sealed: Mapping[str, bytes], group_keys: tuple[bytes, ...], context: bytes, digest: bytes
) -> dict[str, bytes]:
    """What every member of the active set sealed, under the first group key that fits all."""
    failure = ""
    for group in group_keys:
        try:
            return {
                name: open_sealed(opening_key(group, context, name, digest), data, digest)
                for name, data in sealed.items()
            }
        except CryptoError as error:
            failure = f": {error}"
    raise EquivocationError(f"the key openings do not open under the clients' group key{failure}")
