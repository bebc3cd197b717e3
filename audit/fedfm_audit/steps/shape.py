"""Step 4, the shape of a round: which messages it may have, from whom, and in which order."""

from __future__ import annotations

from fedfm_audit.charter_view import CharterView
from fedfm_audit.messages import KEYS
from fedfm_audit.steps.round_checks import RoundChecks, senders
from fedfm_audit.transcript import COORDINATOR_MESSAGES, MESSAGE_ORDER

MAX_ACTIVE_SETS = 2
"""A key sum may be asked of one active set, and of one other if that does not answer in full."""

_KEYS_MESSAGES = (
    "RoundOpen",
    "KeyOffer",
    "KeyRoster",
    "KeyDealing",
    "KeyDelivery",
    "RoundAck",
    "RoundClose",
)
_SPARSE_ONLY = frozenset({"GraphNonce", "GraphNonces"})
_ENCRYPTED_ONLY = frozenset({"WrappedKey", "KeyRequest", "KeyOpening"})
_DEALING = frozenset({"KeyDealing", "KeyDelivery"})
# More than one of these by one sender: one delivery a recipient, one request or opening a set.
_MOST = {
    "ShareDelivery": None,
    "KeyDelivery": None,
    "KeyRequest": MAX_ACTIVE_SETS,
    "KeyOpening": MAX_ACTIVE_SETS,
}


def message_order(kind: str, charter: CharterView) -> tuple[str, ...]:
    """The messages of a round of this kind in the charter's suite, in their order."""
    if kind == KEYS:
        return _KEYS_MESSAGES
    absent = set(_DEALING)
    if not (charter.masked and charter.thresholds.sparse):
        absent |= _SPARSE_ONLY
    if not charter.encrypted:
        absent |= _ENCRYPTED_ONLY
    return tuple(name for name in MESSAGE_ORDER if name not in absent)


def check_senders(checks: RoundChecks) -> None:
    """Each message from the role that may send it, as often as it may, in the one step."""
    coordinator = checks.charter.coordinator.name
    for kind in MESSAGE_ORDER:
        entries = checks.of(kind)
        names = senders(entries)
        most = _MOST.get(kind, 1)
        if kind in COORDINATOR_MESSAGES:
            checks.expect(set(names) <= {coordinator}, f"{kind} not from {coordinator}")
            allowed = "one" if most == 1 else f"at most {most}"
            checks.expect(
                most is None or len(names) <= most,
                f"{len(names)} {kind} messages, expected {allowed}",
            )
        else:
            checks.expect(coordinator not in names, f"{kind} from the coordinator")
            repeated = sorted({n for n in names if most is not None and names.count(n) > most})
            often = "one" if most == 1 else str(most)
            checks.expect(not repeated, f"{', '.join(repeated)} sent more than {often} {kind}")
        steps = {entry.header.step for entry in entries}
        checks.expect(steps <= {0}, f"{kind} of step {max(steps, default=0)}, expected 0")


def check_order(checks: RoundChecks) -> None:
    """Nothing without its basis; a completed round went all the way."""
    evidence = checks.evidence
    order = message_order(evidence.opened.kind, checks.charter)
    described = (
        f"round of kind {evidence.opened.kind!r} in suite {checks.charter.suite} with "
        f"{checks.thresholds.clients} clients"
    )
    for kind in sorted(set(MESSAGE_ORDER) - set(order)):
        checks.expect(not checks.of(kind), f"{kind} in a {described}, which has none")
    present = [kind for kind in order[:-1] if checks.of(kind)]
    reached = order.index(present[-1]) + 1 if present else 0
    if evidence.predicate.outcome == "completed":
        reached = len(order) - 1
    missing = [kind for kind in order[:reached] if kind not in present]
    checks.expect(not missing, f"no {', '.join(missing)}, though the round went on")
    checks.expect(bool(checks.of("RoundClose")), "no RoundClose")
