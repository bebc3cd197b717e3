"""The coordinator in robust rounds: from uploads to a cohort that the validator decided on, and
from an opened sum to the validator's check of it.

Steps 5 to 8 and 13 of protocols/README.md.  It computes on sketches that it cannot read, adds the
uploads only when it knows whose, and passes on what the validator signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CryptoError
from fedfm_protocols.coordinator_speech import abort, finish, over, shortened, tell
from fedfm_protocols.coordinator_states import (
    Acking,
    Comparing,
    CoordinatorContext,
    CoordinatorState,
    JudgedSum,
    Judging,
    Measuring,
    Reporting,
    Scoring,
    Uploading,
    Voting,
)
from fedfm_protocols.effects import ComputeScores, Effect, ScoresComputed, Send, Transition
from fedfm_protocols.errors import BelowThreshold, OutOfOrder, RoundAborted
from fedfm_protocols.messages import Cohort, body_hash
from fedfm_protocols.robust_messages import BeaconNonces, BindingRequest, ScoreRequest
from fedfm_protocols.summing import Total, add_upload


def publish_nonces(
    context: CoordinatorContext, state: Uploading, forced: bool
) -> Transition[CoordinatorState]:
    """Step 5: whoever has uploaded and opened its nonce is a candidate."""
    current, needed = state.round, context.site.federation.thresholds.min_accepted
    candidates = sorted(state.kept.keys() & state.nonces.keys())
    if not over(current, state.hashes, candidates, forced):
        return Transition(state)
    if len(candidates) < needed:
        return abort(context, state, "uploaded and opened their nonces", len(candidates), needed)
    nonces = BeaconNonces(tuple(state.nonces[name].encode() for name in candidates))
    current, sends = tell(context, current, state.group.dealers, nonces, state.upload_set)
    uploads = {name: state.kept[name] for name in candidates}
    measuring = Measuring(
        current, state.group, state.upload_set, nonces, uploads, state.wraps, {}, {}
    )
    return Transition(measuring, sends)


def compute_scores(
    context: CoordinatorContext, state: Measuring, forced: bool
) -> Transition[CoordinatorState]:
    """Step 6 is over: have the sketches multiplied, by somebody with time for it."""
    current, needed = state.round, context.site.federation.thresholds.min_accepted
    if not over(current, state.uploads, state.sketches, forced):
        return Transition(state)
    if len(state.sketches) < needed:
        return abort(context, state, "sent a sketch", len(state.sketches), needed)
    epoch = current.need_sketch()
    compute = ComputeScores(
        current.identity.round,
        current.step,
        tuple(state.ciphertexts[name] for name in sorted(state.ciphertexts)),
        epoch.key.public_key,
        epoch.evaluation,
    )
    return Transition(Scoring(current, state), (compute,))


def ask_verdict(
    context: CoordinatorContext, state: Scoring, event: ScoresComputed
) -> Transition[CoordinatorState]:
    """Step 7: hand the validator the scores, and what shows whose they are."""
    current, measured = state.round, state.measured
    if (event.round, event.step) != (current.identity.round, current.step):
        raise OutOfOrder(
            f"scores of round {event.round} step {event.step} in round {current.identity.round} "
            f"step {current.step}"
        )
    if event.reason or not event.scores:
        reason = shortened(f"the scores could not be computed: {event.reason or 'nothing came'}")
        return finish(context, state, "aborted", reason)
    request = ScoreRequest(
        opened=current.opened.encode(),
        roster_hash=current.roster_hash,
        key_hash=current.collective_hash,
        upload_set=measured.upload_set,
        nonces=measured.nonces,
        sketches=tuple(measured.sketches[name].signed_header for name in sorted(measured.sketches)),
        scores=event.scores,
    )
    validator = context.site.federation.validator
    current, sends = tell(context, current, (validator,), request, body_hash(measured.nonces))
    return Transition(Judging(current, measured, body_hash(request), verdict=None), sends)


def out_of_time(
    context: CoordinatorContext, state: Scoring, forced: bool
) -> Transition[CoordinatorState]:
    """Step 7: scores that nobody computed in time."""
    if not forced:
        return Transition(state)
    return finish(context, state, "aborted", "the scores of the sketches were not there in time")


def propose_judged(
    context: CoordinatorContext, state: Judging, forced: bool
) -> Transition[CoordinatorState]:
    """Step 8: pass the verdict on, and propose exactly those whom it accepts."""
    current, federation = state.round, context.site.federation
    if state.verdict is None:
        if not forced:  # a validator that was lost may come back in time, and answers then
            return Transition(state)
        reason = f"the validator {federation.validator} gave no verdict"
        return finish(context, state, "aborted", reason)
    envelope, verdict = state.verdict
    needed, measured = federation.thresholds.min_accepted, state.measured
    if len(verdict.accepted) < needed:
        removed = "; ".join(f"{client.name}: {client.reason}" for client in verdict.removed)
        found = f"the validator accepts {len(verdict.accepted)} updates"
        reason = f"{found}, {needed} are needed ({removed})"
        return finish(context, state, "aborted", shortened(reason))
    dealers = measured.group.dealers
    gone = tuple(sorted(set(dealers) - set(verdict.accepted)))
    cohort = Cohort(measured.upload_set, verdict.accepted, gone)
    try:
        measured.group.hood.check_cohort(cohort)
        total = _add(context, measured, verdict.accepted)
        sketched = context.need_sketching().add(
            [measured.ciphertexts[name] for name in verdict.accepted]
        )
    except (BelowThreshold, RoundAborted, CryptoError) as error:
        return finish(context, state, "aborted", shortened(str(error)))
    passed_on = _pass_on(dealers, envelope)
    current, sends = tell(context, current, dealers, cohort, envelope.header.body_hash)
    voting = Voting(
        current,
        measured.group,
        cohort,
        body_hash(cohort),
        votes={},
        wraps=measured.wraps,
        total=total,
        judged=JudgedSum(envelope.header.body_hash, sketched),
    )
    return Transition(voting, (*passed_on, *sends))


def _add(context: CoordinatorContext, measured: Measuring, accepted: Sequence[str]) -> Total:
    """The sum of the accepted uploads, which was not begun before it was known whose."""
    federation, total = context.site.federation, None
    for name in accepted:
        upload = measured.uploads[name]
        total = add_upload(federation, context.encryption, total, upload, name)
    return total


def _pass_on(recipients: Sequence[str], envelope: Envelope) -> tuple[Effect, ...]:
    """What the validator signed, as it signed it."""
    return tuple(Send(name, envelope) for name in recipients)


def ask_binding(
    context: CoordinatorContext, state: Reporting, forced: bool
) -> Transition[CoordinatorState]:
    """Step 13: all reports are there, or those that came; a quorum can agree."""
    current, needed = state.round, context.site.federation.thresholds.vote_quorum
    if not over(current, state.result.everyone, state.reports, forced):
        return Transition(state)
    if len(state.reports) < needed:
        reason = f"{len(state.reports)} clients reported the sketch of the sum, {needed} are needed"
        return finish(context, state, "void", reason)
    request = BindingRequest(
        aggregate_hash=state.result.aggregate_hash,
        accepted=state.result.cohort.accepted,
        reports=tuple(state.reports[name].encode() for name in sorted(state.reports)),
        total=state.judged.sketched,
    )
    validator = context.site.federation.validator
    current, sends = tell(context, current, (validator,), request, state.judged.verdict_hash)
    return Transition(Comparing(current, state.result, binding=None), sends)


def conclude_binding(
    context: CoordinatorContext, state: Comparing, forced: bool
) -> Transition[CoordinatorState]:
    """Step 13: a sum that is not bound to what was judged makes the round void."""
    current, validator = state.round, context.site.federation.validator
    if state.binding is None:
        if not forced:
            return Transition(state)
        return finish(context, state, "void", f"the validator {validator} did not check the sum")
    envelope, result = state.binding
    sends = _pass_on(state.result.everyone, envelope)
    said = f"; {', '.join(result.deviators)} reported another sketch" if result.deviators else ""
    if not result.passed:
        ended = finish(context, state, "void", shortened(result.reason + said))
        return replace(ended, effects=(*sends, *ended.effects))
    return Transition(Acking(current, state.result, deviators=result.deviators), sends)
