"""Sessions that lie with real signatures: every lie is found, and its step and place are named.

Log and witnesses go along, as in ``test_lying_federation``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from fedfm_audit.messages import KEYS, Cohort, RoundAck
from fedfm_audit.report import Status
from fedfm_audit.statements import RoundPredicate
from fedfm_audit.verify import verify_files
from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import Envelope
from tests.audit.lies import at, both, closing, drop, offering, only, opening, reasons
from tests.audit.played_round import MAKE_KEYS, Change, Message, PlayedRound, Script, change_body
from tests.audit.synthetic import Federation, judge, names, transcript_of

STEPS = 3
PLACE = "leaf 7 (transcripts/000001.json)"
OTHER = b"\x07" * 32


def stating(**fields: Any) -> Callable[[RoundPredicate], RoundPredicate]:
    """A statement with other fields."""
    return lambda said: replace(said, **fields)


def counting(**fields: Any) -> Callable[[RoundPredicate], RoundPredicate]:
    """A statement that says something else about the steps."""
    return lambda said: replace(said, steps=replace(said.steps, **fields))


def speaks_for(kind: str, sender: str, instead: str) -> Change:
    """A message of one client is another's."""
    return only(kind, lambda m: replace(m, sender=instead, sequence=90), sender)


def joined(name: str) -> Change:
    """The cohort accepts one client more."""

    def edit(message: Message) -> bytes:
        said = decode(Cohort, message.body)
        return encode(replace(said, accepted=tuple(sorted({*said.accepted, name}))))

    return change_body("Cohort", edit)


def repeated(kind: str, sender: str | None = None) -> Change:
    """From the second step on, messages refer to what those of the first step referred to."""
    first: dict[str, bytes] = {}

    def edit(message: Message) -> Message:
        reference = first.setdefault(message.sender, message.refers_to)
        return replace(message, refers_to=reference)

    return only(kind, edit, sender)


def exchanged(message: Message) -> Message:
    """Everybody signs the second step as the third, and the third as the second."""
    return replace(message, step={1: 2, 2: 1}.get(message.step, message.step))


REMOVED = [(0, "Upload", "client-05")]
CUT = Script(stop_before=(1, "Cohort"), reason="stopped")
UNGOOD = Script(lost=[(1, "RoundAck", name) for name in names(1, 2)], reason="3 of 4")
"""Ends with step 0, as the acknowledgements of step 1 are too few."""


def adapter(step: int) -> bytes:
    return PlayedRound(Federation(steps=STEPS), Script(), 1).new_adapter(step)


