"""Federations that lie under their own keys: every signature is real, the story is not.

Each script changes a message before its sender signs it (or the statement about it), and the log
with all its witnesses goes along.  What remains is arithmetic: steps 3, 4 and 5 must object.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fedfm_audit.messages import (
    KEYS,
    Cohort,
    CohortVote,
    RoundAck,
)
from fedfm_audit.report import Status
from fedfm_audit.statements import (
    CheckpointReference,
    ConclusionPredicate,
    Distribution,
    FederationPredicate,
    KeyReference,
    RoundPredicate,
    federation_statement,
    open_leaf,
    sign_statement,
)
from fedfm_audit.transcript import Transcript, make_transcript
from fedfm_audit.verify import verify_files
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import CheckpointSeen
from tests.audit.lies import closing, committing, drop, offering, only, opening, reasons
from tests.audit.played_round import (
    ABORTED,
    COORDINATOR,
    Change,
    Message,
    PlayedRound,
    Script,
    Signed,
    change_body,
    parts_of,
    sha256,
)
from tests.audit.synthetic import Federation, judge, play_federation


def cohort(accepted: str, removed: str = "") -> Change:
    def names(digits: str) -> tuple[str, ...]:
        return tuple(f"client-0{digit}" for digit in digits)

    def edit(message: Message) -> bytes:
        said = decode(Cohort, message.body)
        return encode(replace(said, accepted=names(accepted), removed=names(removed)))

    return change_body("Cohort", edit)


# ---- step 3: envelopes

STEP3: dict[str, tuple[Change, str]] = {
    "context of another round": (
        only("UploadHash", lambda m: replace(m, context=bytes(32)), "client-02"),
        "UploadHash of client-02.*signed under context",
    ),
    "sequence repeated": (
        only("UploadHash", lambda m: replace(m, sequence=0), "client-02"),
        "UploadHash of client-02.*sequence 0 does not follow",
    ),
    "split view": (
        only(
            "RoundAck",
            lambda m: replace(m, checkpoint=CheckpointSeen(m.checkpoint.size, bytes(32))),
            "client-03",
        ),
        "RoundAck of client-03.*split view",
    ),
    "head from the future": (
        only(
            "RoundAck",
            lambda m: replace(m, checkpoint=CheckpointSeen(900, bytes(32))),
            "client-03",
        ),
        "RoundAck of client-03.*beyond the round's own leaf",
    ),
    "another checkpoint in RoundOpen": (
        only("RoundOpen", lambda m: replace(m, checkpoint=CheckpointSeen(0, sha256(b"")))),
        "not the checkpoint that the header echoes",
    ),
    "no checkpoint in RoundOpen": (opening(checkpoint=b""), "missing, though the header echoes"),
    "unsigned checkpoint in RoundOpen": (opening(checkpoint=b"x\n"), "checkpoint in RoundOpen"),
    "opened for another roster": (opening(invited=()), "signed under context"),
}


@pytest.mark.parametrize("name", STEP3)
def test_envelopes_out_of_place(name: str) -> None:
    change, reason = STEP3[name]
    report = judge(Script(change=change))
    assert report.step(3).status is Status.FAILED
    assert not report.ok
    assert re.search(reason, reasons(report, 3)), reasons(report, 3)


def test_a_shrinking_head_is_noticed() -> None:
    early = Federation().head()
    back = only("RoundAck", lambda m: replace(m, checkpoint=early), "client-01")
    assert judge(Script(change=back)).ok
    report = judge(Script(), Script(change=back))
    assert "RoundAck of client-01" in reasons(report, 3)
    assert "older than its last one" in reasons(report, 3)


def test_an_envelope_of_an_earlier_round_cannot_be_used_again() -> None:
    """The coordinator replays client-01's vote of round 1 in round 2 and signs everything else."""
    federation = Federation()
    federation.play(Script())
    (old,) = [
        entry
        for entry in Transcript.decode(federation.transcripts[1]).of("CohortVote")
        if entry.header.sender == "client-01"
    ]
    played = PlayedRound(federation, Script(change=drop("CohortVote", "client-01")), 2)
    played.run()
    messages: list[Signed] = [(sent.signed_header, sent.body) for sent in played.sent]
    transcript = make_transcript(2, *parts_of([*messages, (old.signed, old.body)]))
    federation.add_round(transcript, played)
    federation.conclude()
    report = verify_files(federation.files(), name="bundle")
    found = reasons(report, 3)
    assert "the same envelope is part of transcripts/000001.json too" in found
    assert "CohortVote of client-01" in found


# ---- step 4: the state machine

