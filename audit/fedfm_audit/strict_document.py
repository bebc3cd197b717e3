"""How documents made from a bundle are read: only the bytes that their own writer gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from fedfm_audit.errors import ProofError
from fedfm_crypto.canonical_json import canonical_decode
from fedfm_crypto.errors import FedFMError
from fedfm_crypto.strict_base64 import decode_base64


class _Written(Protocol):
    def encode(self) -> bytes: ...


_DocumentT = TypeVar("_DocumentT", bound=_Written)


def read_document(
    data: bytes, what: str, most: int, build: Callable[[object], _DocumentT]
) -> _DocumentT:
    """The document that ``build`` makes of the JSON, if it encodes to the same bytes again.

    ``what`` is how errors name it (``an inclusion document``), ``most`` its largest size in bytes.

    Raises
    ------
    ProofError
        if it is anything else.
    """
    if len(data) > most:
        raise ProofError(f"{len(data)} bytes, at most {most} are read")
    try:
        document = build(canonical_decode(data))
        same = document.encode() == data
    except ProofError:
        raise
    except (FedFMError, ValueError) as error:
        raise ProofError(f"not {what}: {error}") from error
    if not same:
        raise ProofError("the document does not re-encode to the same bytes")
    return document


def exact_fields(value: object, names: frozenset[str], where: str) -> Mapping[str, Any]:
    """``value`` as a JSON object of exactly these fields, else ProofError."""
    if not isinstance(value, dict) or value.keys() != names:
        found = sorted(value)[:16] if isinstance(value, dict) else type(value).__name__
        raise ProofError(f"{where}: found {found}, expected the fields {sorted(names)}")
    return value


def check_version(found: object, expected: int) -> None:
    """ProofError for any other version."""
    if found != expected:
        raise ProofError(f"version {found!r}, expected {expected}")


def items_of(value: object, where: str, most: int, least: int = 0) -> list[object]:
    """``value`` as a list of ``least`` to ``most`` items, else ProofError."""
    if not isinstance(value, list) or not least <= len(value) <= most:
        found = f"{len(value)} items" if isinstance(value, list) else type(value).__name__
        raise ProofError(f"{where}: found {found}, expected a list of {least} to {most} items")
    return value


def text_of(value: object, where: str) -> str:
    """``value`` as text, else ProofError."""
    if not isinstance(value, str):
        raise ProofError(f"{where}: found {type(value).__name__}, expected text")
    return value


def base64_of(value: object, where: str) -> bytes:
    """The bytes of canonical base64 text, else ProofError."""
    return decode_base64(text_of(value, where), where, ProofError)
