"""How the coordinator comes from a proven cohort to a result: steps 11 to 14 of
protocols/README.md.

With encryption it never sees the sum: it takes the masks off a ciphertext, asks an active set of
key holders for openings that only clients can read, and passes both on.
"""

from __future__ import annotations

from dataclasses import replace

from fedfm_crypto.codec import encode
from fedfm_protocols.context import NO_HASH, active_hash
from fedfm_protocols.coordinator_speech import ended, finish, over, shortened, tell
from fedfm_protocols.coordinator_states import (
    Acking,
    CompletedRound,
    CoordinatorContext,
    CoordinatorState,
    Decrypting,
    Finished,
    Unmasking,
)
from fedfm_protocols.effects import Transition
from fedfm_protocols.errors import RoundAborted
from fedfm_protocols.key_messages import KeyRequest
from fedfm_protocols.messages import Aggregate, RoundAck, RoundClose, body_hash, read_body

MAX_ACTIVE_SETS = 2


def open_sum(
    context: CoordinatorContext, state: Unmasking, forced: bool
) -> Transition[CoordinatorState]:
    """Step 11: take the masks off; then publish, or have the key sum opened first."""
    current, federation = state.round, context.site.federation
    shortage = state.opening.shortage(len(state.reveals), state.usable)
    if shortage:
        if over(current, state.dealers, state.reveals, forced):
            return finish(context, state, "aborted", shortage)
        return Transition(state)
    try:
        words = state.opening.peel(context.encryption, state.total, state.reveals)
    except RoundAborted as error:
        return finish(context, state, "aborted", str(error))
    holders = () if current.key is None else current.key.holders
    # Whoever voted and revealed is there; of them, those who hold a share.
    there = [name for name in holders if name in state.voters and name in state.reveals]
    decrypting = Decrypting(
        current,
        state.roster_hash,
        state.dealers,
        state.cohort,
        state.cohort_hash,
        wraps=tuple(state.wraps[name].encode() for name in state.cohort.accepted if state.wraps),
        candidates=tuple(there),
        attempt=0,
        active=(),
        active_hash=NO_HASH,
        openings={},
        words=words,
    )
    if federation.encrypted:
        return _request_keys(context, decrypting)
    return _publish(context, decrypting)


def _request_keys(context: CoordinatorContext, state: Decrypting) -> Transition[CoordinatorState]:
    """Ask one active set: exactly as many as it takes, all still there."""
    current, needed = state.round, context.site.federation.thresholds.key_threshold
    usable = [name for name in state.candidates if name not in current.gone]
    if len(usable) < needed:
        reason = f"{len(usable)} holders of the key are there, {needed} are needed"
        return finish(context, state, "aborted", reason)
    active = tuple(usable[:needed])
    digest = active_hash(current.context, current.step, state.cohort_hash, active)
    request = KeyRequest(active, state.wraps)
    current, sends = tell(context, current, active, request, digest)
    asked = replace(
        state,
        round=current,
        attempt=state.attempt + 1,
        active=active,
        active_hash=digest,
        openings={},
    )
    return Transition(asked, sends)


def publish_sum(
    context: CoordinatorContext, state: Decrypting, forced: bool
) -> Transition[CoordinatorState]:
    """Step 12, once the whole active set has answered; else one other set, and no third."""
    missing = [name for name in state.active if name not in state.openings]
    if not missing:
        return _publish(context, state)
    if not over(state.round, state.active, state.openings, forced):
        return Transition(state)
    if state.attempt >= MAX_ACTIVE_SETS:
        reason = (
            f"{', '.join(missing)} did not open the key sum, and {MAX_ACTIVE_SETS} sets of holders "
            "were asked: no third may touch the same ciphertext"
        )
        return finish(context, state, "aborted", shortened(reason))
    candidates = tuple(name for name in state.candidates if name not in missing)
    return _request_keys(context, replace(state, candidates=candidates))


def _publish(context: CoordinatorContext, state: Decrypting) -> Transition[CoordinatorState]:
    aggregate = Aggregate(
        salt=context.random(32),
        accepted=len(state.cohort.accepted),
        words=state.words,
        openings=tuple(state.openings[name].encode() for name in sorted(state.openings)),
    )
    current, sends = tell(context, state.round, state.dealers, aggregate, state.cohort_hash)
    acking = Acking(
        current,
        state.roster_hash,
        state.cohort,
        aggregate=encode(aggregate),
        aggregate_hash=body_hash(aggregate),
        acks={},
    )
    return Transition(acking, sends)


def conclude(
    context: CoordinatorContext, state: Acking, forced: bool
) -> Transition[CoordinatorState]:
    """Step 14: completed if a quorum acknowledges one adapter, void if not."""
    current, needed = state.round, context.site.federation.thresholds.vote_quorum
    dealers = set(state.cohort.accepted) | set(state.cohort.removed)
    if not over(current, dealers, state.acks, forced):
        return Transition(state)
    by_hash: dict[bytes, list[str]] = {}
    for name, envelope in sorted(state.acks.items()):
        by_hash.setdefault(read_body(envelope, RoundAck).adapter_hash, []).append(name)
    adapter, agreeing = max(
        by_hash.items(), key=lambda item: len(item[1]), default=(NO_HASH, list[str]())
    )
    dissenters = tuple(sorted(set(state.acks) - set(agreeing)))
    if len(agreeing) < needed:
        said = f" ({', '.join(dissenters)} disagree)" if dissenters else ""
        return finish(
            context,
            state,
            "void",
            f"{len(agreeing)} clients acknowledge one adapter, {needed} are needed{said}",
        )
    acks = tuple(state.acks[name].encode() for name in sorted(state.acks))
    reason = f"{', '.join(dissenters)} computed another adapter" if dissenters else ""
    reason = shortened(reason)
    close = RoundClose("completed", reason, adapter, acks)
    current, sends = tell(context, current, current.identity.invited, close)
    record = CompletedRound(
        opened=current.opened.encode(),
        roster_hash=state.roster_hash,
        key_hash=NO_HASH if current.key is None else current.key.key_hash,
        aggregate=state.aggregate,
        acks=acks,
    )
    finished = Finished(
        current,
        "completed",
        reason,
        adapter,
        state.cohort.accepted,
        state.cohort.removed,
        dissenters,
        record,
    )
    return Transition(finished, (*sends, ended(finished)))