STEP4: dict[str, tuple[Script, str]] = {
    "offer of somebody who was not invited": (
        Script(change=only("KeyOffer", lambda m: replace(m, sender=COORDINATOR), "client-05")),
        "KeyOffer from the coordinator",
    ),
    "too few offers": (
        Script(silent={"client-04": "KeyOffer", "client-05": "KeyOffer"}),
        "3 key offers, the charter needs 4",
    ),
    "an offer kept from the roster": (
        Script(change=drop("KeyRoster")),
        "no KeyRoster, though the round went on",
    ),
    "roster of other offers": (
        Script(change=change_body("KeyRoster", lambda m: m.body + b"\x00")),
        "KeyRoster is not made of exactly these KeyOffers",
    ),
    "shares of a client without an offer": (
        Script(
            silent={"client-05": "KeyOffer"},
            change=only("ShareBundle", lambda m: replace(m, sender="client-05"), "client-04"),
        ),
        "ShareBundle of client-05, not among those on the key roster",
    ),
    "too few dealers": (
        Script(silent={"client-04": "ShareBundle", "client-05": "ShareBundle"}),
        "3 dealers, the charter needs 4",
    ),
    "a delivery withheld": (
        Script(change=only("ShareDelivery", lambda m: None if m.sequence == 1 else m)),
        "4 ShareDelivery messages to 5 dealers",
    ),
    "masked for other dealers": (
        Script(change=only("UploadHash", lambda m: replace(m, refers_to=bytes(32)), "client-02")),
        "client-02 masked for another set of dealers",
    ),
    "upload hash of no dealer": (
        Script(
            silent={"client-05": "ShareBundle"},
            change=only("UploadHash", lambda m: replace(m, sender="client-05"), "client-04"),
        ),
        "UploadHash of client-05, not among the dealers",
    ),
    "upload set of other hashes": (
        Script(change=change_body("UploadSet", lambda m: m.body + b"\x00")),
        "UploadSet is not made of exactly these UploadHashes",
    ),
    "too few upload hashes": (
        Script(silent={"client-04": "UploadHash", "client-05": "UploadHash"}),
        "3 upload hashes, the charter needs 4",
    ),
    "a copied upload": (
        Script(change=committing(upload_hash=bytes(32))),
        "two clients committed to one upload",
    ),
    "another upload than committed": (
        Script(change=change_body("Upload", lambda m: m.body + b"x", "client-01")),
        "the upload of client-01 is not the one whose hash it committed to",
    ),
    "upload for another set": (
        Script(change=only("Upload", lambda m: replace(m, refers_to=bytes(32)), "client-01")),
        "the upload of client-01 refers to another set",
    ),
    "two uploads of one client": (
        Script(
            change=only(
                "Upload",
                lambda m: (
                    replace(m, sender="client-01", sequence=9) if m.sender == "client-02" else m
                ),
            )
        ),
        "client-01 sent more than one Upload",
    ),
    "somebody neither accepted nor removed": (
        Script(change=cohort("1234")),
        "the dealers were",
    ),
    "somebody both accepted and removed": (
        Script(change=cohort("12345", "5")),
        "the dealers were",
    ),
    "cohort unsorted": (Script(change=cohort("21345")), "unsorted or repeated"),
    "accepted without an upload": (
        Script(silent={"client-05": "Upload"}, change=cohort("12345")),
        "client-05 accepted without an upload",
    ),
    "one victim's update": (
        Script(change=cohort("12", "345")),
        "2 accepted updates, the charter needs 4",
    ),
    "cohort for another upload set": (
        Script(change=only("Cohort", lambda m: replace(m, refers_to=bytes(32)))),
        "Cohort refers to another upload set",
    ),
    "cohort that names another upload set": (
        Script(
            change=change_body(
                "Cohort", lambda m: encode(replace(decode(Cohort, m.body), upload_set=bytes(32)))
            )
        ),
        "Cohort names another upload set than these UploadHashes make",
    ),
    "cohort that does not decode": (
        Script(change=change_body("Cohort", lambda m: b"\xff")),
        "Cohort of coordinator does not decode",
    ),
    "a vote for another cohort": (
        Script(
            change=change_body("CohortVote", lambda m: encode(CohortVote(bytes(32))), "client-02")
        ),
        "client-02 voted for another cohort",
    ),
    "too few votes": (
        Script(silent={"client-04": "CohortVote", "client-05": "CohortVote"}),
        "3 votes on the cohort, the charter needs 4",
    ),
    "two votes of one client": (
        Script(
            change=only(
                "CohortVote", lambda m: replace(m, sender="client-01", sequence=9), "client-02"
            )
        ),
        "client-01 sent more than one CohortVote",
    ),
    "a vote left out of the proof": (
        Script(change=change_body("CohortProof", lambda m: m.body + b"\x00")),
        "CohortProof is not made of exactly these votes",
    ),
    "unmasking for another cohort": (
        Script(change=only("Unmask", lambda m: replace(m, refers_to=bytes(32)), "client-03")),
        "client-03 unmasked for another cohort",
    ),
    "opened with too few": (
        Script(silent={"client-04": "Unmask", "client-05": "Unmask"}),
        "3 clients unmasked, the charter needs 4",
    ),
    "opened by nobody": (Script(change=drop("Unmask")), "no Unmask, though the round went on"),
    "aggregate of another cohort": (
        Script(change=only("Aggregate", lambda m: replace(m, refers_to=bytes(32)))),
        "Aggregate is of another cohort",
    ),
    "two aggregates": (
        Script(change=only("CohortProof", lambda m: replace(m, kind="Aggregate"))),
        "2 Aggregate messages, expected one",
    ),
    "too few acknowledgements": (
        Script(silent={"client-04": "RoundAck", "client-05": "RoundAck"}),
        "3 acknowledgements of adapter",
    ),
    "acknowledgements of different adapters": (
        Script(acknowledged={"client-01": bytes(32), "client-02": bytes(32)}),
        "3 acknowledgements of adapter",
    ),
    "acknowledging another aggregate": (
        Script(change=only("RoundAck", lambda m: replace(m, refers_to=bytes(32)), "client-01")),
        "client-01 acknowledges another aggregate",
    ),
    "void in spite of a quorum": (
        Script(outcome="void", reason="I did not like it"),
        "void, though 5 clients acknowledge one adapter",
    ),
    "completed without a cohort": (
        Script(stop_before="Cohort", predicate=lambda p: replace(p, outcome="completed")),
        "no Cohort, CohortVote",
    ),
    "another outcome told to clients": (
        Script(change=closing(outcome="aborted")),
        "RoundClose says another outcome",
    ),
    "another adapter told to clients": (
        Script(change=closing(adapter_hash=bytes(32))),
        "RoundClose says another outcome, reason or adapter",
    ),
    "acknowledgements left out of the close": (
        Script(change=closing(acks=())),
        "RoundClose does not hold exactly these acknowledgements",
    ),
    "no close": (Script(change=drop("RoundClose")), "no RoundClose"),
    "another step": (
        Script(change=only("Unmask", lambda m: replace(m, step=1))),
        "step 0: no Unmask, though the round went on",
    ),
    "client speaking for the coordinator": (
        Script(change=only("Aggregate", lambda m: replace(m, sender="client-01", sequence=9))),
        "Aggregate not from coordinator",
    ),
    "offers without mask keys": (
        Script(change=offering(steps=())),
        "client-01 offers mask keys for 0 steps, expected 1",
    ),
    "a part of a key in a round that makes none": (
        Script(change=offering("client-02", key_commitment=b"k" * 32)),
        "client-02 commits to a part of a collective key in a round that makes none",
    ),
    "a wrapped key without encryption": (
        Script(change=committing(wrap_hash=b"w" * 32)),
        "an upload hash commits to a wrapped key, in suite masked",
    ),
    "an encrypted round's message in another suite": (
        Script(change=only("Aggregate", lambda m: replace(m, kind="KeyRequest"))),
        "KeyRequest in a round of kind 'train' in suite masked with 5 clients, which has none",
    ),
    "a key generation without encryption": (
        Script(kind=KEYS),
        "makes a collective key, which suite masked does not have",
    ),
    "a key in the statement without encryption": (
        Script(predicate=lambda p: replace(p, key=KeyReference(1, "00" * 32, ("client-01",)))),
        "the statement names a key, which suite masked does not have",
    ),
    "several steps": (Script(change=opening(steps=2)), "RoundOpen plans 2 steps, the charter 1"),
    "another key epoch": (Script(change=opening(key_epoch=1)), "key epoch 1"),
    "unknown kind": (Script(change=opening(kind="unlearn")), "unknown kind 'unlearn'"),
    "another configuration": (
        Script(change=opening(config_hash=bytes(32))),
        "training configuration that is not the charter's",
    ),
    "an invited stranger": (
        Script(change=opening(invited=("client-01", "nobody"))),
        "not on the roster",
    ),
    "counts that flatter": (
        Script(predicate=lambda p: replace(p, counts=replace(p.counts, votes=99))),
        "the statement counts",
    ),
}


