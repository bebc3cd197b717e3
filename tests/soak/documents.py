"""Targets: text formats, from canonical JSON to a signed charter.

Where a signature would stop all damage at the door, the damaged content is signed again by the
keys that a verifier expects.
"""

from __future__ import annotations

import json
import random
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from fedfm_audit.errors import AuditError
from fedfm_audit.statements import open_leaf
from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.dsse import dsse_open, dsse_read_unverified, dsse_sign
from fedfm_crypto.errors import CanonicalJSONError, DSSEError, NoteError
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.note import (
    Checkpoint,
    NoteAlgorithm,
    add_signature,
    cosign,
    format_vkey,
    open_note,
    parse_vkey,
    sign_checkpoint,
)
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.charter import CHARTER_PAYLOAD_TYPE, open_charter
from fedfm_protocols.enrolment import STATEMENT_PAYLOAD_TYPE, open_enrolment, request_enrolment
from fedfm_protocols.errors import CharterError, EnrolmentError, ScenarioError
from fedfm_protocols.scenario.form import parse_scenario
from fedfm_protocols.scenario.library import shipped_names
from tests.audit.played_round import Script
from tests.audit.synthetic import play_federation
from tests.protocols.federations import charter_fields, make_keys
from tests.soak.damage import EDGES, TEXTS, damage_bytes
from tests.soak.engine import Attempt, OracleError, Target


def document_targets() -> list[Target]:
    """One target a format."""
    return [
        Target("canonical-json", _canonical_json),
        Target("dsse", _dsse),
        Target("note", _note),
        Target("verifier-key", _verifier_key),
        Target("charter", _charter),
        Target("enrolment", _enrolment),
        Target("statement", _statement),
        Target("scenario", _scenario),
    ]


# ---------------------------------------------------------------- JSON


