"""Steps 7, 8 and 13 of robust rounds: a validator that answers wrongly, a cohort against its
verdict, and what is said about the opened sum."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedfm_crypto.codec import decode
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.lanes import from_lanes, unpack_lanes
from fedfm_protocols.beacon import beacon
from fedfm_protocols.context import NO_HASH
from fedfm_protocols.coordinator_states import Comparing
from fedfm_protocols.messages import Aggregate, Cohort, CohortProof, body_hash
from fedfm_protocols.robust_messages import (
    BeaconNonce,
    BeaconNonces,
    BindingRequest,
    BindingResult,
    RemovedClient,
    SumSketch,
    Verdict,
)
from fedfm_protocols.scenario.actors import OUTSIDER, body_of, member, resigned, swapped
from fedfm_protocols.scenario.federations import VALIDATOR
from fedfm_protocols.scenario.lies import Moment, Signed, lie
from fedfm_protocols.sum_sketch import Place, seal_sum

if TYPE_CHECKING:
    from fedfm_protocols.scenario.stage import Stage

_SALT = bytes(16)


def _moved(verdict: Verdict, names: tuple[str, ...]) -> Verdict:
    """The verdict with ``names`` removed."""
    known = {client.name: client for client in verdict.removed}
    known |= {name: RemovedClient(name, "whim") for name in names}
    return replace(
        verdict,
        accepted=tuple(name for name in verdict.accepted if name not in names),
        removed=tuple(known[name] for name in sorted(known)),
    )


def _let_in(verdict: Verdict, name: str) -> Verdict:
    return replace(
        verdict,
        accepted=tuple(sorted({*verdict.accepted, name})),
        removed=tuple(client for client in verdict.removed if client.name != name),
    )


def _stand_by(moment: Moment, false: Verdict) -> Verdict:
    """What the validator says later fits what it says now."""
    validator = moment.stage.validator
    if validator is not None and validator.state.memory.judged is not None:
        judged = replace(
            validator.state.memory.judged,
            accepted=false.accepted,
            verdict_hash=body_hash(false),
        )
        memory = replace(validator.state.memory, judged=judged)
        validator.state = replace(validator.state, memory=memory)
    return false


# ---------------------------------------------------------------- step 7, the validator


@lie("accept-anyway", "Verdict", told_by=VALIDATOR, needs=("client",))
def _accept_anyway(moment: Moment, verdict: Verdict) -> Verdict:
    """The validator accepts `client`, whom its rule removes, and stands by it."""
    return _stand_by(moment, _let_in(verdict, moment.client))


@lie("remove-anyway", "Verdict", told_by=VALIDATOR, needs=("clients",))
def _remove_anyway(moment: Moment, verdict: Verdict) -> Verdict:
    """The validator removes `clients`, whom its rule accepts, and stands by it."""
    return _stand_by(moment, _moved(verdict, moment.clients))


@lie("verdict-on-other-sketch", "Verdict", told_by=VALIDATOR, needs=("client",))
def _other_sketch(moment: Moment, verdict: Verdict) -> Verdict:
    """The verdict names another sketch of `client` than was scored."""
    return _on_other_sketch(verdict, moment.client)


def _on_other_sketch(verdict: Verdict, name: str) -> Verdict:
    place = verdict.judged.index(name)
    hashes = (*verdict.sketches[:place], NO_HASH, *verdict.sketches[place + 1 :])
    return replace(verdict, sketches=hashes)


@lie("verdict-without", "Verdict", told_by=VALIDATOR, needs=("client",))
def _without(moment: Moment, verdict: Verdict) -> Verdict:
    """The verdict says nothing of `client`, who was scored."""
    return _forgetting(verdict, moment.client)


def _forgetting(verdict: Verdict, name: str) -> Verdict:
    place = verdict.judged.index(name)
    left = _let_in(verdict, name)
    return replace(
        left,
        accepted=tuple(n for n in left.accepted if n != name),
        sketches=(*verdict.sketches[:place], *verdict.sketches[place + 1 :]),
        commitments=(*verdict.commitments[:place], *verdict.commitments[place + 1 :]),
    )


@lie("verdict-on-other-request", "Verdict", told_by=VALIDATOR)
def _other_request(moment: Moment, verdict: Verdict) -> Signed:
    """The verdict is said to be on another request."""
    return Signed(verdict, {"refers_to": NO_HASH})


@lie("verdict-elsewhere", "Verdict", told_by=VALIDATOR)
def _elsewhere(moment: Moment, verdict: Verdict) -> Signed:
    """The verdict is signed for another round."""
    return Signed(verdict, {"context": b"\x11" * 32})


def _contradicting(verdict: Verdict, damage: str | None) -> Verdict:
    match damage:
        case "both":
            removed = (*verdict.removed, RemovedClient(verdict.accepted[0], "whim"))
            return replace(verdict, removed=tuple(sorted(removed, key=lambda c: c.name)))
        case "stranger":
            return replace(
                verdict,
                accepted=(*verdict.accepted, OUTSIDER),
                sketches=(*verdict.sketches, NO_HASH),
                commitments=(*verdict.commitments, NO_HASH),
            )
        case "unsorted":
            return replace(verdict, accepted=tuple(reversed(verdict.accepted)))
    return replace(verdict, commitments=verdict.commitments[:-1])


@lie("contradicting-verdict", "Verdict", told_by=VALIDATOR, needs=("damage",))
def _contradicting_verdict(moment: Moment, verdict: Verdict) -> Verdict:
    """The verdict contradicts itself: `damage` is `both` (accepted and removed), `stranger`,
    `unsorted` or `commitments`."""
    return _contradicting(verdict, moment.form.damage)


@lie("pass-on-verdict", "Verdict", needs=("damage",), may=("client", "clients"))
def _pass_on_verdict(moment: Moment, verdict: Verdict) -> Envelope:
    """Coordinator and validator together show a verdict that they signed for the clients alone:
    `damage` is `few` (removes `clients`), `other` (accepts `client` in their place), `sketch`
    (another one of `client`), or as in `contradicting-verdict`."""
    match moment.form.damage:
        case "few":
            false = _moved(verdict, moment.clients)
        case "other":
            false = _moved(_let_in(verdict, moment.client), moment.clients)
        case "sketch":
            false = _on_other_sketch(verdict, moment.client)
        case damage:
            false = _contradicting(verdict, damage)
    return moment.stage.actor(VALIDATOR).forge(moment.envelope, false)


# ---------------------------------------------------------------- steps 8 and 10


@lie("accept-removed", "Cohort", needs=("client",))
def _accept_removed(moment: Moment, cohort: Cohort) -> Cohort:
    """`client`, whom the verdict removes, is accepted."""
    return replace(
        cohort,
        accepted=tuple(sorted({*cohort.accepted, moment.client})),
        removed=tuple(name for name in cohort.removed if name != moment.client),
    )


@lie("cohort-of-other-verdict", "Cohort")
def _other_verdict(moment: Moment, cohort: Cohort) -> Signed:
    """The envelope of the cohort refers to another verdict."""
    return Signed(cohort, {"refers_to": NO_HASH})


@lie("vote-under-other-verdict", "CohortProof", needs=("client",), signs_for=True)
def _vote_elsewhere(moment: Moment, proof: CohortProof) -> CohortProof:
    """One vote in the proof, an accomplice's, names another verdict."""
    return CohortProof(moment.accomplice(proof.votes, refers_to=NO_HASH))