@pytest.mark.parametrize("name", STEP4)
def test_rounds_that_no_state_machine_allows(name: str) -> None:
    script, reason = STEP4[name]
    report = judge(script)
    assert report.step(4).status is Status.FAILED
    assert reason in reasons(report, 4)
    assert "leaf 7 (transcripts/000001.json)" in reasons(report, 4)


def test_an_aborted_round_must_still_be_consistent() -> None:
    odd = change_body("KeyRoster", lambda m: m.body + b"\x00")
    report = judge(replace(ABORTED, change=odd))
    assert "KeyRoster is not made of exactly these KeyOffers" in reasons(report, 4)
    unfounded = drop("ShareBundle")
    report = judge(replace(ABORTED, change=unfounded))
    assert "no ShareBundle, ShareDelivery, though the round went on" in reasons(report, 4)


# ---- statements that do not fit each other


def statement(**fields: Any) -> Callable[[RoundPredicate], RoundPredicate]:
    return lambda predicate: replace(predicate, **fields)


def test_round_numbers_follow_each_other() -> None:
    federation = Federation()
    federation.play(Script())
    federation.play(Script(predicate=statement(round=3)))
    report = verify_files(federation.files(), name="bundle")
    assert "round 3, expected round 2" in reasons(report, 4)
    assert "transcripts/000003.json: missing" in reasons(report, 3)


