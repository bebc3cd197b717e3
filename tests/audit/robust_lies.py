"""Lies about one robust round: what is changed, the step that must object, and what it says."""

from __future__ import annotations

from fedfm_audit.robust_messages import BeaconNonce, BindingResult, Verdict
from tests.audit.robust_evidence import OUTLIER, Lie, edited, without
from tests.audit.simulated import Messages
from tests.protocols.federations import Keys


def accepting_everybody(verdict: Verdict) -> tuple[str, ...]:
    return verdict.judged


def _twice(kind: str) -> Lie:
    """Another message of a kind by the same sender."""

    def lie(keys: Keys, messages: Messages) -> Messages:
        again = edited(kind, header={"sequence": 90})(keys, messages)
        return [*messages, *(m for m in again if m[0].header.type == kind)]

    return lie


def _both(*lies: Lie) -> Lie:
    def lie(keys: Keys, messages: Messages) -> Messages:
        for each in lies:
            messages = each(keys, messages)
        return messages

    return lie


LIES: dict[str, tuple[Lie, int, str]] = {
    "verdict by the coordinator's key": (
        edited("Verdict", key="coordinator"),
        7,
        "the verdict is not signed by validator",
    ),
    "verdict by the coordinator's key, envelope": (
        edited("Verdict", key="coordinator"),
        3,
        "Verdi",
    ),
    "verdict from the coordinator": (
        edited("Verdict", key="coordinator", header={"sender": "coordinator", "sequence": 99}),
        4,
        "Verdict not from validator",
    ),
    "verdict from another party": (
        edited("Verdict", key="client-01", header={"sender": "client-01", "sequence": 99}),
        7,
        "the verdict is from client-01",
    ),
    "verdict of another round": (
        edited("Verdict", header={"context": b"\x05" * 32}),
        7,
        "the verdict is signed for another round",
    ),
    "verdict on another request": (
        edited("Verdict", header={"refers_to": b"\x05" * 32}),
        4,
        "the verdict is on another request",
    ),
    "verdict altered: nobody removed": (
        edited("Verdict", Verdict, accepted=accepting_everybody, removed=()),
        7,
        f"{OUTLIER} is not in the sum, though the verdict accepted it",
    ),
    "verdict altered: cohort": (
        edited("Verdict", Verdict, accepted=accepting_everybody, removed=()),
        4,
        "the verdict accepts ['client-01'",
    ),
    "verdict of fewer": (
        edited("Verdict", Verdict, accepted=lambda v: v.accepted[1:]),
        7,
        "client-01 is in the sum, though the verdict does not speak of it",
    ),
    "verdict says nothing of one": (
        edited("Verdict", Verdict, accepted=lambda v: v.accepted[1:]),
        7,
        "the verdict says nothing of client-01, who sent a sketch",
    ),
    "verdict of a stranger": (
        edited("Verdict", Verdict, accepted=lambda v: (*v.accepted, "client-09")),
        7,
        "the verdict speaks of client-09, who sent no sketch",
    ),
    "verdict unsorted": (
        edited("Verdict", Verdict, accepted=lambda v: v.accepted[::-1]),
        7,
        "names unsorted or repeated",
    ),
    "verdict accepts and removes": (
        edited("Verdict", Verdict, accepted=accepting_everybody),
        7,
        f"the verdict accepts and removes {OUTLIER}",
    ),
    "verdict of other sketches": (
        edited("Verdict", Verdict, sketches=lambda v: (b"\x05" * 32, *v.sketches[1:])),
        7,
        "judges another sketch of client-01 than it sent",
    ),
    "verdict with a sketch too few": (
        edited("Verdict", Verdict, sketches=lambda v: v.sketches[1:]),
        7,
        "the verdict has 4 sketches of 5",
    ),
    "commitments too few": (
        edited("Verdict", Verdict, commitments=lambda v: v.commitments[1:]),
        7,
        "4 commitments to scores",
    ),
    "one salt for all": (
        edited("Verdict", Verdict, commitments=lambda v: v.commitments[:1] * 5),
        7,
        "a salted commitment to scores occurs twice",
    ),
    "no verdict": (without("Verdict"), 7, "completed without a verdict"),
    "no verdict behind the cohort": (without("Verdict"), 7, "a cohort that no verdict stands beh"),
    "no verdict, step 4": (without("Verdict"), 4, "no Verdict, though the round went on"),
    "no binding result": (without("BindingResult"), 7, "completed, with a binding check: none"),
    "no binding result, step 4": (
        without("BindingResult"),
        4,
        "no BindingResult, though the round",
    ),
    "acknowledged before it was bound": (without("BindingResult"), 4, "did not find bound"),
    "binding failed": (
        edited("BindingResult", BindingResult, passed=False, reason="another sum"),
        7,
        "completed, with a binding check: failed",
    ),
    "binding failed, step 4": (
        edited("BindingResult", BindingResult, passed=False, reason="another sum"),
        4,
        "completed without a binding check that passed",
    ),
    "binding failed, yet not void": (
        edited("BindingResult", BindingResult, passed=False, reason="another sum"),
        4,
        "the binding check failed (another sum), yet the round is completed",
    ),
    "binding failed without a reason": (
        edited("BindingResult", BindingResult, passed=False),
        4,
        "failed without one",
    ),
    "binding by another key": (
        edited("BindingResult", key="coordinator"),
        7,
        "the binding result is not signed by validator",
    ),
    "binding of another sum": (
        edited("BindingResult", header={"refers_to": b"\x05" * 32}),
        4,
        "BindingResult of validator is of another aggregate",
    ),
    "a report of another sum": (
        edited("SumSketch", sender="client-01", header={"refers_to": b"\x05" * 32}),
        4,
        "SumSketch of client-01 is of another aggregate",
    ),
    "too many deviate": (
        edited("BindingResult", BindingResult, deviators=("client-01", "client-02")),
        4,
        "3 clients report one sum, which passed, the charter needs 4",
    ),
    "a deviator who reported nothing": (
        edited("BindingResult", BindingResult, deviators=("client-09",)),
        4,
        "BindingResult names deviators",
    ),
    "check of another verdict": (
        edited("BindingRequest", header={"refers_to": b"\x05" * 32}),
        4,
        "BindingRequest refers to another verdict",
    ),
    "cohort of another verdict": (
        edited("Cohort", header={"refers_to": b"\x05" * 32}),
        4,
        "Cohort refers to another verdict",
    ),
    "vote without the verdict": (
        edited("CohortVote", sender="client-01", header={"refers_to": b"\x05" * 32}),
        4,
        "client-01 voted for another cohort",
    ),
    "another nonce than committed to": (
        edited("BeaconNonce", BeaconNonce, sender="client-01", nonce=b"\x07" * 32),
        4,
        "client-01 opened another nonce of the beacon than it committed to",
    ),
    "another nonce: the set": (
        edited("BeaconNonce", BeaconNonce, sender="client-01", nonce=b"\x07" * 32),
        4,
        "BeaconNonces is not made of exactly the nonces of those who have uploaded",
    ),
    "a nonce left out": (
        without("BeaconNonce", "client-01"),
        4,
        "BeaconNonces is not made of exactly the nonces of those who have uploaded",
    ),
    "a sketch without a nonce": (
        without("BeaconNonce", "client-01"),
        4,
        "Sketch of client-01, not among the candidates",
    ),
    "a nonce for another upload set": (
        edited("BeaconNonce", sender="client-01", header={"refers_to": b"\x05" * 32}),
        4,
        "client-01 opened its nonce of the beacon for another upload set",
    ),
    "nonces of another upload set": (
        edited("BeaconNonces", header={"refers_to": b"\x05" * 32}),
        4,
        "BeaconNonces refers to another upload set",
    ),
    "a sketch under another beacon": (
        edited("Sketch", sender="client-01", header={"refers_to": b"\x05" * 32}),
        4,
        "the sketch of client-01 is under another beacon",
    ),
    "one sketch of two": (
        edited("Sketch", header={"body_hash": b"\x05" * 32}),
        4,
        "two clients sent one sketch",
    ),
    "scores of another beacon": (
        edited("ScoreRequest", header={"refers_to": b"\x05" * 32}),
        4,
        "ScoreRequest refers to other nonces of the beacon",
    ),
    "a sketch key of another federation": (
        edited("SketchKey", header={"context": b"\x05" * 32}),
        3,
        "a sketch key is signed for the charter, under no round",
    ),
    "a sketch key by another key": (
        edited("SketchKey", key="coordinator"),
        7,
        "the sketch key is not signed by validator",
    ),
    "a sketch key of no epoch": (
        edited("SketchKey", header={"sequence": 0}),
        7,
        "a sketch key of epoch 0; epochs count from 1",
    ),
    "another sketch key": (
        edited("SketchKey", header={"body_hash": b"\x05" * 32}),
        3,
        "signed under context",
    ),
    "no sketch key": (without("SketchKey"), 7, "0 sketch keys, expected one"),
    "no sketch key, step 4": (without("SketchKey"), 4, "no SketchKey, though the round went on"),
    "too few nonces": (
        _both(without("BeaconNonce", "client-01"), without("BeaconNonce", "client-02")),
        4,
        "3 clients uploaded and opened their nonces, the charter needs 4",
    ),
    "too few sketches": (
        _both(without("Sketch", "client-01"), without("Sketch", "client-02")),
        4,
        "3 sketches to judge, the charter needs 4",
    ),
    "too few reports": (
        _both(without("SumSketch", "client-01"), without("SumSketch", "client-02")),
        4,
        "3 reports of the opened sum, the charter needs 4",
    ),
    "a nonce of somebody without an upload": (
        without("UploadHash", "client-01"),
        4,
        "BeaconNonce of client-01, not among those on the upload set",
    ),
    "a report of somebody who dealt nothing": (
        without("ShareBundle", "client-01"),
        4,
        "SumSketch of client-01, not among the dealers",
    ),
    "two verdicts": (_twice("Verdict"), 4, "2 Verdict messages, expected one"),
    "a second verdict": (_twice("Verdict"), 7, "the verdict is numbered 90, expected 0"),
    "two binding results": (_twice("BindingResult"), 4, "2 BindingResult messages, expected one"),
    "a verdict that does not decode": (
        edited("Verdict", Verdict, raw=b"\x00"),
        7,
        "Verdict of validator does not decode",
    ),
    "a validator's upload hash": (
        edited("UploadHash", sender="client-01", key="validator", header={"sender": "validator"}),
        4,
        "UploadHash of validator, no client",
    ),
}
