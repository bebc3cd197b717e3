"""Client, step 4: the protected update is built, committed to, and sent once all are committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CryptoError
from fedfm_crypto.lanes import from_lanes
from fedfm_protocols.beacon import Measured
from fedfm_protocols.client_session import ClientContext, say, say_encoded, taken
from fedfm_protocols.client_states import (
    ClientState,
    Committed,
    NonceOpened,
    Training,
    Uploaded,
)
from fedfm_protocols.context import NO_HASH, rotation_seed
from fedfm_protocols.effects import Effect, Note, Transition, UpdateReady
from fedfm_protocols.errors import (
    BelowThreshold,
    EquivocationError,
    OutOfOrder,
    RoundRefused,
)
from fedfm_protocols.federation import Federation
from fedfm_protocols.key_messages import WrappedKey
from fedfm_protocols.messages import Upload, UploadHash, UploadSet, read_body
from fedfm_protocols.robust_messages import BeaconNonce
from fedfm_protocols.split_view import one_history
from fedfm_protocols.steps import basis_of


def commit_upload(
    context: ClientContext, state: Training, event: UpdateReady
) -> Transition[ClientState]:
    """clip -> quantise -> noise -> mask -> seal -> commit: the protocol's half of an update's one
    path; which of these there are is for the charter to say."""
    site, session = context.site, state.session
    federation = site.federation
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
        seed = rotation_seed(session.context, session.step)
        encoding = federation.encoding_of(session.identity.kind)
        words = encoding.encode(event.update, seed, context.random)
        clipped = encoding.clipped(event.update)
    except CryptoError as error:
        raise RoundRefused(f"this site's update cannot be quantised: {error}") from error
    measured = None
    if state.beacon is not None:  # before masks; whatever noise there is, is in these integers
        measured = Measured(from_lanes(words, federation.lanes.lane_bits), state.beacon)
    upload = state.protect(words)
    session, send = say(
        context,
        state.memory,
        session,
        UploadHash(upload.upload_hash, upload.wrap_hash, event.charges),
        basis_of(session.context, session.step, state.dealers, state.hood.seed, session.before),
    )
    effects: list[Effect] = [Note(clipped)] if clipped else []
    committed = Committed(
        state.memory,
        session,
        state.hood,
        state.dealers,
        state.held,
        upload,
        state.later,
        measured,
    )
    return Transition(committed, (*effects, send))


def send_upload(
    context: ClientContext, state: Committed, envelope: Envelope
) -> Transition[ClientState]:
    site, session = context.site, state.session
    federation = site.federation
    upload_set = read_body(envelope, UploadSet)
    members = one_history(context.open_set, session)(
        upload_set.hashes,
        UploadHash,
        federation=federation,
        allowed=frozenset(state.dealers),
        context=session.context,
        step=session.step,
    )
    if site.name not in members:
        raise RoundRefused("this site's upload hash came too late or was left out")
    mine, own = members[site.name][1], state.upload
    if (mine.upload_hash, mine.wrap_hash) != (own.upload_hash, own.wrap_hash):
        raise EquivocationError("the upload set holds another hash than this site signed")
    expected = basis_of(
        session.context, session.step, state.dealers, state.hood.seed, session.before
    )
    for name, (member, _) in members.items():
        if member.header.refers_to != expected:
            raise EquivocationError(
                f"{name} masked for another set of dealers than this site, on another graph or on "
                "another adapter: the coordinator told different things"
            )
    _refuse_equal(federation, {name: body for name, (_, body) in members.items()})
    needed = federation.thresholds.min_accepted
    if len(members) < needed:
        raise BelowThreshold(f"{len(members)} clients committed an update, {needed} are needed")
    session = taken(session, envelope)
    fixed = envelope.header.body_hash
    # The bytes that were hashed are the bytes that are sent.  The key goes first: an update whose
    # key never came could not be taken out of the sum again.
    sends = []
    if own.wrap:
        session, send = say_encoded(
            context, state.memory, session, WrappedKey, own.wrap, own.wrap_hash, fixed
        )
        sends.append(send)
    session, send = say_encoded(
        context, state.memory, session, Upload, own.upload, own.upload_hash, fixed
    )
    sends.append(send)
    uploaded = Uploaded(
        state.memory,
        session,
        state.hood,
        state.dealers,
        state.held,
        values=federation.lane_count,
        upload_set=fixed,
        wraps={name: body.wrap_hash for name, (_, body) in members.items()},
        later=state.later,
    )
    if state.measured is None:
        return Transition(uploaded, tuple(sends))
    # All uploads are fixed: nobody can fit one to the beacon any more.
    nonce = BeaconNonce(state.measured.part.nonce.reveal())
    session, send = say(context, state.memory, session, nonce, fixed)
    opened = NonceOpened(state.memory, session, replace(uploaded, session=session), state.measured)
    return Transition(opened, (*sends, send))


def _refuse_equal(federation: Federation, hashes: Mapping[str, UploadHash]) -> None:
    """Nobody's protected update or wrapped key is a copy of another's.  Without protection two
    honest clients may well have the same update.

    Raises
    ------
    EquivocationError
        if two are equal, or a wrapped key is missing or not asked for.
    """
    uploads = [body.upload_hash for body in hashes.values()]
    if (federation.masked or federation.encrypted) and len(set(uploads)) != len(uploads):
        raise EquivocationError("two clients committed to the same upload")
    wraps = {body.wrap_hash for body in hashes.values()}
    if federation.encrypted and (len(wraps) != len(hashes) or NO_HASH in wraps):
        raise EquivocationError("two clients committed to the same wrapped key, or one to none")
    if not federation.encrypted and wraps != {NO_HASH}:
        raise EquivocationError("a client committed to a wrapped key in a suite that has none")
