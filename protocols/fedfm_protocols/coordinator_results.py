"""How the coordinator comes from a proven cohort to a result: steps 11 to 14 of
protocols/README.md.

With encryption it never sees the sum: it takes the masks off a ciphertext, asks an active set of
key holders for openings that only clients can read, and passes both on.
"""

from __future__ import annotations

from dataclasses import replace

from fedfm_crypto.codec import encode
from fedfm_protocols.context import NO_HASH, active_hash
from fedfm_protocols.coordinator_round import StepSum
from fedfm_protocols.coordinator_speech import complete, finish, over, shortened, tell
from fedfm_protocols.coordinator_states import (
    Acking,
    Committing,
    CoordinatorContext,
    CoordinatorState,
    Decrypting,
    Reporting,
    Unmasking,
)
from fedfm_protocols.effects import Transition
from fedfm_protocols.encryption import MAX_ACTIVE_SETS
from fedfm_protocols.errors import RoundAborted
from fedfm_protocols.key_messages import KeyRequest
from fedfm_protocols.messages import Aggregate, body_hash


def open_sum(
    context: CoordinatorContext, state: Unmasking, forced: bool
) -> Transition[CoordinatorState]:
    """Step 11: take the masks off; then publish, or have the key sum opened first."""
    current, federation = state.round, context.site.federation
    shortage = state.opening.shortage(len(state.reveals), state.usable)
    if shortage:
        if over(current, state.group.dealers, state.reveals, forced):
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
        state.group,
        state.cohort,
        state.cohort_hash,
        wraps=tuple(state.wraps[name].encode() for name in state.cohort.accepted if state.wraps),
        candidates=tuple(there),
        attempt=0,
        active=(),
        active_hash=NO_HASH,
        openings={},
        words=words,
        judged=state.judged,
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
    dealers = state.group.dealers
    current, sends = tell(context, state.round, dealers, aggregate, state.cohort_hash)
    result = StepSum(current.step, state.cohort, encode(aggregate), body_hash(aggregate), acks={})
    if state.judged is not None:  # nobody applies it before it is bound to what was judged
        return Transition(Reporting(current, result, state.judged, reports={}), sends)
    if current.step + 1 == current.identity.steps:
        return Transition(Acking(current, result), sends)
    group = state.group.only(state.cohort.accepted)
    return Transition(Committing(current.next_step(), group, result, hashes={}, owners={}), sends)


def conclude(
    context: CoordinatorContext, state: Acking, forced: bool
) -> Transition[CoordinatorState]:
    """Step 14 of the last step: completed if a quorum acknowledges one adapter."""
    result, needed = state.result, context.site.federation.thresholds.vote_quorum
    if not over(state.round, result.everyone, result.acks, forced):
        return Transition(state)
    adapter, agreeing = result.most_agree()
    if agreeing < needed:
        return void(context, state, result, needed)
    good = result.good(adapter, state.round.good)
    dissenters = good.dissenters
    reason = f"{', '.join(dissenters)} computed another adapter" if dissenters else ""
    if state.deviators:
        told = f"{', '.join(state.deviators)} reported another sketch of the sum"
        reason = f"{reason}; {told}" if reason else told
    return complete(context, state.round, good, reason)


def void(
    context: CoordinatorContext, state: Acking | Committing, result: StepSum, needed: int
) -> Transition[CoordinatorState]:
    """No quorum acknowledges one adapter: this step did not happen."""
    adapter, agreeing = result.most_agree()
    dissenters = [name for name in sorted(result.acks) if result.adapter_of(name) != adapter]
    said = f" ({', '.join(dissenters)} disagree)" if dissenters else ""
    reason = f"{agreeing} clients acknowledge one adapter, {needed} are needed{said}"
    return finish(context, state, "void", reason)
