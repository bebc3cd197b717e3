"""Transport limits that follow from the charter: no message is larger than its largest upload."""

from __future__ import annotations

from fedfm_protocols.federation import Federation
from secure_fedfm.transport.limits import TransportLimits

# Room for the other messages: rosters and share deliveries grow with the roster.
OVERHEAD_BYTES = 1 << 20
PER_CLIENT_BYTES = 16_384


def limits_for(federation: Federation) -> TransportLimits:
    """Limits for a federation: an upload, an aggregate or a missed round is the largest."""
    charter = federation.charter
    upload = charter.quantiser.values * (charter.quantiser.lane_bits // 8)
    largest = OVERHEAD_BYTES + len(charter.roster) * PER_CLIENT_BYTES + upload
    return TransportLimits(max_message_bytes=min(largest, 1 << 30))
