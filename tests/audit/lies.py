"""Changes to a synthetic round's messages, and how to read what the verifier says about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fedfm_audit.messages import KeyOffer, RoundClose, RoundOpen, UploadHash
from fedfm_audit.report import Report
from fedfm_crypto.codec import decode, encode
from tests.audit.played_round import Change, Message


def reasons(report: Report, step: int) -> str:
    """Everything that a step objects to, one line each."""
    return "\n".join(f"{f.place}: {f.reason}" for f in report.step(step).failures)


def only(kind: str, edit: Callable[[Message], Message | None], sender: str | None = None) -> Change:
    """Edit the messages of one kind (and one sender)."""

    def change(message: Message) -> Message | None:
        if message.kind == kind and sender in (None, message.sender):
            return edit(message)
        return message

    return change


def drop(kind: str, sender: str | None = None) -> Change:
    """Messages of one kind never happen."""
    return only(kind, lambda message: None, sender)


def both(*changes: Change) -> Change:
    """One change after the other."""

    def change(message: Message) -> Message | None:
        changed: Message | None = message
        for each in changes:
            changed = None if changed is None else each(changed)
        return changed

    return change


def at(step: int, change: Change) -> Change:
    """A change of one step's messages only."""
    return lambda message: change(message) if message.step == step else message


def _fields(kind: str, layout: type[Any], sender: str | None, fields: dict[str, Any]) -> Change:
    def edit(message: Message) -> Message:
        return replace(message, body=encode(replace(decode(layout, message.body), **fields)))

    return only(kind, edit, sender)


def opening(**fields: Any) -> Change:
    """RoundOpen with other fields; contexts then disagree, as they must."""
    return _fields("RoundOpen", RoundOpen, None, fields)


def offering(sender: str | None = None, **fields: Any) -> Change:
    """KeyOffers (of one sender) with other fields."""
    return _fields("KeyOffer", KeyOffer, sender, fields)


def committing(sender: str | None = None, **fields: Any) -> Change:
    """UploadHashes (of one sender) with other fields."""
    return _fields("UploadHash", UploadHash, sender, fields)


def closing(**fields: Any) -> Change:
    """RoundClose with other fields."""
    return _fields("RoundClose", RoundClose, None, fields)