def damage_json(rng: random.Random, value: Any) -> Any:
    """A JSON value with one thing changed somewhere inside."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        match rng.randrange(10):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                return {**value, rng.choice(TEXTS[:8]): value[key]}
            case _:
                return {**value, key: damage_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        match rng.randrange(8):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return value + value[place:]
            case 2:
                return rng.sample(value, len(value))
            case _:
                return [*value[:place], damage_json(rng, value[place]), *value[place + 1 :]]
    return _other_scalar(rng, value)


def _other_scalar(rng: random.Random, value: Any) -> Any:
    edges = [edge for edge in EDGES if edge < 2**53]
    pool: list[Any] = [None, True, False, 0.5, -1, 1e300, 5e-324, [], {}, *TEXTS, *edges]
    if isinstance(value, str) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        letter = rng.choice("0aZ+/=é \n\x00")
        pool = [value[:place] + letter + value[place + 1 :], value[:place], value + letter]
        pool += [value.upper(), "f" * len(value), "0" * len(value), value * 40]
    elif isinstance(value, (int, float)) and rng.random() < 0.7:
        pool = [value + 1, -value, value * 10**6, *edges]
    return rng.choice(pool)


def _canonical_json(rng: random.Random) -> Attempt:
    honest = canonical_encode(charter_fields(make_keys(3)))
    data = damage_bytes(rng, honest)
    if rng.random() < 0.3:
        value = damage_json(rng, json.loads(honest))
        data = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        data = rng.choice((b"[", b'{"a":', b"9", b"-", b'"\\u')) * rng.choice((3, 500, 100_000))

    def run() -> str:
        if canonical_encode(canonical_decode(data)) != data:
            raise OracleError("accepted JSON that is not canonical")
        return "canonical"

    return Attempt(data, run, (CanonicalJSONError,))


@cache
def _keys() -> tuple[IdentityKey, ...]:
    random_source = SeededRandom(b"soak parsers")
    return tuple(IdentityKey.generate(random_source) for _ in range(3))


def _dsse(rng: random.Random) -> Attempt:
    signers = [(key.public.hex, key) for key in _keys()[: rng.randrange(1, 4)]]
    honest = dsse_sign(b"payload", "text/plain", signers)
    data = damage_bytes(rng, honest, [dsse_sign(b"other", "text/plain", signers)])
    if rng.random() < 0.6:
        data = _canonical_or(damage_json(rng, json.loads(honest)), data)
    known = {key.public.hex: key.public for key in _keys()}

    def run() -> str:
        dsse_read_unverified(data)
        opened = dsse_open(data, payload_type="text/plain", keys=known, threshold=1)
        if opened.payload != b"payload" or not set(opened.signers) <= set(known):
            raise OracleError("opened what nobody signed")
        return "opened"

    return Attempt(data, run, (DSSEError,))


def _canonical_or(value: Any, otherwise: bytes) -> bytes:
    try:
        return canonical_encode(value)
    except CanonicalJSONError:
        return otherwise


# ---------------------------------------------------------------- notes


@cache
def _honest_note() -> tuple[bytes, tuple[str, ...]]:
    log, first, second = _keys()
    note = sign_checkpoint(Checkpoint("soak/log", 5, bytes(range(32))), "soak/log", log)
    vkeys = [format_vkey("soak/log", log.public, NoteAlgorithm.ED25519)]
    for number, witness in enumerate((first, second)):
        name = f"soak/witness-{number}"
        note = add_signature(note, cosign(note, name, witness, 1_700_000_000 + number))
        vkeys.append(format_vkey(name, witness.public, NoteAlgorithm.COSIGNATURE_V1))
    return note, tuple(vkeys)


def _note(rng: random.Random) -> Attempt:
    honest, vkeys = _honest_note()
    lines = honest.split(b"\n")
    data = damage_bytes(rng, honest)
    if rng.random() < 0.5:
        rng.shuffle(lines)
        data = damage_bytes(rng, b"\n".join(lines)) if rng.random() < 0.5 else b"\n".join(lines)
    strict = rng.random() < 0.5

    def run() -> str:
        opened = open_note(data, list(vkeys), strict=strict)
        # Cosignatures by keys that a lenient reader does not know may be anything.
        if opened.checkpoint != Checkpoint("soak/log", 5, bytes(range(32))):
            raise OracleError("opened a checkpoint that the log never signed")
        add_signature(data, lines[-2] + b"\n")
        return "opened"

    return Attempt(data, run, (NoteError,))


def _verifier_key(rng: random.Random) -> Attempt:
    vkeys = [vkey.encode() for vkey in _honest_note()[1]]
    data = damage_bytes(rng, vkeys[0], vkeys[1:])

    def run() -> str:
        key = parse_vkey(data.decode("utf-8", "replace"))
        return f"parsed, {key.algorithm.name}"

    return Attempt(data, run, (NoteError,))


# ---------------------------------------------------------------- signed documents


def _charter(rng: random.Random) -> Attempt:
    keys = make_keys(rng.choice((3, 5)))
    fields = charter_fields(keys)
    for _ in range(rng.choice((1, 1, 2))):
        fields = damage_json(rng, fields)
    founders = [(key.public.hex, key) for key in list(keys.clients.values())[:3]]
    payload = _canonical_or(fields, b"{}")
    if rng.random() < 0.2:
        payload = damage_bytes(rng, payload)
    data = dsse_sign(payload, CHARTER_PAYLOAD_TYPE, founders[: rng.choice((1, 2, 3))])
    if rng.random() < 0.2:
        data = damage_bytes(rng, data)

    def run() -> str:
        signed = open_charter(data)
        if signed.charter.thresholds.min_accepted < signed.charter.limits.colluding + 2:
            raise OracleError("a charter that lets a sum bare one honest update")
        return "opened"

    return Attempt(data, run, (CharterError,))


@cache
def _enrolment_sample() -> bytes:
    transport = AgreementKey.generate(SeededRandom(b"soak transport")).public
    return request_enrolment("clinic", "client", _keys()[0], transport, "2031-01-01")


def _enrolment(rng: random.Random) -> Attempt:
    honest = _enrolment_sample()
    data = damage_bytes(rng, honest)
    if rng.random() < 0.8:
        fields = json.loads(dsse_read_unverified(honest).payload)
        payload = _canonical_or(damage_json(rng, fields), b"[]")
        key = _keys()[0]
        data = dsse_sign(payload, STATEMENT_PAYLOAD_TYPE, [(key.public.hex, key)])
    return Attempt(data, lambda: open_enrolment(data, today="2026-01-01").role, (EnrolmentError,))


@cache
def _synthetic() -> Any:
    return play_federation(Script(), Script())


def _statement(rng: random.Random) -> Attempt:
    federation = _synthetic()
    honest = rng.choice(federation.leaves)
    data = damage_bytes(rng, honest, federation.leaves)
    signers = [federation.coordinator, *federation.keys.values()]
    if rng.random() < 0.8:
        fields = json.loads(dsse_read_unverified(honest).payload)
        payload = _canonical_or(damage_json(rng, fields), b"[]")
        key = rng.choice(signers)
        data = dsse_sign(payload, STATEMENT_PAYLOAD_TYPE, [(key.public.hex, key)])
    known = {key.public.hex: key.public for key in signers}

    def run() -> str:
        return type(open_leaf(data, known).statement.predicate).__name__

    return Attempt(data, run, (AuditError, DSSEError, CanonicalJSONError))


# ---------------------------------------------------------------- scenarios


@cache
def _shipped_texts() -> tuple[str, ...]:
    folder = files("fedfm_protocols.scenarios")
    return tuple(folder.joinpath(f"{name}.toml").read_text("utf-8") for name in shipped_names())


def _scenario(rng: random.Random) -> Attempt:
    text = rng.choice(_shipped_texts())
    data = damage_bytes(rng, text.encode(), [other.encode() for other in _shipped_texts()[:5]])
    if rng.random() < 0.05:
        data = b"x = " + rng.choice((b"9", b"[", b"{a=", b"1e9", b"0x")) * rng.choice((3, 6000))
    tables = damage_json(rng, tomllib.loads(text)) if rng.random() < 0.5 else None

    def run() -> str:
        if isinstance(tables, dict):
            parse_scenario(tables, name="damaged")
        else:
            parse_scenario(data.decode("utf-8", "replace"), name="damaged")
        return "parsed"

    return Attempt(data, run, (ScenarioError,))
