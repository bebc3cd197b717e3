"""Targets: rounds that make keys, and sums under them, in suite ``layered``.

Whatever is sent, TenSEAL's parser is reached only by what its sender committed to and what has
passed our own bounded reader; the coordinator never calls TenSEAL at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fedfm_crypto.aead import open_sealed, seal
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.errors import CodecError
from fedfm_protocols.key_epoch import associated_data, sealing_key
from fedfm_protocols.key_messages import KeyShareContents
from fedfm_protocols.scenario.suites import missing_for
from tests.protocols.scripted import forge
from tests.soak import recordings
from tests.soak.damage import damage_bytes, encoded_or_raw
from tests.soak.engine import Attempt, OracleError, Target
from tests.soak.handlers import (
    CLIENT_STATES,
    PHASE_MESSAGES,
    SESSIONS_ONLY,
    SPARSE_ONLY,
    client_attempt,
    coordinator_attempt,
    hostile,
)
from tests.soak.recordings import Moment, Recording, body_of, fingerprint, seeded

CLIENT_KEY_STATES = {"KeyDealt": "KeyDelivery"}
KEY_PHASES = {"Dealing": "KeyDealing", "Decrypting": "KeyOpening", "KeyAcking": "RoundAck"}

_Attempter = Callable[[random.Random, Recording, Moment, bytes], Attempt]


def encrypted_targets() -> list[Target]:
    """Targets of the suites that encrypt; none where the packages for them are missing."""
    if missing_for("layered"):
        return []
    elsewhere = (*SPARSE_ONLY, *SESSIONS_ONLY)  # states that the recording of `layered` has not
    clients = {k: v for k, v in CLIENT_STATES.items() if k not in elsewhere}
    phases = {k: v for k, v in PHASE_MESSAGES.items() if k not in SPARSE_ONLY}
    return [
        *(_target(f"client/{s}", s, kind, client_attempt) for s, kind in CLIENT_KEY_STATES.items()),
        *(_target(f"coordinator/{s}", s, kind, _no_tenseal) for s, kind in KEY_PHASES.items()),
        *(_target(f"layered/client/{s}", s, kind, client_attempt) for s, kind in clients.items()),
        _target("layered/client/key-request", "Unmasked", "KeyRequest", client_attempt),
        *(_target(f"layered/coordinator/{s}", s, kind, _no_tenseal) for s, kind in phases.items()),
        Target("layered/committed-wrap", _committed("WrappedKey", "wrap_hash")),
        Target("layered/committed-upload", _committed("Upload", "upload_hash")),
        Target("layered/sealed-key-shares", _sealed_key_shares),
    ]


def _target(name: str, state: str, kind: str, attempt: _Attempter) -> Target:
    def make(rng: random.Random) -> Attempt:
        recording = recordings.layered()
        moment = rng.choice(recording.moments[state])
        if kind == "KeyRequest":  # who is asked for its part of a key sum
            asked = [m for m in recording.moments[state] if _kind(m) == kind]
            moment = rng.choice(asked)
        return attempt(rng, recording, moment, hostile(rng, recording, moment, kind))

    return Target(name, make)


def _kind(moment: Moment) -> str:
    return "" if moment.envelope is None else moment.envelope.header.type


@contextmanager
def without_tenseal() -> Iterator[None]:
    """A call of TenSEAL's parser in the block fails the case."""
    import tenseal

    def never(*arguments: object) -> None:
        raise OracleError("TenSEAL was called with a hostile object")

    before = tenseal.bfv_vector_from, tenseal.context_from
    tenseal.bfv_vector_from = tenseal.context_from = never
    try:
        yield
    finally:
        tenseal.bfv_vector_from, tenseal.context_from = before


def _no_tenseal(rng: random.Random, recording: Recording, moment: Moment, data: bytes) -> Attempt:
    honest = coordinator_attempt(rng, recording, moment, data)

    def run() -> str:
        with without_tenseal():
            return honest.run()

    return dataclasses.replace(honest, run=run)


def _committed(kind: str, name: str) -> Callable[[random.Random], Attempt]:
    """A damaged ciphertext that its sender did commit to: its bytes are looked at."""

    def make(rng: random.Random) -> Attempt:
        recording = recordings.layered()
        moments = [m for m in recording.moments["Uploading"] if _kind(m) == kind]
        moment = rng.choice(moments)
        assert moment.envelope is not None
        honest = body_of(moment.envelope)
        field = dataclasses.fields(honest)[0].name
        content = getattr(honest, field)
        damaged = damage_bytes(rng, content, [content])
        try:
            body = encode(dataclasses.replace(honest, **{field: damaged}))
        except CodecError:
            body = damage_bytes(rng, moment.envelope.body)
        sender = moment.envelope.header.sender
        committed = dataclasses.replace(
            moment.state.hashes[sender], **{name: hashlib.sha256(body).digest()}
        )
        hashes = {**moment.state.hashes, sender: committed}
        state = dataclasses.replace(moment.state, hashes=hashes)
        changed = Moment(moment.party, state, moment.envelope, fingerprint(state))
        message = forge(recording.key(sender), moment.envelope, body).encode()
        return _no_tenseal(rng, recording, changed, message)

    return make


def _sealed_key_shares(rng: random.Random) -> Attempt:
    """A dealer and the coordinator together: any plaintext, sealed with the right key."""
    recording = recordings.layered()
    moment = rng.choice([m for m in recording.moments["KeyDealt"] if _kind(m) == "KeyDelivery"])
    assert moment.envelope is not None
    delivery: Any = body_of(moment.envelope)
    state = moment.state
    place = rng.randrange(len(delivery.dealers))
    dealer, context = delivery.dealers[place], state.session.context
    public = state.offers[dealer].share_key
    key = sealing_key(context, state.secrets.share_key, public, dealer, moment.party)
    associated = associated_data(context, dealer, moment.party)
    contents = decode(KeyShareContents, open_sealed(key, delivery.sealed[place], associated))
    sealed = seal(key, encoded_or_raw(rng, contents, [contents]), associated, seeded(rng))
    entries = (*delivery.sealed[:place], sealed, *delivery.sealed[place + 1 :])
    try:
        body = encode(dataclasses.replace(delivery, sealed=entries))
    except CodecError:
        body = moment.envelope.body
    message = forge(recording.key("coordinator"), moment.envelope, body)
    return client_attempt(rng, recording, moment, message.encode())
