"""Lies about one robust round: what is changed, the steps that must object, and what they say."""

from __future__ import annotations

from typing import Any

from fedfm_audit.robust_messages import BeaconNonce, BindingResult, Verdict
from tests.audit.robust_evidence import OUTLIER, Lie, edited, without
from tests.audit.simulated import Messages
from tests.protocols.federations import Keys

OTHER = b"\x05" * 32
FIRST, SECOND = "client-01", "client-02"


def accepting_everybody(verdict: Verdict) -> tuple[str, ...]:
    return verdict.judged


def _twice(kind: str) -> Lie:
    """Another message of a kind by the same sender."""

    def lie(keys: Keys, messages: Messages) -> Messages:
        again = edited(kind, header={"sequence": 90})(keys, messages)
        return [*messages, *(m for m in again if m[0].header.type == kind)]

    return lie


def _without_two(kind: str) -> Lie:
    one, other = without(kind, FIRST), without(kind, SECOND)
    return lambda keys, messages: other(keys, one(keys, messages))


def _elsewhere(kind: str, sender: str | None = None) -> Lie:
    """Messages that refer to something else than they should."""
    return edited(kind, sender=sender, header={"refers_to": OTHER})


def _verdict(**fields: Any) -> Lie:
    return edited("Verdict", Verdict, **fields)


def _binding(**fields: Any) -> Lie:
    return edited("BindingResult", BindingResult, **fields)


def _verdict_from(sender: str) -> Lie:
    return edited("Verdict", key=sender, header={"sender": sender, "sequence": 99})


