"""Key generations, and rounds under a collective key, that lie with real signatures.

Log and witnesses go along, as in ``test_lying_federation``; step 4 must object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fedfm_audit.messages import KEYS, NO_HASH, RoundAck, StepKeys
from fedfm_audit.report import Status
from fedfm_audit.statements import KeyReference, RoundPredicate
from fedfm_audit.verify import verify_files
from fedfm_crypto.codec import encode
from tests.audit.lies import both, committing, drop, offering, only, reasons
from tests.audit.played_round import COORDINATOR, MAKE_KEYS, Change, Script, change_body
from tests.audit.synthetic import judge, names, play_federation

MASK_KEYS = (StepKeys(b"m" * 32, b"s" * 32),)


def key_of(predicate: RoundPredicate) -> KeyReference:
    assert predicate.key is not None
    return predicate.key


def stating(script: Script, **fields: Any) -> Script:
    """The same round, whose statement says something else about the key."""
    return replace(
        script, predicate=lambda said: replace(said, key=replace(key_of(said), **fields))
    )


def keys(change: Change) -> Script:
    """A key generation with changed messages."""
    return Script(kind=KEYS, change=change)


# ---- rounds that make a key

KEY_LIES: dict[str, tuple[Sequence[Script], str]] = {
    "no part committed to": (
        [keys(offering("client-02", key_commitment=NO_HASH))],
        "client-02 commits to no part of the key",
    ),
    "somebody else's part": (
        [keys(offering(key_commitment=b"k" * 32))],
        "client-02 commits to the same part of the key as client-01",
    ),
    "mask keys": (
        [keys(offering("client-03", steps=MASK_KEYS))],
        "client-03 offers mask keys, which no key generation uses",
    ),
    "too few offers": (
        [Script(kind=KEYS, silent={"client-04": "KeyOffer", "client-05": "KeyOffer"})],
        "3 key offers, the charter needs 4",
    ),
    "roster of other offers": (
        [keys(change_body("KeyRoster", lambda m: m.body + b"\x00"))],
        "KeyRoster is not made of exactly these KeyOffers",
    ),
    "a dealer without an offer": (
        [
            Script(
                kind=KEYS,
                silent={"client-05": "KeyOffer"},
                change=only("KeyDealing", lambda m: replace(m, sender="client-05"), "client-04"),
            )
        ],
        "KeyDealing of client-05, not among those who may hold the key",
    ),
    "too few dealers": (
        [Script(kind=KEYS, silent={"client-04": "KeyDealing", "client-05": "KeyDealing"})],
        "3 dealers of the key, the charter needs 4",
    ),
    "a delivery withheld": (
        [keys(only("KeyDelivery", lambda m: None if m.sequence == 1 else m))],
        "4 KeyDelivery messages to 5 on the key roster",
    ),
    "nobody dealt": (
        [stating(keys(drop("KeyDealing")), holders=names(1, 2))],
        "no KeyDealing, though the round went on",
    ),
    "nothing delivered": (
        [keys(drop("KeyDelivery"))],
        "no KeyDelivery, though the round went on",
    ),
    "shares of masks": (
        [keys(only("KeyDealing", lambda m: replace(m, kind="ShareBundle")))],
        "ShareBundle in a round of kind 'keys' in suite sealed with 5 clients, which has none",
    ),
    "holders who are not the dealers": (
        [stating(MAKE_KEYS, holders=names(1, 2, 3))],
        "says that client-01, client-02, client-03 hold the key, which client-01, client-02, c",
    ),
    "a key that nobody stored": (
        [stating(MAKE_KEYS, hash="00" * 32)],
        f"0 acknowledgements of key {'00' * 32}, the charter needs 4",
    ),
    "a key that too few stored": (
        [Script(kind=KEYS, acknowledged={"client-01": bytes(32), "client-02": bytes(32)})],
        "3 acknowledgements of key",
    ),
    "another adapter acknowledged": (
        [keys(change_body("RoundAck", lambda m: encode(RoundAck(bytes(32))), "client-02"))],
        "client-02 acknowledges another adapter than RoundOpen's",
    ),
    "void in spite of a quorum": (
        [Script(kind=KEYS, outcome="void", reason="I did not like it")],
        "void, though 5 clients acknowledge one key",
    ),
    "a key of an aborted round": (
        [
            Script(
                kind=KEYS,
                stop_before="KeyDelivery",
                predicate=lambda said: replace(said, key=KeyReference(1, "00" * 32, names(1, 2))),
            )
        ],
        "aborted, yet its statement names a key",
    ),
    "no key of a completed round": (
        [Script(kind=KEYS, predicate=lambda said: replace(said, key=None))],
        "completed, yet its statement names no key",
    ),
    "another epoch in the statement": (
        [stating(MAKE_KEYS, epoch=2)],
        "the statement's key is of epoch 2, RoundOpen's of 1",
    ),
    "an epoch made again": (
        [MAKE_KEYS, Script(kind=KEYS, epoch=1)],
        "makes key epoch 1; epochs rise, the last was 1",
    ),
    "an epoch below the last": (
        [Script(kind=KEYS, epoch=7), Script(kind=KEYS, epoch=3)],
        "makes key epoch 3; epochs rise, the last was 7",
    ),
    "a kind that the statement hides": (
        [Script(kind=KEYS, predicate=lambda said: replace(said, kind="train"))],
        "RoundOpen is of round 1, kind 'keys'",
    ),
    "counts that flatter": (
        [
            Script(
                kind=KEYS,
                predicate=lambda said: replace(said, counts=replace(said.counts, dealers=9)),
            )
        ],
        "the statement counts",
    ),
}


@pytest.mark.parametrize("name", KEY_LIES)
def test_key_generations_that_no_state_machine_allows(name: str) -> None:
    scripts, reason = KEY_LIES[name]
    report = judge(*scripts, suite="sealed")
    assert report.step(4).status is Status.FAILED
    assert reason in reasons(report, 4), reasons(report, 4)


def test_epoch_zero_is_no_key() -> None:
    """A statement cannot even say it, so the round has to be told without one."""
    zero = Script(kind=KEYS, epoch=0, predicate=lambda said: replace(said, key=None))
    assert "makes key epoch 0; epochs rise" in reasons(judge(zero, suite="sealed"), 4)


def test_a_key_generation_never_changes_the_adapter() -> None:
    changed = Script(kind=KEYS, predicate=lambda said: replace(said, adapter_out="00" * 32))
    assert "makes a key, yet it changes the adapter" in reasons(judge(changed, suite="sealed"), 5)


# ---- rounds that sum under a key


def then(script: Script) -> Sequence[Script]:
    """A key generation, and then this round."""
    return (MAKE_KEYS, script)


def lying(change: Change) -> Sequence[Script]:
    return then(Script(change=change))


def elsewhere(kind: str, sender: str | None = None) -> Change:
    """Messages that refer to something else."""
    return only(kind, lambda m: replace(m, refers_to=b"r" * 32), sender)


def as_client_01(kind: str) -> Change:
    """client-02's message is sent by client-01, who has sent one already."""
    return only(kind, lambda m: replace(m, sender="client-01", sequence=9), "client-02")