# ---------------------------------------------------------------- step 13, clients


def _sealed_for(
    moment: Moment, sketch: np.ndarray[tuple[int], np.dtype[np.int64]], digest: bytes
) -> SumSketch:
    stage, header = moment.stage, moment.envelope.header
    box = stage.clients[moment.speaker.name].state.memory.sketch_key
    if box is None:
        return SumSketch(b"")
    place = Place(header.context, header.step, moment.speaker.name, digest)
    return SumSketch(seal_sum(sketch, box.box_key, place, stage.coordinator.random))


@lie("report-another-sum", "SumSketch", needs=("by",))
def _report_another(moment: Moment, report: SumSketch) -> SumSketch:
    """`by` reports the sketch of nothing."""
    digest = moment.envelope.header.refers_to
    return _sealed_for(moment, np.zeros(4096, np.int64), digest)


@lie("report-unreadably", "SumSketch", needs=("by",))
def _report_unreadably(moment: Moment, report: SumSketch) -> SumSketch:
    """`by` sends a box that does not open."""
    return SumSketch(report.sealed[:-1] + bytes([report.sealed[-1] ^ 1]))


@lie("report-elsewhere", "SumSketch", needs=("by",))
def _report_elsewhere(moment: Moment, report: SumSketch) -> Signed:
    """`by` reports the sketch of another sum than was published."""
    return Signed(report, {"refers_to": NO_HASH})


# ---------------------------------------------------------------- step 13, coordinator


@lie("other-sum-of-sketches", "BindingRequest")
def _other_total(moment: Moment, request: BindingRequest) -> BindingRequest:
    """The encrypted sum is of no sketches."""
    return replace(request, total=_SALT + bytes(8 * 4096))


