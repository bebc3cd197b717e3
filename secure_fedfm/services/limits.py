"""Transport limits that follow from the charter: no message is larger than its largest upload."""

from __future__ import annotations

from fedfm_protocols.context import TRAIN
from fedfm_protocols.federation import Federation
from secure_fedfm.transport.limits import LARGEST_MESSAGE_BYTES, TransportLimits

# Room for the other messages: rosters and share deliveries grow with the roster.
OVERHEAD_BYTES = 1 << 20
PER_CLIENT_BYTES = 16_384
# With encryption a client's public share and key share (KeyDelivery), or its wrapped key
# (KeyRequest), are in a message to everyone.
PER_CLIENT_ENCRYPTED_BYTES = 400_000
# The bulk layer's polynomial: its lanes hold 96 bits, its coefficients 108 (protocols/README.md,
# "The bulk layer"; fedfm_crypto.lattice would bring numba into services that do without it).
# What a client offers and deals for each step of a session: keys, sealed shares, commitments.
PER_STEP_BYTES = 320
POLYNOMIAL_WORDS, WORD_BITS, POLYNOMIAL_BYTES = 4096, 96, 55_296
# Sketches, keys and reports of a robust round; of its scores a pair of clients has one, with up to
# eight groups (secure_fedfm.robust.charter_rule has the bound on all of them).
PER_CLIENT_ROBUST_BYTES, PER_PAIR_BYTES = 100_000, 41_000
ROBUST_OVERHEAD_BYTES = 1 << 20
# Messages of the largest size that one sender may have here: one that is being taken, one that
# waits, and one that a reconnect sends again.
LARGEST_IN_FLIGHT = 3


def limits_for(federation: Federation) -> TransportLimits:
    """Limits for a federation: an upload, an aggregate or a missed round, which holds the sums of
    all its steps, is the largest."""
    quantiser, clients = federation.charter.quantiser, len(federation.charter.roster)
    steps = federation.steps_of(TRAIN)
    per_client = PER_CLIENT_BYTES + steps * PER_STEP_BYTES
    if federation.encrypted:
        words = -(-quantiser.values // (WORD_BITS // quantiser.lane_bits))
        upload = -(-words // POLYNOMIAL_WORDS) * POLYNOMIAL_BYTES
        others = OVERHEAD_BYTES + clients * (per_client + PER_CLIENT_ENCRYPTED_BYTES)
    else:
        upload = quantiser.values * (quantiser.lane_bits // 8)
        others = OVERHEAD_BYTES + clients * per_client
    largest = others + steps * upload
    if federation.robust:
        scores = clients * (clients + 1) // 2 * PER_PAIR_BYTES
        judged = ROBUST_OVERHEAD_BYTES + clients * PER_CLIENT_ROBUST_BYTES + scores
        largest = max(largest, judged)
    largest = min(largest, LARGEST_MESSAGE_BYTES)
    return TransportLimits(
        max_message_bytes=largest, max_bytes_in_flight=LARGEST_IN_FLIGHT * largest
    )
