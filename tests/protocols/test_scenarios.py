"""The scenario runner: shipped scenarios, determinism, secrecy of transcripts, strict forms."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import pytest

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.secret import Secret
from fedfm_protocols.errors import ScenarioError
from fedfm_protocols.messages import Aggregate, Cohort, Unmask, Upload, read_body
from fedfm_protocols.scenario.acts import REGISTRY
from fedfm_protocols.scenario.explain import explain
from fedfm_protocols.scenario.form import RoundForm, Scenario, parse_scenario, with_seed
from fedfm_protocols.scenario.library import shipped, shipped_names
from fedfm_protocols.scenario.network import Drop
from fedfm_protocols.scenario.promises import Promises
from fedfm_protocols.scenario.runner import Result, run_scenario
from fedfm_protocols.scenario.stage import Stage
from fedfm_protocols.scenario.transcript import read_transcript
from fedfm_protocols.simulation import Delivery

STEPS = (
    "key-offer",
    "share-bundle",
    "upload-hash",
    "upload",
    "vote",
    "unmask",
    "acknowledgement",
)


@cache
def played(name: str) -> Result:
    return run_scenario(shipped(name))


def minimal(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "title": "x", "rounds": [{}], **changes}


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_scenario_gives_its_expected_verdict(name: str) -> None:
    result = played(name)
    assert result.verdict.ok, result.verdict.failures
    assert result.scenario.name == name
    content = read_transcript(result.transcript)
    assert content["verdict"]["ok"] is True
    assert list(explain(content))[-1].startswith("Verdict: as expected")


def test_there_is_a_scenario_for_every_step_of_dropout() -> None:
    names = shipped_names()
    assert len(names) >= 25
    assert {f"dropout-before-{step}" for step in STEPS} <= set(names)


def test_every_act_is_used_and_described() -> None:
    used = {act.act for name in shipped_names() for one in shipped(name).rounds for act in one.acts}
    undescribed = [entry.name for entry in REGISTRY.values() if not entry.summary]
    assert not undescribed
    assert set(REGISTRY) - used == set(), "acts without a scenario"


@pytest.mark.parametrize("name", ["honest", "false-reveals", "splice-other-federation"])
def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    assert run_scenario(shipped(name)).transcript == played(name).transcript


def test_another_seed_gives_other_bytes_and_the_same_verdict() -> None:
    other = run_scenario(with_seed(shipped("bad-shares"), 77))
    assert other.verdict.ok, other.verdict.failures
    assert other.transcript != played("bad-shares").transcript


# ---------------------------------------------------------------- secrecy of transcripts


def secrets_in(value: object) -> Iterator[bytes]:
    """Every secret that a state holds, wherever it is."""
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, AgreementKey):
        yield value.secret.reveal()
    elif is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            yield from secrets_in(getattr(value, part.name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from secrets_in(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from secrets_in(item)


def test_a_transcript_holds_no_secret() -> None:
    """Seeds, mask keys, identity keys, shares and their salts, update words, opened sums."""
    secrets: set[bytes] = set()

    def watch(stage: Stage, sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        for client in stage.clients.values():
            secrets.update(secrets_in(client.state))
        if envelope.header.type == "Unmask":
            body = read_body(envelope, Unmask)
            for share in (*body.seed_shares, *body.key_shares):
                secrets.update((share.value, share.salt))
        if envelope.header.type == "Upload":
            words = read_body(envelope, Upload).words
            secrets.update(words[i : i + 16] for i in range(0, len(words), 16))
        if envelope.header.type == "Aggregate":
            secrets.add(read_body(envelope, Aggregate).words[:16])
        return ((recipient, envelope),)

    scenario = shipped("bad-shares")
    rounds = [one.model_copy(update={"acts": [*one.acts, watch]}) for one in scenario.rounds]
    result = run_scenario(scenario.model_copy(update={"rounds": rounds}))
    assert result.stage is not None
    for key in (result.stage.keys.coordinator, *result.stage.keys.clients.values()):
        secrets.add(key.secret.reveal())
    assert len(secrets) > 200
    text = result.transcript
    for secret in secrets:
        assert secret.hex().encode() not in text
        assert secret.hex()[:24].encode() not in text
    for name in result.stage.clients:  # nor a number of anybody's update
        for number in result.stage.update_of(name, 1, 0)[:4]:
            assert f"{number:.6f}"[:7].encode() not in text


def test_vectors_appear_by_hash_only() -> None:
    result = run_scenario(
        parse_scenario(
            minimal(
                federation={"values": 2},
                updates={"vectors": {"client-01": [0.123456789, -0.5]}},
                rounds=[{"expect": {"sum_exact": None}}],
            )
        )
    )
    assert b"0.12345" not in result.transcript
    assert b"vectors_sha256" in result.transcript


# ---------------------------------------------------------------- strict forms


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"clients": 5}, "clients: is not a field of a scenario"),
        ({"rounds": []}, "at least one round"),
        ({"seed": "one"}, "seed"),
        ({"malicious": ["client-09"]}, "client-09 is nobody of this federation"),
        ({"rounds": [{"acts": [{"act": "double-lst"}]}]}, "known acts are .*double-list"),
        ({"rounds": [{"acts": [{"act": "drop", "colour": 1}]}]}, "act drop: colour"),
        ({"rounds": [{"acts": [{"act": "drop", "message": "Hi"}]}]}, "messages are Aggregate"),
        ({"rounds": [{"acts": [{"act": "drop", "from": "eva"}]}]}, "eva is nobody"),
        ({"rounds": [{"acts": [{"act": "double-list"}]}]}, "missing: \\['client'\\]"),
        (
            {"rounds": [{"acts": [{"act": "double-list", "client": "client-01", "count": 2}]}]},
            "given and not taken: \\['count'\\]",
        ),
        (
            {"rounds": [{"acts": [{"act": "double-list", "client": "client-01"}]}]},
            "signs as coordinator: list it under `malicious`",
        ),
        (
            {
                "malicious": ["coordinator"],
                "rounds": [{"acts": [{"act": "repeat-key", "client": "client-02"}]}],
            },
            "signs as client-02",
        ),
        ({"rounds": [{"acts": ["drop"]}]}, "an act is a table"),
        ({"rounds": [{"expect": {"outcome": "fine"}}]}, "expect.outcome"),
        ({"rounds": [{"expect": {"errors": [{"by": ["eva"], "error": "X"}]}}]}, "eva is no party"),
    ],
)
def test_a_form_that_is_wrong_is_refused_and_says_where(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ScenarioError, match=text):
        parse_scenario(minimal(**changes))


def test_text_that_is_no_toml_and_names_that_do_not_exist() -> None:
    with pytest.raises(ScenarioError, match="not TOML"):
        parse_scenario("title = ")
    with pytest.raises(ScenarioError, match="protocol list"):
        shipped("no-such-scenario")
    with pytest.raises(ScenarioError, match="not a transcript"):
        read_transcript(b"{}")
    with pytest.raises(ScenarioError, match="not a transcript"):
        read_transcript(b"hello")


# ---------------------------------------------------------------- verdicts that can fail


@pytest.mark.parametrize(
    ("expect", "what"),
    [
        ({"outcome": "aborted"}, "outcome"),
        ({"reason": "because"}, "reason"),
        ({"removed": ["client-02"]}, "removed"),
        ({"released_shares": 24}, "shares released"),
        ({"behind": ["client-02"]}, "left behind"),
        ({"named": ["client-02"]}, "named"),
        ({"errors": [{"error": "EquivocationError"}]}, "EquivocationError at client-01"),
        ({"notes": [{"by": ["client-01"], "text": "hm"}]}, "note of client-01"),
        ({"sent": {"client-01": ["KeyOffer"]}}, "messages of client-01"),
        ({"sum_exact": False}, "sum exact"),
    ],
)
def test_an_expectation_that_does_not_hold_fails_the_verdict(
    expect: dict[str, Any], what: str
) -> None:
    result = run_scenario(parse_scenario(minimal(rounds=[{"expect": expect}])))
    assert not result.verdict.ok
    assert any(what in line.what for line in result.verdict.failures)
    assert any("NOT as expected" in line for line in explain(read_transcript(result.transcript)))


def test_an_error_that_nobody_expected_fails_the_verdict() -> None:
    acts = [{"act": "corrupt", "message": "Cohort", "to": ["client-02"]}]
    result = run_scenario(parse_scenario(minimal(rounds=[{"acts": acts}])))
    assert any("no other error at client-02" in line.what for line in result.verdict.failures)


def test_a_charter_that_is_refused_although_nobody_expected_it() -> None:
    fields_ = minimal(federation={"clients": 2})
    result = run_scenario(parse_scenario(fields_))
    (line,) = result.verdict.failures
    assert "CharterError" in line.found
    assert result.stage is None


# ---------------------------------------------------------------- the same from Python


def test_a_scenario_in_python_with_an_act_of_its_own() -> None:
    seen: list[str] = []

    def eavesdrop(
        stage: Stage, sender: str, recipient: str, envelope: Envelope
    ) -> Sequence[Delivery]:
        seen.append(envelope.header.type)
        if envelope.header.type == "Cohort" and recipient == "client-01":
            lie = stage.actor("coordinator").forge(envelope, Cohort(bytes(32), (), ()))
            return ((recipient, lie),)
        return ((recipient, envelope),)

    scenario = Scenario(
        name="python",
        title="in Python",
        malicious=["coordinator"],
        rounds=[
            RoundForm(acts=[Drop(act="drop", message="UploadHash", sender="client-05"), eavesdrop])
        ],
    )
    result = run_scenario(scenario)
    assert "Cohort" in seen
    assert result.stage is not None
    facts = result.stage.observer.now
    assert next(e.error for e in facts.errors if e.by == "client-01") == "EquivocationError"
    with pytest.raises(ScenarioError, match="client-02, whose key the adversary does not have"):
        result.stage.actor("client-02")


def test_promises_notice_what_they_are_for() -> None:
    result = played("honest")
    assert result.stage is not None
    facts = result.stage.observer.rounds[0]
    promises = Promises(frozenset(result.scenario.honest))
    assert promises.check_round(facts, []) == ()
    # Four of five colluders plus the coordinator hold enough of both secrets of the fifth.
    exposed = promises.check_round(facts, ["client-02", "client-03", "client-04", "client-05"])
    assert "client-01" in exposed
    assert any("both secrets of client-01" in text for text in promises.broken)
    assert any("with 1 honest updates" in text for text in promises.broken)


def test_transcripts_are_canonical_and_their_signatures_hashed() -> None:
    content = read_transcript(played("honest").transcript)
    sent = [event for event in content["events"] if event["event"] == "sent"]
    assert {event["step"] for event in sent} >= {"0", "1", "2", "3", "4a", "4b", "4c", "8", "14"}
    assert all(re.fullmatch(r"[0-9a-f]{64}", event["signature_sha256"]) for event in sent)
    again = hashlib.sha256(played("honest").transcript).hexdigest()
    assert again == hashlib.sha256(run_scenario(shipped("honest")).transcript).hexdigest()