_ABOUT: dict[str, tuple[Lie, dict[int, str]]] = {
    # ---- the verdict
    "verdict by the coordinator's key": (
        edited("Verdict", key="coordinator"),
        {3: "Verdi", 7: "the verdict is not signed by validator"},
    ),
    "verdict from the coordinator": (
        _verdict_from("coordinator"),
        {4: "Verdict not from validator"},
    ),
    "verdict from another party": (_verdict_from(FIRST), {7: "the verdict is from client-01"}),
    "verdict of another round": (
        edited("Verdict", header={"context": OTHER}),
        {7: "the verdict is signed for another round"},
    ),
    "verdict on another request": (_elsewhere("Verdict"), {4: "the verdict is on another request"}),
    "verdict altered: nobody removed": (
        _verdict(accepted=accepting_everybody, removed=()),
        {
            4: "the verdict accepts ['client-01'",
            7: f"{OUTLIER} is not in the sum, though the verdict accepted it",
        },
    ),
    "verdict of fewer": (
        _verdict(accepted=lambda v: v.accepted[1:]),
        {7: "client-01 is in the sum, though the verdict does not speak of it"},
    ),
    "verdict says nothing of one": (
        _verdict(accepted=lambda v: v.accepted[1:]),
        {7: "the verdict says nothing of client-01, who sent a sketch"},
    ),
    "verdict of a stranger": (
        _verdict(accepted=lambda v: (*v.accepted, "client-09")),
        {7: "the verdict speaks of client-09, who sent no sketch"},
    ),
    "verdict unsorted": (
        _verdict(accepted=lambda v: v.accepted[::-1]),
        {7: "names unsorted or repeated"},
    ),
    "verdict accepts and removes": (
        _verdict(accepted=accepting_everybody),
        {7: f"the verdict accepts and removes {OUTLIER}"},
    ),
    "verdict of other sketches": (
        _verdict(sketches=lambda v: (OTHER, *v.sketches[1:])),
        {7: "judges another sketch of client-01 than it sent"},
    ),
    "verdict with a sketch too few": (
        _verdict(sketches=lambda v: v.sketches[1:]),
        {7: "the verdict has 4 sketches of 5"},
    ),
    "commitments too few": (
        _verdict(commitments=lambda v: v.commitments[1:]),
        {7: "4 commitments to scores"},
    ),
    "one salt for all": (
        _verdict(commitments=lambda v: v.commitments[:1] * 5),
        {7: "a salted commitment to scores occurs twice"},
    ),
    "no verdict": (
        without("Verdict"),
        {4: "no Verdict, though the round went on", 7: "completed without a verdict"},
    ),
    "no verdict behind the cohort": (
        without("Verdict"),
        {7: "a cohort that no verdict stands beh"},
    ),
    "two verdicts": (
        _twice("Verdict"),
        {4: "2 Verdict messages, expected one", 7: "the verdict is numbered 90, expected 0"},
    ),
    "a verdict that does not decode": (
        _verdict(raw=b"\x00"),
        {7: "Verdict of validator does not decode"},
    ),
    "cohort of another verdict": (_elsewhere("Cohort"), {4: "Cohort refers to another verdict"}),
    "vote without the verdict": (
        _elsewhere("CohortVote", FIRST),
        {4: "client-01 voted for another cohort"},
    ),
    # ---- the check of the opened sum
    "no binding result": (
        without("BindingResult"),
        {4: "no BindingResult, though the round", 7: "completed, with a binding check: none"},
    ),
    "acknowledged before it was bound": (without("BindingResult"), {4: "did not find bound"}),
    "binding failed": (
        _binding(passed=False, reason="another sum"),
        {
            4: "completed without a binding check that passed",
            7: "completed, with a binding check: failed",
        },
    ),
    "binding failed, yet not void": (
        _binding(passed=False, reason="another sum"),
        {4: "the binding check failed (another sum), yet the round is completed"},
    ),
    "binding failed without a reason": (_binding(passed=False), {4: "failed without one"}),
    "binding by another key": (
        edited("BindingResult", key="coordinator"),
        {7: "the binding result is not signed by validator"},
    ),
    "binding of another sum": (
        _elsewhere("BindingResult"),
        {4: "BindingResult of validator is of another aggregate"},
    ),
    "a report of another sum": (
        _elsewhere("SumSketch", FIRST),
        {4: "SumSketch of client-01 is of another aggregate"},
    ),
    "too many deviate": (
        _binding(deviators=(FIRST, SECOND)),
        {4: "3 clients report one sum, which passed, the charter needs 4"},
    ),
    "a deviator who reported nothing": (
        _binding(deviators=("client-09",)),
        {4: "BindingResult names deviators"},
    ),
    "two binding results": (_twice("BindingResult"), {4: "2 BindingResult messages, expected one"}),
    "check of another verdict": (
        _elsewhere("BindingRequest"),
        {4: "BindingRequest refers to another verdict"},
    ),
    "too few reports": (
        _without_two("SumSketch"),
        {4: "3 reports of the opened sum, the charter needs 4"},
    ),
    "a report of somebody who dealt nothing": (
        without("ShareBundle", FIRST),
        {4: "SumSketch of client-01, not among the dealers"},
    ),
    # ---- beacon, sketches, scores
    "another nonce than committed to": (
        edited("BeaconNonce", BeaconNonce, sender=FIRST, nonce=b"\x07" * 32),
        {4: "client-01 opened another nonce of the beacon than it committed to"},
    ),
    "another nonce: the set": (
        edited("BeaconNonce", BeaconNonce, sender=FIRST, nonce=b"\x07" * 32),
        {4: "BeaconNonces is not made of exactly the nonces of those who have uploaded"},
    ),
    "a nonce left out": (
        without("BeaconNonce", FIRST),
        {4: "BeaconNonces is not made of exactly the nonces of those who have uploaded"},
    ),
    "a sketch without a nonce": (
        without("BeaconNonce", FIRST),
        {4: "Sketch of client-01, not among the candidates"},
    ),
    "a nonce for another upload set": (
        _elsewhere("BeaconNonce", FIRST),
        {4: "client-01 opened its nonce of the beacon for another upload set"},
    ),
    "nonces of another upload set": (
        _elsewhere("BeaconNonces"),
        {4: "BeaconNonces refers to another upload set"},
    ),
    "a nonce of somebody without an upload": (
        without("UploadHash", FIRST),
        {4: "BeaconNonce of client-01, not among those on the upload set"},
    ),
    "too few nonces": (
        _without_two("BeaconNonce"),
        {4: "3 clients uploaded and opened their nonces, the charter needs 4"},
    ),
    "a sketch under another beacon": (
        _elsewhere("Sketch", FIRST),
        {4: "the sketch of client-01 is under another beacon"},
    ),
    "one sketch of two": (
        edited("Sketch", header={"body_hash": OTHER}),
        {4: "two clients sent one sketch"},
    ),
    "too few sketches": (_without_two("Sketch"), {4: "3 sketches to judge, the charter needs 4"}),
    "scores of another beacon": (
        _elsewhere("ScoreRequest"),
        {4: "ScoreRequest refers to other nonces of the beacon"},
    ),
    # ---- the sketch key
    "a sketch key of another federation": (
        edited("SketchKey", header={"context": OTHER}),
        {3: "a sketch key is signed for the charter, under no round"},
    ),
    "a sketch key by another key": (
        edited("SketchKey", key="coordinator"),
        {7: "the sketch key is not signed by validator"},
    ),
    "a sketch key of no epoch": (
        edited("SketchKey", header={"sequence": 0}),
        {7: "a sketch key of epoch 0; epochs count from 1"},
    ),
    "another sketch key": (
        edited("SketchKey", header={"body_hash": OTHER}),
        {3: "signed under context"},
    ),
    "no sketch key": (
        without("SketchKey"),
        {4: "no SketchKey, though the round went on", 7: "0 sketch keys, expected one"},
    ),
    # ---- who may say what
    "a validator's upload hash": (
        edited("UploadHash", sender=FIRST, key="validator", header={"sender": "validator"}),
        {4: "UploadHash of validator, no client"},
    ),
}

LIES: dict[str, tuple[Lie, int, str]] = {
    f"{name}, step {step}": (lie, step, text)
    for name, (lie, objections) in _ABOUT.items()
    for step, text in objections.items()
}
