"""Standard base64 (RFC 4648 section 4) where each byte string has one text.

Python's decoder accepts stray low bits before the padding, so that several texts stand for the same
bytes; an attacker could then alter a file without altering what it says.
"""

from __future__ import annotations

import base64
import binascii

__all__ = ["decode_base64", "encode_base64"]


def encode_base64(data: bytes) -> str:
    """Return the standard base64 text of ``data``, padded."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str, where: str, error: type[Exception]) -> bytes:
    """Return the bytes of the one base64 text that :func:`encode_base64` writes for them.

    Args:
        text: standard alphabet, padded.
        where: what the text is, for the message.
        error: the exception to raise.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise error(f"{where} is no standard base64") from None
    if encode_base64(data) != text:
        raise error(f"{where} is base64 with stray bits, expected {encode_base64(data)[-8:]!r}")
    return data
