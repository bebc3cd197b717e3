"""Client, step 4: the protected update is built, committed to, and sent once all are committed."""

from __future__ import annotations

import hashlib

from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CryptoError
from fedfm_crypto.lanes import pack_lanes
from fedfm_protocols import masking
from fedfm_protocols.client_session import ClientContext, say, say_encoded, taken
from fedfm_protocols.client_states import ClientState, Committed, Training, Uploaded
from fedfm_protocols.context import dealers_hash
from fedfm_protocols.effects import Effect, Note, Transition, UpdateReady
from fedfm_protocols.errors import (
    BelowThreshold,
    EquivocationError,
    OutOfOrder,
    RoundRefused,
)
from fedfm_protocols.messages import Upload, UploadHash, UploadSet, read_body


def commit_upload(
    context: ClientContext, state: Training, event: UpdateReady
) -> Transition[ClientState]:
    """quantise -> mask -> pack -> commit: the protocol's half of an update's one path."""
    site, session = context.site, state.session
    federation = site.federation
    lanes = federation.lanes
    if (event.round, event.step) != (session.identity.round, session.step):
        raise OutOfOrder(
            f"an update for round {event.round} step {event.step} in round "
            f"{session.identity.round} step {session.step}; an update is never sent twice"
        )
    expected = federation.charter.quantiser.values
    if event.update.size != expected:
        raise RoundRefused(
            f"this site's update has {event.update.size} values, the charter says {expected}"
        )
    try:
        words = lanes.quantise(event.update, context.random)
        clipped = lanes.count_clipped(event.update)
    except CryptoError as error:
        raise RoundRefused(f"this site's update cannot be quantised: {error}") from error
    dealers = frozenset(state.dealers)
    if federation.masked:
        masking.mask(
            words,
            context=session.context,
            client=site.name,
            step=session.step,
            secrets=state.secrets.steps[session.step],
            peers={
                name: offer.steps[session.step].mask_key
                for name, offer in state.offers.items()
                if name in dealers
            },
            lane_bits=lanes.lane_bits,
        )
    upload = encode(Upload(pack_lanes(words, lanes.lane_bits)))
    digest = hashlib.sha256(upload).digest()
    session, send = say(
        context,
        state.memory,
        session,
        UploadHash(digest),
        dealers_hash(session.context, state.dealers, state.hood.seed),
    )
    effects: list[Effect] = []
    if clipped:
        effects.append(
            Note(
                f"{clipped} of {event.update.size} values exceed the charter's clip of "
                f"{lanes.clip} and were clipped"
            )
        )
    committed = Committed(
        state.memory,
        session,
        state.hood,
        state.dealers,
        state.held,
        upload=upload,
        upload_hash=digest,
    )
    return Transition(committed, (*effects, send))


def send_upload(
    context: ClientContext, state: Committed, envelope: Envelope
) -> Transition[ClientState]:
    site, session = context.site, state.session
    federation = site.federation
    upload_set = read_body(envelope, UploadSet)
    members = context.open_set(
        upload_set.hashes,
        UploadHash,
        federation=federation,
        allowed=frozenset(state.dealers),
        context=session.context,
        step=session.step,
    )
    if site.name not in members:
        raise RoundRefused("this site's upload hash came too late or was left out")
    if members[site.name][1].upload_hash != state.upload_hash:
        raise EquivocationError("the upload set holds another hash than this site signed")
    expected = dealers_hash(session.context, state.dealers, state.hood.seed)
    for name, (member, _) in members.items():
        if member.header.refers_to != expected:
            raise EquivocationError(
                f"{name} masked for another set of dealers than this site, or on another graph: "
                "the coordinator told different sets"
            )
    hashes = [body.upload_hash for _, body in members.values()]
    # Without masks two honest clients may well have the same update.
    if federation.masked and len(set(hashes)) != len(hashes):
        raise EquivocationError("two clients committed to the same upload")
    needed = federation.thresholds.min_accepted
    if len(members) < needed:
        raise BelowThreshold(f"{len(members)} clients committed an update, {needed} are needed")
    session = taken(session, envelope)
    fixed = envelope.header.body_hash
    # The bytes that were hashed are the bytes that are sent.
    session, send = say_encoded(
        context, state.memory, session, Upload, state.upload, state.upload_hash, fixed
    )
    uploaded = Uploaded(
        state.memory,
        session,
        state.hood,
        state.dealers,
        state.held,
        values=federation.charter.quantiser.values,
        upload_set=fixed,
        uploaders=frozenset(members),
    )
    return Transition(uploaded, (send,))
