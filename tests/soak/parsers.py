"""Targets: binary messages, those of a round and those between rounds."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from functools import cache
from typing import Any

from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import CheckpointSeen, Envelope, Header, SignedHeader
from fedfm_crypto.errors import CodecError
from fedfm_crypto.merkle import consistency_proof, inclusion_proof, leaf_hash, tree_root
from fedfm_crypto.note import (
    Checkpoint,
    sign_checkpoint,
)
from fedfm_protocols import key_messages, messages
from fedfm_protocols.catchup import verify_catch_up
from fedfm_protocols.errors import (
    MessageRefused,
    RoundViolation,
)
from fedfm_protocols.key_ring import KeyRing
from fedfm_protocols.messages import CatchUp, CatchUpRound, CheckpointOffer
from fedfm_protocols.scenario.suites import missing_for
from fedfm_protocols.witness import review_offer
from tests.protocols.federations import make_keys
from tests.protocols.scripted import START, catch_up_round, forge
from tests.soak import recordings
from tests.soak.damage import damage_bytes, damage_value, encoded_or_raw
from tests.soak.engine import Attempt, OracleError, Target

BODIES: tuple[type[Any], ...] = tuple(
    value
    for module in (messages, key_messages)
    for value in vars(module).values()
    if isinstance(value, type) and value.__module__ == module.__name__
)


def parser_targets() -> list[Target]:
    """One target a message class, and one for each message that is read outside of rounds."""
    return [
        *(Target(f"codec/{body.__name__}", _codec(body)) for body in BODIES),
        Target("envelope", _envelope),
        Target("checkpoint-offer", _checkpoint_offer),
        Target("catch-up", _catch_up),
    ]


# ---------------------------------------------------------------- binary


@cache
def _samples() -> dict[str, list[bytes]]:
    """Encoded bodies by class, for the classes that an honest round sends."""
    found: dict[str, list[bytes]] = {}
    recorded = [recordings.masked(), recordings.sparse()]
    if not missing_for("layered"):
        recorded.append(recordings.layered())
    for recording in recorded:
        for envelope in recording.all_envelopes:
            found.setdefault(envelope.header.type, []).append(envelope.body)
    hello = messages.Hello(3, START, 4, 2, 7, 1, bytes(32))
    for value in (
        _catch_up_body(recordings.sessions()),
        _offers()[1],
        hello,
        messages.Cosignature(b"line" * 30),
    ):
        found[type(value).__name__] = [encode(value)]
    group = key_messages.GroupKey(3, bytes(32))
    contents = key_messages.KeyShareContents(bytes(200), bytes(32), (group, group))
    for inner in (group, contents):
        found[type(inner).__name__] = [encode(inner)]
    for name in sorted(found):
        for data in found[name][:6] if hasattr(messages, name) else ():
            _collect_inner(decode(getattr(messages, name), data), found)
    return found


def _collect_inner(value: Any, found: dict[str, list[bytes]]) -> None:
    """Add the encodings of the dataclasses inside of a body."""
    for entry in dataclasses.fields(value):
        items = getattr(value, entry.name)
        for item in items if isinstance(items, tuple) else ():
            if dataclasses.is_dataclass(item):
                found.setdefault(type(item).__name__, []).append(encode(item))
                _collect_inner(item, found)


def _codec(body: type[Any]) -> Callable[[random.Random], Attempt]:
    def make(rng: random.Random) -> Attempt:
        everything = _samples()
        pool = everything.get(body.__name__) or everything[rng.choice(sorted(everything))]
        others = everything[rng.choice(sorted(everything))]
        data = damage_bytes(rng, rng.choice(pool), others)
        if rng.random() < 0.1:
            data = rng.randbytes(rng.choice((0, 1, 4, 33, 500)))
        return Attempt(data, lambda: _round_trip(body, data), (CodecError,))

    return make


def _round_trip(body: type[Any], data: bytes) -> str:
    if encode(decode(body, data)) != data:
        raise OracleError("accepted bytes that are not the encoding of their value")
    return "canonical"


def _envelope(rng: random.Random) -> Attempt:
    honest = [e.encode() for e in rng.sample(recordings.masked().all_envelopes, 3)]
    data = damage_bytes(rng, honest[0], honest[1:])
    kind = rng.choice((Envelope, Header, SignedHeader))
    limit = rng.choice((0, 100, 1 << 30))

    def run() -> str:
        if kind is not Envelope:
            return _round_trip(kind, data)
        envelope = Envelope.decode(data, max_body=limit)
        if envelope.encode() != data:
            raise OracleError("an envelope with two encodings")
        return "canonical"

    return Attempt(data, run, (CodecError,))


# ---------------------------------------------------------------- outside of rounds


@cache
def _offers() -> tuple[CheckpointSeen, CheckpointOffer]:
    """What a witness has seen (5 leaves), and an honest offer (9 leaves)."""
    leaves = [leaf_hash(b"leaf %d" % i) for i in range(9)]
    checkpoint = Checkpoint("test/log", 9, tree_root(leaves))
    note = sign_checkpoint(checkpoint, "test/log", make_keys(5).log)
    offer = CheckpointOffer(
        checkpoint=note,
        consistency=tuple(consistency_proof(leaves, 5)),
        leaf_index=7,
        leaf=b"leaf 7",
        inclusion=tuple(inclusion_proof(leaves, 7)),
    )
    return CheckpointSeen(5, tree_root(leaves[:5])), offer


def _checkpoint_offer(rng: random.Random) -> Attempt:
    seen, honest = _offers()
    log = make_keys(5).log
    offer = damage_value(rng, honest, [honest])
    if rng.random() < 0.3:
        size = rng.choice((0, 1, 4, 5, 6, 8, 10, 2**40, 2**62))
        root = tree_root([]) if size == 0 else rng.randbytes(32)
        note = sign_checkpoint(Checkpoint("test/log", size, root), "test/log", log)
        offer = CheckpointOffer(
            note, offer.consistency, offer.leaf_index, offer.leaf, offer.inclusion
        )
    section = recordings.masked().federation.charter.log

    def run() -> str:
        checkpoint = review_offer(seen, offer, section)
        if checkpoint.size != 9:
            raise OracleError("took a checkpoint that extends nothing")
        return "taken"

    return Attempt(repr(offer).encode(), run, (RoundViolation,))


def _catch_up_body(recording: recordings.Recording) -> CatchUp:
    rounds = recording.simulation.records
    return CatchUp(tuple(catch_up_round(r) for r in rounds))


def _forged_ack(
    rng: random.Random, recording: recordings.Recording, missed: CatchUpRound
) -> CatchUpRound:
    """Another aggregate or opening, or an acknowledgement that its sender changed and signed."""
    if rng.random() < 0.3:
        other = rng.choice(_catch_up_body(recording).rounds)
        name = rng.choice(("opened", "roster_hash", "aggregates", "acks"))
        return dataclasses.replace(missed, **{name: getattr(other, name)})
    place = rng.randrange(len(missed.acks))
    ack = Envelope.decode(missed.acks[place])
    body = encoded_or_raw(rng, recordings.body_of(ack), recording.bodies("RoundAck"))
    forged = forge(recording.key(ack.header.sender), ack, body).encode()
    acks = (*missed.acks[:place], forged, *missed.acks[place + 1 :])
    return dataclasses.replace(missed, acks=acks)


def _catch_up(rng: random.Random) -> Attempt:
    recording = rng.choice((recordings.masked, recordings.sessions))()
    honest = _catch_up_body(recording)
    try:
        catch_up = decode(CatchUp, encoded_or_raw(rng, honest, [honest]))
    except CodecError:  # the codec's own target tries these
        place = rng.randrange(len(honest.rounds))
        missed = _forged_ack(rng, recording, honest.rounds[place])
        catch_up = CatchUp((*honest.rounds[:place], missed, *honest.rounds[place + 1 :]))
    reached = {record.opened for record in honest.rounds}

    def run() -> str:
        verified = 0
        for missed in verify_catch_up(
            recording.federation,
            catch_up,
            last_applied=0,
            adapter_hash=START,
            keys=KeyRing(),
            encryption=None,
        ):
            verified += 1
            values = recording.federation.charter.quantiser.values
            if any(step.total.size != values for step in missed.sums):
                raise OracleError("a sum of another size")
        if any(record.opened not in reached for record in catch_up.rounds[:verified]):
            raise OracleError("caught up with an opening that was never signed")
        return f"verified {verified}"

    return Attempt(encode(catch_up), run, (MessageRefused, RoundViolation))
