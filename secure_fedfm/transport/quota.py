"""What one sender may take of the server, so that none can crowd out the others."""

from __future__ import annotations

from secure_fedfm.transport.errors import QuotaError
from secure_fedfm.transport.limits import TransportLimits


class SenderQuota:
    """Message rate and bytes of one enrolled name, over all its connections.

    The rate is a token bucket: `message_burst` tokens, refilled at `messages_per_second`.
    Bytes in flight are those in reassembly plus those waiting for receive(). ROUTER reads its
    connections in turn and cannot hold back one of them: beyond the quota messages are dropped.
    """

    def __init__(self, limits: TransportLimits, now: float) -> None:
        self._limits = limits
        self._tokens = float(limits.message_burst)
        self._refilled = now
        self._waiting_messages = 0
        self._waiting_bytes = 0

    def admit_message(self, now: float) -> None:
        """Spend one token: a message begins, or a control frame came.

        Raises:
            QuotaError: the bucket is empty.
        """
        limits = self._limits
        gained = max(0.0, now - self._refilled) * limits.messages_per_second
        self._tokens = min(float(limits.message_burst), self._tokens + gained)
        self._refilled = now
        if self._tokens < 1.0:
            raise QuotaError(
                f"more than {limits.messages_per_second:g} messages a second "
                f"after a burst of {limits.message_burst}"
            )
        self._tokens -= 1.0

    def check_bytes(self, reassembling: int, arriving: int) -> None:
        """Refuse a chunk that would put too much of this sender into memory.

        Raises:
            QuotaError: bytes in flight or unread messages over the limit.
        """
        limits = self._limits
        held = self._waiting_bytes + reassembling + arriving
        if held > limits.max_bytes_in_flight:
            raise QuotaError(f"{held} bytes in flight, the limit is {limits.max_bytes_in_flight}")
        if self._waiting_messages >= limits.max_waiting_messages:
            raise QuotaError(
                f"{self._waiting_messages} messages wait to be read, "
                f"the limit is {limits.max_waiting_messages}"
            )

    def message_waits(self, size: int) -> None:
        """A whole message entered the queue."""
        self._waiting_messages += 1
        self._waiting_bytes += size

    def message_taken(self, size: int) -> None:
        """The service received it."""
        self._waiting_messages -= 1
        self._waiting_bytes -= size