def test_more_rounds_than_the_charter_allows() -> None:
    report = judge(Script(), Script(), change_charter=lambda fields: fields.update(rounds=1))
    assert "2 rounds completed, the charter allows 1" in reasons(report, 4)


def test_statements_about_another_charter() -> None:
    report = judge(Script(predicate=statement(charter="00" * 32)))
    assert "names charter 0000" in reasons(report, 4)


def test_a_statement_built_on_another_history() -> None:
    for size, root, reason in ((6, "00" * 32, "another history"), (99, "00" * 32, "beyond itself")):
        previous = CheckpointReference(size, root)
        report = judge(Script(predicate=statement(previous=previous)))
        assert reason in reasons(report, 3)


def test_another_base_model() -> None:
    federation = Federation()
    other = Federation(change_charter=lambda fields: fields["model"].update(sha256="00" * 32))
    federation.leaves[-1] = other.leaves[-1]
    report = verify_files(federation.files(), name="bundle")
    assert "names another base model" in reasons(report, 4)


PROGRAMS: dict[str, dict[str, Any]] = {
    "names another training configuration": {"config": "00" * 32},
    "lists distributions unsorted or repeated": {
        "distributions": (Distribution("torch", "2.9.1"), Distribution("numpy", "2.4.6"))
    },
}


@pytest.mark.parametrize("reason", PROGRAMS)
def test_another_program_than_a_federation_statement_may_name(reason: str) -> None:
    federation = Federation()
    keys = {federation.coordinator.public.hex: federation.coordinator.public}
    said = open_leaf(federation.leaves[-1], keys).statement.predicate
    assert isinstance(said, FederationPredicate)
    changed = federation_statement(replace(said, **PROGRAMS[reason]))
    federation.leaves[-1] = sign_statement(changed, federation.coordinator)
    report = verify_files(federation.files(), name="bundle")
    assert reason in reasons(report, 4)


CONCLUSIONS: dict[str, tuple[int, Callable[[ConclusionPredicate], ConclusionPredicate]]] = {
    "rounds completed, void, aborted": (4, lambda said: replace(said, aborted=0)),
    "concludes with adapter": (5, lambda said: replace(said, adapter="00" * 32)),
}


@pytest.mark.parametrize("reason", CONCLUSIONS)
def test_conclusions_that_do_not_follow(reason: str) -> None:
    step, change = CONCLUSIONS[reason]
    federation = play_federation(Script(), ABORTED, conclude=False)
    federation.conclude(change)
    report = verify_files(federation.files(), name="bundle")
    assert reason in reasons(report, step)


# ---- step 5: adapters


def test_an_adapter_exchanged_between_rounds() -> None:
    federation = Federation()
    federation.play(Script())
    federation.adapter = bytes(32)
    federation.play(Script())
    report = verify_files(federation.files(), name="bundle")
    assert "starts from adapter 0000" in reasons(report, 5)
    assert report.step(4).status is Status.VERIFIED


def test_a_statement_that_hides_the_adapter_it_started_from() -> None:
    federation = Federation()
    real = federation.adapter.hex()
    federation.adapter = bytes(32)
    federation.play(Script(predicate=statement(adapter_in=real)))
    report = verify_files(federation.files(), name="bundle")
    assert "its RoundOpen names another adapter" in reasons(report, 5)


def test_an_aborted_round_that_changes_the_adapter() -> None:
    report = judge(replace(ABORTED, predicate=statement(adapter_out="00" * 32)))
    assert "aborted, yet it changes the adapter" in reasons(report, 5)


def test_two_acknowledged_adapters_never_both_pass() -> None:
    """The majority's adapter is the one in force, whatever the close says."""
    other = encode(RoundAck(bytes(32)))
    change = change_body("RoundAck", lambda m: other)
    report = judge(Script(change=change))
    assert "0 acknowledgements of adapter" in reasons(report, 4)
