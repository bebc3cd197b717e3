"""Step 4, the shape of a round and of each of its steps: which messages it may have, from whom, and
in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedfm_audit.charter_view import CharterView
from fedfm_audit.entries import (
    CLOSE_MESSAGES,
    COORDINATOR_MESSAGES,
    MESSAGE_ORDER,
    ROBUST_MESSAGES,
    SETUP_MESSAGES,
    STEP_MESSAGES,
    VALIDATOR_MESSAGES,
)
from fedfm_audit.messages import KEYS
from fedfm_audit.steps.round_checks import Checks, RoundChecks, senders

MAX_ACTIVE_SETS = 2
"""The key sum of a step may be asked of one active set, and of one other if that does not answer in
full."""

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
_UPLOADS, _WITH_UPLOADS = frozenset({"WrappedKey", "Upload"}), "BeaconNonce"
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
    if not charter.robust:
        absent |= ROBUST_MESSAGES
    return tuple(name for name in MESSAGE_ORDER if name not in absent)


def check_shape(checks: RoundChecks) -> None:
    """Every message where it may be: of a type that this round has, from the role that may send it,
    as often as it may, and none without its basis."""
    order = message_order(checks.evidence.opened.kind, checks.charter)
    completed = checks.evidence.predicate.outcome == "completed"
    planned = checks.evidence.opened.steps
    checks.expect(
        checks.recorded <= planned, f"{checks.recorded} steps, RoundOpen planned {planned}"
    )
    _check_senders(checks, (*SETUP_MESSAGES, *CLOSE_MESSAGES))
    setup = [kind for kind in order if kind in SETUP_MESSAGES]
    _check_order(checks, SETUP_MESSAGES, setup, whole=completed or checks.recorded > 0)
    within = [kind for kind in order if kind in STEP_MESSAGES]
    opened = within[: within.index("Aggregate") + 1] if "Aggregate" in within else within
    # A completed round has one good step at least, whatever its statement says.
    good = max(checks.evidence.predicate.steps.good, int(completed))
    for step in checks.steps():
        _check_senders(step, STEP_MESSAGES)
        _check_order(step, STEP_MESSAGES, within, whole=step.step < good)
        if step.step + 1 < checks.recorded:
            _check_present(step, opened, "though a later step was begun")
    checks.expect(
        checks.recorded > 0 or not completed, f"no {', '.join(within)}, though the round went on"
    )
    checks.expect(bool(checks.of("RoundClose")), "no RoundClose")


def _check_senders(checks: Checks, kinds: Sequence[str]) -> None:
    coordinator, validator = checks.charter.coordinator.name, checks.charter.validator
    clients = set(checks.charter.clients)
    for kind in kinds:
        names = senders(checks.of(kind))
        most = _MOST.get(kind, 1)
        if kind in VALIDATOR_MESSAGES:
            judge = "" if validator is None else validator.name
            checks.expect(set(names) <= {judge}, f"{kind} not from {judge or 'a validator'}")
            checks.expect(len(names) <= 1, f"{len(names)} {kind} messages, expected one")
        elif kind in COORDINATOR_MESSAGES:
            checks.expect(set(names) <= {coordinator}, f"{kind} not from {coordinator}")
            allowed = "one" if most == 1 else f"at most {most}"
            checks.expect(
                most is None or len(names) <= most,
                f"{len(names)} {kind} messages, expected {allowed}",
            )
        else:
            checks.expect(coordinator not in names, f"{kind} from the coordinator")
            others = sorted(set(names) - clients - {coordinator})
            checks.expect(not others, f"{kind} of {', '.join(others)}, no client")
            counted = Counter(names)
            repeated = sorted(n for n in counted if most is not None and counted[n] > most)
            often = "one" if most == 1 else str(most)
            checks.expect(not repeated, f"{', '.join(repeated)} sent more than {often} {kind}")


def _check_order(
    checks: Checks, kinds: Sequence[str], order: Sequence[str], *, whole: bool
) -> None:
    """Of these ``kinds`` only those in ``order``, up to the last one without a gap; all of them
    where the ``whole`` is needed."""
    described = (
        f"round of kind {checks.evidence.opened.kind!r} in suite {checks.charter.suite} with "
        f"{checks.thresholds.clients} clients"
    )
    for kind in kinds:
        checks.expect(
            kind in order or not checks.of(kind), f"{kind} in a {described}, which has none"
        )
    present = [kind for kind in order if checks.of(kind)]
    reached = order.index(present[-1]) + 1 if present else 0
    needed = order if whole else order[:reached]
    if not whole and present and present[-1] == _WITH_UPLOADS:
        # A nonce is sent behind the upload, and may arrive where no upload does.
        needed = [kind for kind in needed if kind not in _UPLOADS]
    _check_present(checks, needed, "though the round went on")


def _check_present(checks: Checks, kinds: Sequence[str], why: str) -> None:
    missing = [kind for kind in kinds if not checks.of(kind)]
    checks.expect(not missing, f"no {', '.join(missing)}, {why}")