LIES: dict[str, tuple[Script, str]] = {
    "a removed client commits again": (
        Script(lost=REMOVED, change=at(1, speaks_for("UploadHash", "client-04", "client-05"))),
        f"{PLACE}, step 1: UploadHash of client-05, not among those whom step 0 accepted",
    ),
    "a removed client votes again": (
        Script(lost=REMOVED, change=at(2, speaks_for("CohortVote", "client-04", "client-05"))),
        f"{PLACE}, step 2: CohortVote of client-05, not among those whom step 1 accepted",
    ),
    "a removed client unmasks again": (
        Script(lost=REMOVED, change=at(1, speaks_for("Unmask", "client-04", "client-05"))),
        f"{PLACE}, step 1: Unmask of client-05, not among those whom step 0 accepted",
    ),
    "a removed client acknowledges again": (
        Script(lost=REMOVED, change=at(1, speaks_for("RoundAck", "client-04", "client-05"))),
        f"{PLACE}, step 1: RoundAck of client-05, not among those whom step 0 accepted",
    ),
    "a removed client in a later cohort": (
        Script(lost=REMOVED, change=at(1, joined("client-05"))),
        f"{PLACE}, step 1: Cohort is ['client-01', 'client-02', 'client-03', 'client-04', "
        "'client-05'] without []; the dealers were ['client-01', 'client-02', 'client-03', "
        "'client-04']",
    ),
    "somebody new in a later cohort": (
        Script(silent={"client-05": "KeyOffer"}, change=at(2, joined("client-05"))),
        f"{PLACE}, step 2: client-05 accepted without an upload",
    ),
    "acknowledgements of another step": (
        Script(change=repeated("RoundAck", "client-01")),
        f"{PLACE}, step 1: client-01 acknowledges another aggregate",
    ),
    "everybody acknowledges the first step again": (
        Script(change=repeated("RoundAck")),
        f"{PLACE}: the statement says 3 good steps; this transcript has 1",
    ),
    "an upload hash of another step": (
        Script(change=repeated("UploadHash", "client-02")),
        f"{PLACE}, step 1: UploadSet is not made of exactly these UploadHashes of those who build "
        "on step 0: client-02 builds on another sum, adapter or set of clients than step 0's",
    ),
    "an upload that builds on another adapter": (
        Script(
            change=at(1, only("UploadHash", lambda m: replace(m, refers_to=OTHER), "client-03"))
        ),
        "client-03 builds on another sum, adapter or set of clients than step 0's",
    ),
    "uploads for another step's set": (
        Script(change=repeated("Upload", "client-01")),
        f"{PLACE}, step 1: the upload of client-01 refers to another set",
    ),
    "votes on another step's cohort": (
        Script(change=repeated("CohortVote", "client-01")),
        f"{PLACE}, step 1: client-01 voted for another cohort",
    ),
    "unmasking for another step's cohort": (
        Script(change=repeated("Unmask", "client-02")),
        f"{PLACE}, step 2: client-02 unmasked for another cohort than the one voted",
    ),
    "an aggregate of another step's cohort": (
        Script(change=repeated("Aggregate")),
        f"{PLACE}, step 1: Aggregate is of another cohort",
    ),
    "two cohorts in one step": (
        Script(change=at(1, only("CohortProof", lambda m: replace(m, kind="Cohort")))),
        f"{PLACE}, step 1: 2 Cohort messages, expected one",
    ),
    "too few votes at a later step": (
        Script(lost=[(2, "CohortVote", name) for name in names(1, 2)]),
        f"{PLACE}, step 2: 3 votes on the cohort, the charter needs 4",
    ),
    "too few unmask at a later step": (
        Script(lost=[(1, "Unmask", name) for name in names(1, 2)]),
        f"{PLACE}, step 1: 3 clients unmasked, the charter needs 4",
    ),
    "a cohort that shrinks to a victim": (
        Script(lost=[(1, "Upload", name) for name in names(1, 2, 3)]),
        f"{PLACE}, step 1: 2 accepted updates, the charter needs 4",
    ),
    "a cohort that does not decode": (
        Script(change=at(1, change_body("Cohort", lambda m: b"\xff"))),
        f"{PLACE}, step 1: Cohort of coordinator does not decode",
    ),
    "no votes at a middle step": (
        Script(change=at(1, drop("CohortVote"))),
        f"{PLACE}, step 1: no CohortVote, though the round went on",
    ),
    "steps signed as each other": (
        Script(change=exchanged),
        f"{PLACE}, step 1: UploadSet is not made of exactly these UploadHashes of those who build "
        "on step 0: client-01 builds on another sum",
    ),
    "more good steps than there are": (
        replace(CUT, predicate=counting(good=2)),
        f"{PLACE}: the statement says 2 good steps; this transcript has 1",
    ),
    "fewer good steps than there are": (
        Script(predicate=counting(good=2)),
        f"{PLACE}: the statement says 2 good steps; this transcript has 3",
    ),
    "fewer steps recorded": (
        Script(predicate=counting(recorded=2)),
        f"{PLACE}: the statement says 2 recorded steps; this transcript has 3",
    ),
    "fewer steps planned": (
        Script(predicate=counting(planned=2)),
        f"{PLACE}: the statement says 2 planned steps; this transcript has 3",
    ),
    "another root": (
        Script(predicate=counting(root="00" * 32)),
        f"{PLACE}: the statement has the root {'00' * 32} over its steps; this transcript's",
    ),
    "fewer steps than the charter says": (
        Script(change=opening(steps=2)),
        f"{PLACE}: RoundOpen plans 2 steps, the charter 3",
    ),
    "more steps than were planned": (
        Script(change=opening(steps=2)),
        f"{PLACE}: 3 steps, RoundOpen planned 2",
    ),
    "mask keys for fewer steps": (
        Script(change=offering("client-02", steps=())),
        f"{PLACE}: client-02 offers mask keys for 0 steps, expected 3",
    ),
    "closed at a step that is not good": (
        replace(
            UNGOOD,
            change=closing(adapter_hash=adapter(1)),
            predicate=lambda said: counting(good=2)(
                replace(said, adapter_out=adapter(1).hex()),
            ),
        ),
        f"{PLACE}: 0 acknowledgements of adapter {adapter(1).hex()} after step 0, the charter",
    ),
    "closed at an earlier step": (
        Script(
            change=closing(adapter_hash=adapter(1)), predicate=stating(adapter_out=adapter(1).hex())
        ),
        f"{PLACE}: 0 acknowledgements of adapter {adapter(1).hex()} after step 2, the charter",
    ),
    "another adapter told to clients": (
        Script(change=closing(adapter_hash=adapter(1))),
        f"{PLACE}: RoundClose says another outcome, reason or adapter than the statement",
    ),
    "close of another step": (
        Script(change=only("RoundClose", lambda m: replace(m, step=1))),
        f"{PLACE}: RoundClose is of step 1, expected 2",
    ),
    "no acknowledgements in the close": (
        replace(CUT, change=closing(acks=())),
        f"{PLACE}: RoundClose does not hold exactly these acknowledgements, of step 0",
    ),
    "aborted in spite of a good step": (
        replace(CUT, outcome="aborted"),
        f"{PLACE}: aborted, though 5 clients acknowledge one adapter after step 0",
    ),
    "void in spite of good steps": (
        Script(outcome="void"),
        f"{PLACE}: void, though 5 clients acknowledge one adapter after step 2",
    ),
    "cut short without saying so": (
        replace(CUT, change=closing(reason="all is well"), predicate=stating(reason="all is well")),
        f"{PLACE}: completed with 1 of 3 steps good; the reason must begin with 'ended after 1 of",
    ),
    "counts that flatter": (
        Script(predicate=lambda said: replace(said, counts=replace(said.counts, uploads=99))),
        f"{PLACE}: the statement counts",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_sessions_that_no_state_machine_allows(name: str) -> None:
    script, reason = LIES[name]
    report = judge(script, steps=STEPS)
    assert report.step(4).status is Status.FAILED
    assert reason in reasons(report, 4), reasons(report, 4)


def test_a_session_under_a_charter_without_sessions() -> None:
    federation = Federation()
    federation.steps = 2
    federation.play(Script())
    report = verify_files(federation.files(), name="bundle")
    assert "RoundOpen plans 2 steps, the charter 1" in reasons(report, 4)


def test_a_key_generation_of_several_steps() -> None:
    keys = Script(kind=KEYS, change=opening(steps=STEPS))
    report = judge(keys, suite="layered", steps=STEPS)
    assert "RoundOpen plans 3 steps, the charter 1" in reasons(report, 4)


# ---- encrypted sessions

ENCRYPTED_LIES: dict[str, tuple[Script, str]] = {
    "an active set of another step": (
        Script(change=both(repeated("KeyRequest"), repeated("KeyOpening"))),
        ", step 1: client-01, client-02 answered a KeyRequest for another active set or cohort",
    ),
    "three active sets at one step": (
        Script(active=(names(1, 2), names(1, 3), names(1, 4))),
        ", step 2: the key sum was opened for 3 active sets, at most 2 may be asked",
    ),
    "opened without a request": (
        Script(change=at(1, drop("KeyRequest"))),
        ", step 1: client-01, client-02 answered a KeyRequest that was never made",
    ),
    "a key of another step": (
        Script(change=repeated("WrappedKey", "client-01")),
        ", step 1: the wrapped key of client-01 refers to another set",
    ),
}


@pytest.mark.parametrize("name", ENCRYPTED_LIES)
def test_encrypted_sessions_that_no_state_machine_allows(name: str) -> None:
    script, reason = ENCRYPTED_LIES[name]
    report = judge(MAKE_KEYS, script, suite="layered", steps=STEPS)
    assert reason in reasons(report, 4), reasons(report, 4)


# ---- messages that nobody can show


def retold(keep: Callable[[Envelope], bool]) -> str:
    """What step 4 says of an honest session of whose messages some are left out of the record."""
    federation = Federation(steps=STEPS)
    played = PlayedRound(federation, Script(), 1)
    played.run()
    federation.add_round(transcript_of(1, [sent for sent in played.sent if keep(sent)]), played)
    return reasons(verify_files(federation.files(), name="bundle"), 4)


def acknowledges(envelope: Envelope, step: int, among: Sequence[str]) -> bool:
    header = envelope.header
    return header.type == "RoundAck" and header.step == step and header.sender in among


def test_a_middle_step_that_nobody_can_show() -> None:
    found = retold(lambda sent: sent.header.step != 1)
    assert (
        f"{PLACE}, step 1: no UploadHash, UploadSet, Upload, Cohort, CohortVote, CohortProof, "
        "Unmask, Aggregate, RoundAck, though the round went on" in found
    )
    assert f"{PLACE}: the statement says 3 good steps; this transcript has 1" in found


def test_an_upload_set_with_somebody_who_acknowledged_nothing() -> None:
    found = retold(lambda sent: not acknowledges(sent, 0, names(2)))
    assert f"{PLACE}, step 1: UploadSet is not made of exactly these UploadHashes" in found
    assert "client-02 did not acknowledge the adapter of step 0" in found


def test_an_upload_set_before_a_quorum_acknowledged_the_step_before() -> None:
    found = retold(lambda sent: not acknowledges(sent, 1, names(2, 4)))
    assert (
        f"{PLACE}, step 2: UploadSet is fixed, though only 3 clients acknowledge one adapter of "
        "step 1; the charter needs 4" in found
    )
    assert f"{PLACE}: the statement says 3 good steps; this transcript has 1" in found


def test_a_quorum_on_different_adapters_is_none() -> None:
    said = {(1, name): OTHER for name in names(1, 2)}
    honest = judge(Script(acknowledged=said), steps=STEPS)
    assert honest.step(4).status is Status.VERIFIED
    # The coordinator calls the session good to its end, on signatures of two adapters.
    other = encode(RoundAck(OTHER))
    change = at(2, only("RoundAck", lambda m: replace(m, body=other), "client-01"))
    lie = both(change, at(2, only("RoundAck", lambda m: replace(m, body=other), "client-02")))
    report = judge(Script(change=lie, predicate=counting(good=3)), steps=STEPS)
    assert f"{PLACE}: the statement says 3 good steps; this transcript has 2" in reasons(report, 4)


# ---- step 3: the file, and the numbers of messages


def rewritten(edit: Callable[[list[Any]], None]) -> str:
    """What step 3 says of an honest session whose file was edited before it was stated."""
    federation = Federation(steps=STEPS)
    played = PlayedRound(federation, Script(), 1)
    played.run()
    transcript = transcript_of(1, played.sent)
    document = json.loads(transcript.encode())
    edit(document["steps"])
    federation.add_round(transcript, played, canonical_encode(document))
    report = verify_files(federation.files(), name="bundle")
    assert report.step(4).status is Status.FAILED
    return reasons(report, 3)


def test_steps_swapped_in_the_file() -> None:
    found = rewritten(lambda steps: steps.insert(1, steps.pop()))
    assert found == (
        "transcripts/000001.json: step 1 message 0: UploadHash of client-01 is of step 2"
    )


def test_a_middle_step_cut_out_of_the_file() -> None:
    found = rewritten(lambda steps: steps.pop(1))
    assert "step 1 message 0: UploadHash of client-01 is of step 2" in found


def test_an_empty_last_step() -> None:
    assert "step 3 is the last one and has no message" in rewritten(lambda steps: steps.append([]))


def test_a_message_moved_to_another_step() -> None:
    def edit(steps: list[Any]) -> None:
        steps[2].append(steps[1].pop())

    assert "step 2 message 29: RoundAck of client-05 is of step 1" in rewritten(edit)


def test_numbers_go_on_over_the_steps() -> None:
    again = at(1, only("UploadHash", lambda m: replace(m, sequence=1), "client-02"))
    found = reasons(judge(Script(change=again), steps=STEPS), 3)
    assert (
        "transcripts/000001.json step 1 message 1 (UploadHash of client-02): sequence 1 does not "
        "follow the last" in found
    )


def test_steps_signed_as_each_other_break_the_numbers_too() -> None:
    found = reasons(judge(Script(change=exchanged), steps=STEPS), 3)
    assert "step 2 message 0 (UploadHash of client-01): sequence" in found
