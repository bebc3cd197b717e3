"""Every bound of the transport in one frozen value.

libzmq's own defaults are unlimited frames and 1000 messages per queue. MAXMSGSIZE is per frame
and HWM counts messages, so neither bounds a message that comes in chunks: those bounds are ours
(framing.py, quota.py). Figures: design/PARAMETERS.md, "ZeroMQ".
"""

from __future__ import annotations

from dataclasses import dataclass

from secure_fedfm.transport.errors import LimitsError

MIB = 1024 * 1024
LARGEST_CHUNK_BYTES = 4 * MIB
LARGEST_FRAME_BYTES = 8 * MIB
LARGEST_MESSAGE_BYTES = 1024 * MIB
FRAME_OVERHEAD_BYTES = 1024  # our header and CURVE's box, generously


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Bounds that one side of a connection enforces. Sizes in bytes, times in seconds.

    max_frame_bytes        libzmq drops the connection of whoever sends a larger frame
    chunk_bytes            how large our own chunks are; libzmq may hold high_water_mark of them for
                           each peer and direction, so these two bound what a slow peer costs
    min_chunk_bytes        smallest chunk accepted in a message of several chunks
    max_message_bytes      whole message, after reassembly
    high_water_mark        frames queued in libzmq per connection and direction
    handshake_interval     a handshake not finished by then is cut
    heartbeat_interval     how often libzmq pings an idle peer, and routes are probed
    heartbeat_timeout      silence after which a peer is gone
    linger                 how long stop() waits for frames that are still queued
    stall_timeout          how long send() waits for a peer that reads nothing
    incomplete_timeout     how long a message may lack its next chunk
    max_incomplete         messages of one sender in reassembly at a time
    max_waiting_messages   whole messages of one sender that nobody has received yet
    max_bytes_in_flight    bytes of one sender in reassembly or waiting, in memory and on disk
    spool_above_bytes      larger messages lie on disk until they are taken (spool.py)
    max_memory_bytes       smaller ones of one sender, together; beyond it they go to disk too
    max_spooled            messages of one sender on disk, each of which keeps a file open
    disk_reserve_bytes     free disk space that no message may use up
    messages_per_second    sustained rate of one sender; `message_burst` on top
    """

    max_frame_bytes: int = 2 * MIB
    chunk_bytes: int = 128 * 1024
    min_chunk_bytes: int = 64 * 1024
    max_message_bytes: int = LARGEST_MESSAGE_BYTES
    high_water_mark: int = 16
    handshake_interval: float = 5.0
    heartbeat_interval: float = 5.0
    heartbeat_timeout: float = 15.0
    linger: float = 1.0
    stall_timeout: float = 30.0
    incomplete_timeout: float = 60.0
    max_incomplete: int = 4
    max_waiting_messages: int = 256
    max_bytes_in_flight: int = 1280 * MIB
    spool_above_bytes: int = 1 * MIB
    max_memory_bytes: int = 4 * MIB
    max_spooled: int = 8
    disk_reserve_bytes: int = 64 * MIB
    messages_per_second: float = 100.0
    message_burst: int = 400

    def __post_init__(self) -> None:
        """Refuse limits that contradict each other.

        Raises:
            LimitsError: names the field, its value and the rule.
        """
        positive = (
            "max_frame_bytes chunk_bytes min_chunk_bytes max_message_bytes handshake_interval "
            "heartbeat_interval heartbeat_timeout stall_timeout incomplete_timeout max_incomplete "
            "max_waiting_messages max_bytes_in_flight messages_per_second message_burst "
            "max_spooled"
        )
        for field in positive.split():
            self._require(getattr(self, field) > 0, field, "must be above zero")
        self._require(
            self.max_frame_bytes <= LARGEST_FRAME_BYTES, "max_frame_bytes", "must be <= 8 MiB"
        )
        self._require(self.chunk_bytes <= LARGEST_CHUNK_BYTES, "chunk_bytes", "must be <= 4 MiB")
        self._require(
            self.chunk_bytes + FRAME_OVERHEAD_BYTES <= self.max_frame_bytes,
            "chunk_bytes",
            f"must leave {FRAME_OVERHEAD_BYTES} bytes within max_frame_bytes",
        )
        self._require(
            self.min_chunk_bytes <= self.chunk_bytes, "min_chunk_bytes", "must be <= chunk_bytes"
        )
        self._require(
            self.max_message_bytes <= LARGEST_MESSAGE_BYTES, "max_message_bytes", "must be <= 1 GiB"
        )
        self._require(16 <= self.high_water_mark <= 64, "high_water_mark", "must be 16 to 64")
        self._require(0 <= self.linger <= 60, "linger", "must be 0 to 60 seconds (bounded)")
        self._require(
            self.heartbeat_timeout >= self.heartbeat_interval,
            "heartbeat_timeout",
            "must be >= heartbeat_interval",
        )
        self._require(
            self.max_bytes_in_flight >= self.max_message_bytes,
            "max_bytes_in_flight",
            "must be >= max_message_bytes, or the largest message never fits",
        )
        self._require(self.spool_above_bytes >= 0, "spool_above_bytes", "must not be negative")
        self._require(self.disk_reserve_bytes >= 0, "disk_reserve_bytes", "must not be negative")
        self._require(
            self.max_memory_bytes >= self.spool_above_bytes,
            "max_memory_bytes",
            "must be >= spool_above_bytes, or it decides alone",
        )

    def _require(self, condition: bool, field: str, rule: str) -> None:
        if not condition:
            raise LimitsError(f"transport limit {field}={getattr(self, field)!r}: {rule}")
