"""Client, between two steps: what hides the next upload is prepared before that upload is known.

Masks, the fresh key, its wrap and the public polynomials depend on who takes part in a step and
on nothing that is trained in it.  They are begun as soon as the cohort before has been proven, and
done while everybody waits for the sum.
Source: protocols/README.md, sections "Sessions" and "Masks".
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np

from fedfm_crypto.codec import encode
from fedfm_crypto.lanes import add_lanes, pack_lanes
from fedfm_crypto.mask import Sign, add_masks
from fedfm_crypto.secret import Secret
from fedfm_protocols import masking
from fedfm_protocols.client_session import ClientContext
from fedfm_protocols.client_states import (
    ClientMemory,
    ClientState,
    EncodedUpload,
    NextStep,
    Protect,
    Session,
    Training,
)
from fedfm_protocols.context import NO_HASH, bulk_seed
from fedfm_protocols.effects import Train, Transition
from fedfm_protocols.errors import RoundRefused
from fedfm_protocols.key_messages import WrappedKey
from fedfm_protocols.masking import Words
from fedfm_protocols.messages import Upload
from fedfm_protocols.neighbourhood import Neighbourhoods
from fedfm_protocols.steps import StepKeys


def prepare_step(
    context: ClientContext,
    memory: ClientMemory,
    session: Session,
    hood: Neighbourhoods,
    dealers: tuple[str, ...],
    keys: tuple[StepKeys, ...],
) -> NextStep:
    """Begin to prepare ``session.step``, in which ``dealers`` take part; ``keys`` are those of
    this step and of all that follow it."""
    present = frozenset(dealers)
    now, *later = (key.only(present) for key in keys)
    protect = _begin(context, memory, session, now)
    return NextStep(hood, dealers, now.held, protect, tuple(later))


def begin_step(
    memory: ClientMemory, session: Session, following: NextStep
) -> Transition[ClientState]:
    """Enter a step that was prepared: train for it."""
    training = Training(
        memory,
        session,
        following.hood,
        following.dealers,
        following.held,
        following.protect,
        following.later,
        following.beacon,
    )
    identity = session.identity
    return Transition(training, (Train(identity.round, session.step, identity.kind),))


def _begin(
    context: ClientContext, memory: ClientMemory, session: Session, keys: StepKeys
) -> Protect:
    federation, step = context.site.federation, session.step
    lane_bits, values = federation.lanes.lane_bits, federation.lane_count
    if not federation.encrypted:
        ready = context.ahead(lambda: _mask_words(context, session, keys))

        def mask(words: Words) -> EncodedUpload:
            add_lanes(words, ready(), lane_bits)
            return _encoded(pack_lanes(words, lane_bits), None)

        return mask
    encryption = context.need_encryption()
    epoch = memory.keys.of(session.identity.key_epoch)
    if epoch is None:
        raise RoundRefused(f"this site lost the key of epoch {session.identity.key_epoch}")
    prepared = context.ahead(
        lambda: encryption.prepare(
            values=values,
            lane_bits=lane_bits,
            masks=_mask_keys(context, session, keys),
            seed=bulk_seed(session.context, step),
            public_key=epoch.public_key,
            random=context.random,
        )
    )

    def encrypt(words: Words) -> EncodedUpload:
        protected = encryption.protect(prepared(), words, lane_bits)
        return _encoded(protected.bulk, protected.wrap)

    return encrypt


def _mask_words(context: ClientContext, session: Session, keys: StepKeys) -> Words:
    federation = context.site.federation
    words = np.zeros(federation.lane_count, dtype=np.uint32)
    add_masks(words, _mask_keys(context, session, keys), federation.lanes.lane_bits)
    return words


def _mask_keys(
    context: ClientContext, session: Session, keys: StepKeys
) -> Collection[tuple[Secret, Sign]]:
    if keys.own is None:
        return ()
    return masking.mask_keys(
        context=session.context,
        client=context.site.name,
        step=session.step,
        secrets=keys.own,
        peers=keys.mask_keys,
    )


def _encoded(words: bytes, wrap: bytes | None) -> EncodedUpload:
    upload = encode(Upload(words))
    wrapped = b"" if wrap is None else encode(WrappedKey(wrap))
    return EncodedUpload(
        upload,
        hashlib.sha256(upload).digest(),
        wrapped,
        hashlib.sha256(wrapped).digest() if wrapped else NO_HASH,
    )
