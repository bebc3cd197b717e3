"""Step 4, a round of kind ``keys``: everybody deals a part of one collective key.

The parts themselves are secret, so what an auditor sees is who dealt, that the commitments were
fixed before anybody's part was known, and that a quorum stored one and the same key.
Source: protocols/README.md, "Key epochs".
"""

from __future__ import annotations

from fedfm_audit.messages import NO_HASH, RoundAck
from fedfm_audit.steps.round_checks import RoundChecks, senders
from fedfm_audit.transcript import read_body


def check_keys_round(checks: RoundChecks) -> None:
    """Commitments, dealing and acknowledgements of a key generation."""
    _check_commitments(checks)
    _check_dealing(checks)
    _check_acks(checks)


def _check_commitments(checks: RoundChecks) -> None:
    owners: dict[bytes, str] = {}
    for name, offer in checks.offers().items():
        checks.expect(not offer.steps, f"{name} offers mask keys, which no key generation uses")
        commitment = offer.key_commitment
        checks.expect(commitment != NO_HASH, f"{name} commits to no part of the key")
        first = owners.setdefault(commitment, name)
        checks.expect(
            commitment == NO_HASH or first == name,
            f"{name} commits to the same part of the key as {first}",
        )


def _check_dealing(checks: RoundChecks) -> None:
    """Dealers are those of the key roster who may hold the key, and enough of them."""
    dealers = sorted(senders(checks.of("KeyDealing")))
    holders = checks.thresholds.holders_to_be(checks.offerers)
    checks.expect_within("KeyDealing", holders, "those who may hold the key")
    deliveries = checks.of("KeyDelivery")
    if deliveries:
        checks.at_least(len(dealers), checks.thresholds.min_key_dealers, "dealers of the key")
        checks.expect(
            len(deliveries) == len(checks.offerers),
            f"{len(deliveries)} KeyDelivery messages to {len(checks.offerers)} on the key roster",
        )
    key = checks.evidence.predicate.key
    if key is not None:
        checks.expect(
            list(key.holders) == dealers,
            f"the statement says that {', '.join(key.holders)} hold the key, which "
            f"{', '.join(dealers)} dealt",
        )


def _check_acks(checks: RoundChecks) -> None:
    """Each acknowledgement is of a stored key, and repeats the adapter that the round leaves."""
    acks, predicate = checks.of("RoundAck"), checks.evidence.predicate
    checks.expect_within("RoundAck", checks.offerers, "those on the key roster")
    adapter = checks.evidence.opened.adapter_hash
    for entry in acks:
        checks.expect(
            read_body(entry, RoundAck).adapter_hash == adapter,
            f"{entry.header.sender} acknowledges another adapter than RoundOpen's",
        )
    stored = [entry.header.refers_to.hex() for entry in acks]
    quorum = checks.thresholds.vote_quorum
    if predicate.outcome == "completed" and predicate.key is not None:
        key_hash = predicate.key.hash
        checks.at_least(stored.count(key_hash), quorum, f"acknowledgements of key {key_hash}")
    elif predicate.outcome == "void":
        most = max((stored.count(key) for key in stored), default=0)
        checks.expect(most < quorum, f"void, though {most} clients acknowledge one key")