CLIENT = "client-01"
THREE_SETS = (names(1, 2), names(1, 3), names(1, 4))
UNFINISHED = "no active set of 2 answered in full, though there is an Aggregate"

TRAIN_LIES: dict[str, tuple[Sequence[Script], str]] = {
    "no key yet": ([Script()], "encrypts before any key generation was completed"),
    "a key that was never finished": (
        [Script(kind=KEYS, stop_before="KeyDelivery"), Script(epoch=1)],
        "encrypts before any key generation was completed",
    ),
    "an older epoch": (
        [MAKE_KEYS, MAKE_KEYS, Script(epoch=1)],
        "names key epoch 1, the latest completed is 2",
    ),
    "an epoch to come": (then(Script(epoch=2)), "names key epoch 2, the latest completed is 1"),
    "another key in the statement": (
        then(stating(Script(), hash="00" * 32)),
        f"the statement says key {'00' * 32} of epoch 1, held by 5; the latest key is",
    ),
    "other holders in the statement": (
        then(stating(Script(), holders=names(1, 2))),
        "held by 2; the latest key is",
    ),
    "no key in the statement": (
        then(Script(predicate=lambda said: replace(said, key=None))),
        "the statement says no key; the latest key is",
    ),
    "mask keys": (
        lying(offering("client-01", steps=MASK_KEYS)),
        "client-01 offers mask keys for 1 steps, expected 0",
    ),
    "a part of a key": (
        lying(offering("client-01", key_commitment=b"k" * 32)),
        "client-01 commits to a part of a collective key in a round that makes none",
    ),
    "a part of a key dealt": (
        lying(only("ShareBundle", lambda m: replace(m, kind="KeyDealing"))),
        "KeyDealing in a round of kind 'train' in suite sealed with 5 clients, which has none",
    ),
    "a copied upload": (
        lying(committing(upload_hash=b"u" * 32)),
        "two clients committed to one upload",
    ),
    "a copied key": (
        lying(committing(wrap_hash=b"w" * 32)),
        "two clients committed to one wrapped key",
    ),
    "no key committed to": (
        lying(committing("client-01", wrap_hash=NO_HASH)),
        "client-01 committed to no wrapped key",
    ),
    "another key than committed": (
        lying(change_body("WrappedKey", lambda m: m.body + b"x", "client-01")),
        "the wrapped key of client-01 is not the one whose hash it committed to",
    ),
    "another upload than committed": (
        lying(change_body("Upload", lambda m: m.body + b"x", "client-01")),
        "the upload of client-01 is not the one whose hash it committed to",
    ),
    "a key for another set": (
        lying(elsewhere("WrappedKey", "client-01")),
        "the wrapped key of client-01 refers to another set",
    ),
    "an upload for another set": (
        lying(elsewhere("Upload", "client-01")),
        "the upload of client-01 refers to another set",
    ),
    "a key of somebody off the upload set": (
        then(
            Script(
                silent={"client-05": "UploadHash"},
                change=only("WrappedKey", lambda m: replace(m, sender="client-05"), "client-04"),
            )
        ),
        "WrappedKey of client-05, not among those on the upload set",
    ),
    "two keys of one client": (
        lying(as_client_01("WrappedKey")),
        "client-01 sent more than one WrappedKey",
    ),
    "accepted without a key": (
        lying(drop("WrappedKey", "client-01")),
        "client-01 accepted without the key of its upload",
    ),
    "no keys at all": (lying(drop("WrappedKey")), "no WrappedKey, though the round went on"),
    "asked before enough unmasked": (
        then(Script(silent={"client-04": "Unmask", "client-05": "Unmask"})),
        "3 clients unmasked before the key was asked for, the charter needs 4",
    ),
    "never asked": (
        lying(both(drop("KeyRequest"), drop("KeyOpening"))),
        "no KeyRequest, KeyOpening, though the round went on",
    ),
    "three requests": (
        then(Script(active=THREE_SETS)),
        "3 KeyRequest messages, expected at most 2",
    ),
    "opened for three active sets": (
        then(Script(active=THREE_SETS)),
        "the key sum was opened for 3 active sets, at most 2 may be asked",
    ),
    "three openings of one client": (
        then(Script(active=THREE_SETS)),
        "client-01 sent more than 2 KeyOpening",
    ),
    "three sets in an aborted round": (
        then(Script(active=THREE_SETS, stop_before="Aggregate", reason="stopped")),
        "the key sum was opened for 3 active sets, at most 2 may be asked",
    ),
    "one active set asked twice": (
        then(Script(active=(names(1, 2), names(1, 2)))),
        "two KeyRequests for one active set",
    ),
    "two openings for one request": (
        lying(as_client_01("KeyOpening")),
        "client-01 answered one KeyRequest twice",
    ),
    "an active set that is too small": (then(Script(active=(names(1),))), UNFINISHED),
    "an active set that is too large": (
        then(Script(active=(names(1, 2, 3),))),
        "3 clients answered one KeyRequest, an active set has 2",
    ),
    "one of the active set silent": (then(Script(absent=names(2))), UNFINISHED),
    "two halves of two active sets": (
        then(Script(active=(names(1, 2), names(3, 4)), absent=names(2, 4))),
        UNFINISHED,
    ),
    "an opening that nobody asked for": (
        lying(elsewhere("KeyOpening", "client-01")),
        "client-01 answered a KeyRequest that was never made",
    ),
    "a request for others than answered": (
        lying(both(elsewhere("KeyRequest"), elsewhere("KeyOpening"))),
        "client-01, client-02 answered a KeyRequest for another active set or cohort",
    ),
    "opened by somebody who holds no share": (
        (
            Script(kind=KEYS, silent={"client-05": "KeyDealing"}),
            Script(active=(names(4, 5),)),
        ),
        "KeyOpening of client-05, not among the holders of the key",
    ),
    "opened by somebody who did not vote": (
        then(Script(change=drop("CohortVote", "client-01"), active=(names(1, 2),))),
        "KeyOpening of client-01, not among those who voted",
    ),
    "an opening by the coordinator": (
        lying(only("KeyOpening", lambda m: replace(m, sender=COORDINATOR, sequence=90), CLIENT)),
        "KeyOpening from the coordinator",
    ),
    "a request by a client": (
        lying(only("KeyRequest", lambda m: replace(m, sender="client-01", sequence=90))),
        "KeyRequest not from coordinator",
    ),
    "counts that flatter": (
        then(Script(predicate=lambda said: replace(said, counts=replace(said.counts, openings=5)))),
        "the statement counts",
    ),
}


@pytest.mark.parametrize("name", TRAIN_LIES)
def test_encrypted_rounds_that_no_state_machine_allows(name: str) -> None:
    scripts, reason = TRAIN_LIES[name]
    report = judge(*scripts, suite="sealed")
    assert report.step(4).status is Status.FAILED
    assert reason in reasons(report, 4), reasons(report, 4)


@pytest.mark.parametrize("used", ["00" * 32, "ab" * 32])
def test_contexts_hold_the_key_of_their_epoch(used: str) -> None:
    """Clients who agreed on no key, or on another one, are in another round."""
    federation = play_federation(MAKE_KEYS, suite="layered", conclude=False)
    assert federation.key is not None
    federation.key = replace(federation.key, hash=used)
    federation.play(Script())
    report = verify_files(federation.files(), name="bundle")
    assert "(KeyRoster of coordinator): signed under context" in reasons(report, 3)
    assert "the latest key is" in reasons(report, 4)
