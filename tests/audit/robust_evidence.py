"""Evidence of robust federations that the real state machines left, and lies put into it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.report import Report
from fedfm_audit.statements import round_statement, sign_statement
from fedfm_audit.steps_summary import summarise_steps
from fedfm_audit.transcript import Transcript, count_round, make_transcript
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import SignedHeader
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.labels import Label
from fedfm_protocols.scenario.federations import robust_fields
from tests.audit.played_round import parts_of
from tests.audit.simulated import Evidence, Losses, Messages, played
from tests.protocols.federations import Keys, make_keys, seeded_update

OUTLIER = "client-03"
Message = tuple[SignedHeader, bytes | None]
Lie = Callable[[Keys, Messages], Messages]


def one_stands_out(name: str, number: int, values: int) -> NDArray[np.float64]:
    """Seeded updates; in rounds 1 and 2 the outlier's are all at the clip."""
    drawn = seeded_update(name, number, values)
    return np.sign(drawn) if name == OUTLIER and number <= 2 else drawn


def robust_evidence(
    rounds: int = 1,
    losses: Losses | None = None,
    lie: Lie = lambda keys, messages: messages,
    rule: dict[str, Any] | None = None,
    **changes: Any,
) -> Evidence:
    """Five clients, of whom the rule removes one in the first two rounds."""
    fields: dict[str, Any] = {"suite": "clear", **robust_fields(make_keys(5), **(rule or {}))}
    fields.setdefault("limits", {"colluding": 1, "dropouts": 1})
    return played(5, rounds, losses or {}, lie, updates=one_stands_out, **{**fields, **changes})


def key_of(keys: Keys, name: str) -> IdentityKey:
    """The key that a party signs with."""
    others = {"coordinator": keys.coordinator, "validator": keys.validator}
    return others.get(name) or keys.clients[name]


def edited(
    kind: str,
    layout: type[Any] | None = None,
    *,
    sender: str | None = None,
    key: str | None = None,
    header: dict[str, Any] | None = None,
    raw: bytes | None = None,
    **fields: Any,
) -> Lie:
    """Messages of a kind (of one sender) with other fields, signed again; by ``key`` if given.  A
    field may be a function of the body, ``raw`` takes the whole body's place."""

    def change(keys: Keys, message: Message) -> Message:
        signed, body = message
        if signed.header.type != kind or sender not in (None, signed.header.sender):
            return message
        changed = replace(signed.header, **(header or {}))
        if layout is not None and body is not None:
            was = decode(layout, body)
            given = {n: v(was) if callable(v) else v for n, v in fields.items()}
            body = encode(replace(was, **given)) if raw is None else raw
            changed = replace(changed, body_hash=hashlib.sha256(body).digest())
        signer = key_of(keys, key or signed.header.sender)
        return SignedHeader(changed, signer.sign(Label.ENVELOPE, encode(changed))), body

    return lambda keys, messages: [change(keys, message) for message in messages]


def without(kind: str, sender: str | None = None) -> Lie:
    """Messages of a kind (of one sender) left out."""
    return lambda keys, messages: [
        m for m in messages if m[0].header.type != kind or sender not in (None, m[0].header.sender)
    ]


def failed_at(report: Report, step: int) -> str:
    """What a step objects to, one line each."""
    return "\n".join(f"{f.place}: {f.reason}" for f in report.step(step).failures)


def retold(evidence: Evidence, number: int, messages: Messages, **predicate: Any) -> Evidence:
    """Evidence that ends with a round of other messages (and another statement)."""
    setup, steps, close = parts_of(messages)
    transcript = make_transcript(number, setup, steps, close)
    data, before = transcript.encode(), evidence.predicates[number].previous.size
    said = replace(
        evidence.predicates[number],
        counts=count_round(transcript),
        steps=replace(
            evidence.predicates[number].steps,
            root=summarise_steps(transcript, planned=1, good=1).root,
        ),
        **predicate,
    )
    leaf = sign_statement(round_statement(said, data), evidence.keys.coordinator)
    kept = {n: told for n, told in evidence.transcripts.items() if n < number}
    return replace(
        evidence, leaves=[*evidence.leaves[:before], leaf], transcripts={**kept, number: data}
    )


def rewritten(evidence: Evidence, number: int, messages: Messages, **predicate: Any) -> Report:
    """The verdict on such evidence."""
    return retold(evidence, number, messages, **predicate).verify()


def messages_of(evidence: Evidence, number: int) -> Messages:
    """The messages of one round."""
    entries = Transcript.decode(evidence.transcripts[number]).entries
    return [(entry.signed, entry.body) for entry in entries]