@lie("no-sum-of-sketches", "BindingRequest")
def _no_total(moment: Moment, request: BindingRequest) -> BindingRequest:
    """The encrypted sum is no ciphertext."""
    return replace(request, total=request.total[:-1])


@lie("craft-sum-of-sketches", "BindingRequest")
def _craft_total(moment: Moment, request: BindingRequest) -> BindingRequest:
    """The coordinator, who knows the sum that it published (suite masked), encrypts its sketch
    itself."""
    stage = moment.stage
    nonces = stage.last("BeaconNonces")
    if nonces is None or not isinstance(stage.state, Comparing):
        return request
    words = unpack_lanes(decode(Aggregate, stage.state.result.aggregate).words, 32)
    drawn = _beacon(stage, nonces)
    sketch = stage.coordinator.need_sketching().sketch(from_lanes(words, 32), drawn)
    return replace(request, total=_SALT + sketch.astype("<i8").tobytes())


def _beacon(stage: Stage, envelope: Envelope) -> bytes:
    header = envelope.header
    members = [Envelope.decode(data) for data in body_of(envelope, BeaconNonces).nonces]
    nonces = {one.header.sender: body_of(one, BeaconNonce).nonce for one in members}
    return beacon(header.context, header.step, header.refers_to, nonces)


@lie("check-other-clients", "BindingRequest")
def _other_clients(moment: Moment, request: BindingRequest) -> BindingRequest:
    """The sum is said to be of fewer clients than the verdict accepts."""
    return replace(request, accepted=request.accepted[1:])


@lie("check-under-other-verdict", "BindingRequest")
def _check_elsewhere(moment: Moment, request: BindingRequest) -> Signed:
    """The request to check names another verdict."""
    return Signed(request, {"refers_to": NO_HASH})


@lie("check-other-round", "BindingRequest")
def _check_other_round(moment: Moment, request: BindingRequest) -> Signed:
    """The request to check is of another round."""
    return Signed(request, {"context": b"\x11" * 32})


@lie("few-reports", "BindingRequest", needs=("count",))
def _few_reports(moment: Moment, request: BindingRequest) -> BindingRequest:
    """Only `count` reports are shown."""
    return replace(request, reports=request.reports[: moment.count])


@lie("report-of-other-sum", "BindingRequest", needs=("client",), signs_for=True)
def _report_of_other(moment: Moment, request: BindingRequest) -> BindingRequest:
    """An accomplice's report is of another sum."""
    return replace(request, reports=moment.accomplice(request.reports, refers_to=NO_HASH))


@lie("forged-report", "BindingRequest", needs=("client",))
def _forged_report(moment: Moment, request: BindingRequest) -> BindingRequest:
    """The coordinator reports for `client`."""
    place = member(request.reports, moment.client)
    forged = resigned(moment.speaker, request.reports[place], SumSketch(b""))
    return replace(request, reports=swapped(request.reports, place, forged))


@lie("second-check", "BindingRequest")
def _second_check(moment: Moment, request: BindingRequest) -> BindingRequest:
    """Another sum is to be checked in the same round."""
    return replace(request, total=_SALT + bytes(8 * 4096))


@lie("forge-check", "BindingResult")
def _forge_check(moment: Moment, result: BindingResult) -> BindingResult:
    """The coordinator says that the sum is in order, for the validator."""
    return BindingResult(True, "", ())


@lie("pass-on-check", "BindingResult", needs=("damage",))
def _pass_on_check(moment: Moment, result: BindingResult) -> Envelope:
    """Coordinator and validator together: `damage` is `sum` (a check of another sum) or `flip`
    (the opposite)."""
    actor = moment.stage.actor(VALIDATOR)
    if moment.form.damage == "sum":
        return actor.forge(moment.envelope, refers_to=NO_HASH)
    return actor.forge(moment.envelope, replace(result, passed=not result.passed))


# ---------------------------------------------------------------- step 13, validator


@lie("false-check", "BindingResult", told_by=VALIDATOR)
def _false_check(moment: Moment, result: BindingResult) -> BindingResult:
    """The validator answers the opposite of what it found."""
    return replace(result, passed=not result.passed, reason="")


@lie("check-of-other-sum", "BindingResult", told_by=VALIDATOR)
def _check_of_other(moment: Moment, result: BindingResult) -> Signed:
    """The validator's check is of another sum."""
    return Signed(result, {"refers_to": NO_HASH})


@lie("blame", "BindingResult", told_by=VALIDATOR, needs=("clients",))
def _blame(moment: Moment, result: BindingResult) -> BindingResult:
    """The validator says that `clients` reported another sketch of the sum."""
    return replace(result, deviators=moment.clients)
