"""Verifying a signed set once for many simulated clients.

Every client of a real federation verifies every signature of every set for itself.  A simulation
of a thousand of them in one process would verify the same million signatures; it may open each
distinct set once and hand the result to the others, as long as what they would have spent is
counted for each of them.  Nothing but ``simulation`` uses this.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.checks import open_signed_set
from fedfm_protocols.federation import Federation

B = TypeVar("B")

# Sets remembered at a time: a round has five, and one client may be a message behind another.
_REMEMBERED = 8


class SharedSets:
    """Opens signed sets as :func:`~fedfm_protocols.checks.open_signed_set` does, the same set once.

    A set is the same if its bytes and everything it is held against are.  Refusals are not
    remembered: they are found again, by the real check, for everyone.

    Source: protocols/README.md, section "Sets".
    """

    def __init__(self) -> None:
        self._opened: OrderedDict[object, tuple[dict[str, Any], float]] = OrderedDict()
        self._spared_s = 0.0

    def __call__(
        self,
        encoded: Sequence[bytes],
        expected: type[B],
        *,
        federation: Federation,
        allowed: Collection[str],
        context: bytes,
        step: int,
    ) -> dict[str, tuple[Envelope, B]]:
        """Senders with envelope and body; raises what ``open_signed_set`` raises."""
        everything = (
            expected,
            tuple(encoded),
            federation.charter_hash,
            frozenset(allowed),
            context,
            step,
        )
        known = self._opened.get(everything)
        if known is not None:
            members, cost = known
            self._spared_s += cost
            return dict(members)
        started = time.process_time()
        members = open_signed_set(
            encoded,
            expected,
            federation=federation,
            allowed=frozenset(allowed),
            context=context,
            step=step,
        )
        self._opened[everything] = (members, time.process_time() - started)
        if len(self._opened) > _REMEMBERED:
            self._opened.popitem(last=False)
        return dict(members)

    def take_spared(self) -> float:
        """Processor seconds that verifying would have cost since the last call."""
        spared, self._spared_s = self._spared_s, 0.0
        return spared
