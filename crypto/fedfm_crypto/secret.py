"""``Secret``: bytes that do not print, do not pickle and do not compare in variable time."""

from __future__ import annotations

import hmac
from typing import NoReturn

from fedfm_crypto.errors import InvalidKeyError

__all__ = ["Secret"]


class Secret:
    """Secret bytes behind one deliberate door, :meth:`reveal`.

    ``repr``, ``str``, ``format`` and ``%`` show the length only; equality takes constant time;
    the object is unhashable (a dictionary would compare hashes in variable time), cannot be
    pickled, copied or turned into JSON, and has no ``__dict__`` for a debugger to dump.

    What this does not give: Python copies bytes freely, so erasure from memory is not guaranteed.

    Args:
        value: the bytes to hold; at least one.

    Raises:
        TypeError: ``value`` is not bytes (its content is not shown).
        InvalidKeyError: ``value`` is empty.
    """

    __slots__ = ("__value",)

    def __init__(self, value: bytes) -> None:
        if not isinstance(value, bytes):
            raise TypeError(f"a Secret holds bytes, found {type(value).__name__}")
        if not value:
            raise InvalidKeyError("a Secret must not be empty; pass the secret bytes")
        self.__value = value

    def reveal(self) -> bytes:
        """Return the secret bytes; every call is a place to look at in a review."""
        return self.__value

    def __len__(self) -> int:
        return len(self.__value)

    def __repr__(self) -> str:
        return f"<Secret of {len(self.__value)} bytes, redacted>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.__value, other.__value)

    __hash__ = None  # type: ignore[assignment]

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret refuses to be pickled or copied; pass the object itself")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a Secret refuses to give up its state; use reveal() where it is needed")
