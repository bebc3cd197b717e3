"""charter new, sign and show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedfm_protocols.charter import open_charter, read_charter_payload
from tests.secure_fedfm.cli.conftest import CLIENTS, Run, Sites

pytestmark = pytest.mark.usefixtures("no_model_loading")


def test_new_writes_a_canonical_unsigned_draft(sites: Sites, run: Run) -> None:
    ran = run(*sites.new_charter(), "--labels", "greet,part", "--json")
    assert ran.code == 0
    charter = read_charter_payload(sites.draft.read_bytes())
    assert charter.clients == CLIENTS
    assert charter.log.origin == "banks/log"
    assert (charter.founders.names, charter.founders.quorum) == (list(CLIENTS), 3)
    assert charter.model.name == "model"  # not a path of this machine
    assert charter.training["schedule_rounds"] == 3
    document = ran.json()
    assert document["sha256"] == charter.hash.hex()
    assert (document["signed_by"], document["in_force"]) == ([], False)


@pytest.mark.parametrize("suite", [None, "layered", "masked", "sealed", "clear"])
def test_every_suite_can_be_chosen_and_layered_is_the_default(
    sites: Sites, run: Run, suite: str | None
) -> None:
    flags = () if suite is None else ("--suite", suite)
    assert run(*sites.new_charter(), "--labels", "a,b", *flags).code == 0
    assert read_charter_payload(sites.draft.read_bytes()).suite == (suite or "layered")
    shown = run("charter", "show", sites.draft)
    assert f"suite {suite or 'layered'}" in " ".join(shown.err.split())
    # What the founders sign is what the sites' default policy takes, and nothing else.
    signed = run("charter", "sign", "--site", sites.client("bank-a"), sites.draft)
    assert signed.code == (0 if suite in (None, "layered") else 3)


def test_an_unknown_suite_is_refused_with_the_names_there_are(sites: Sites, run: Run) -> None:
    ran = run(*sites.new_charter(), "--labels", "a,b", "--suite", "Layered")
    assert ran.code == 2
    for name in ("layered", "masked", "sealed", "clear"):
        assert name in ran.err
    assert not sites.draft.exists()


def test_new_takes_labels_from_data_and_training_from_a_file(
    sites: Sites, run: Run, tmp_path: Path
) -> None:
    terms = tmp_path / "terms.toml"
    terms.write_text(
        '[training]\nepochs = 2\n[adapter]\nrank = 4\n[server_optimiser]\nkind = "fedavgm"\n'
    )
    data = sites.client("bank-a") / "data.csv"
    ran = run(*sites.new_charter(), "--labels-from", data, "--training", terms, "--rounds", "7")
    assert ran.code == 0, ran.err
    charter = read_charter_payload(sites.draft.read_bytes())
    assert charter.task.labels == ["greet", "part"]
    assert (charter.training["epochs"], charter.training["schedule_rounds"]) == (2, 7)
    assert charter.adapter["rank"] == 4
    assert charter.server_optimiser["kind"] == "fedavgm"


def test_signatures_add_up_to_a_quorum(sites: Sites, run: Run) -> None:
    run(*sites.new_charter(), "--labels", "a,b", "--founders", "bank-a, bank-c", "--quorum", "2")
    first = run("charter", "sign", "--site", sites.client("bank-a"), sites.draft, "--json")
    assert (first.code, first.json()["in_force"], first.json()["missing"]) == (0, False, ["bank-c"])
    second = run("charter", "sign", "--site", sites.client("bank-c"), sites.draft, "--json")
    assert (second.code, second.json()["in_force"]) == (0, True)
    assert second.json()["sha256"] == first.json()["sha256"]
    assert set(open_charter(sites.draft.read_bytes()).signers) == {"bank-a", "bank-c"}
    shown = run("charter", "show", sites.draft)
    assert (shown.code, shown.out) == (0, "")
    assert "in force" in shown.err
    assert first.json()["sha256"] in shown.err


@pytest.mark.parametrize(
    ("who", "expected"),
    [("bank-a", "already signed"), ("bank-b", "not a founder"), ("coordinator", "is for a client")],
)
def test_who_cannot_sign(sites: Sites, run: Run, who: str, expected: str) -> None:
    run(*sites.new_charter(), "--labels", "a,b", "--founders", "bank-a,bank-c")
    run("charter", "sign", "--site", sites.client("bank-a"), sites.draft)
    before = sites.draft.read_bytes()
    ran = run("charter", "sign", "--site", sites.root / who, sites.draft)
    assert ran.code == 3
    assert expected in ran.error()
    assert sites.draft.read_bytes() == before


def test_nobody_signs_for_a_transport_key_that_is_not_theirs(sites: Sites, run: Run) -> None:
    run(*sites.new_charter(), "--labels", "a,b")
    fields = json.loads(sites.draft.read_bytes())
    fields["roster"][0]["transport"] = "02" * 32
    sites.draft.write_text(json.dumps(fields, separators=(",", ":"), sort_keys=True))
    ran = run("charter", "sign", "--site", sites.client("bank-a"), sites.draft)
    assert ran.code == 3
    assert "transport key" in ran.error()


def test_nobody_signs_below_their_own_policy(sites: Sites, run: Run) -> None:
    run(*sites.new_charter(), "--labels", "a,b", "--suite", "clear")
    ran = run("charter", "sign", "--site", sites.client("bank-a"), sites.draft)
    assert ran.code == 3
    assert "local policy suites" in ran.error()


def test_a_changed_value_breaks_the_signatures(federation: Sites, run: Run) -> None:
    envelope = json.loads(federation.draft.read_bytes())
    envelope["signatures"][0]["sig"] = envelope["signatures"][1]["sig"]
    federation.draft.write_text(json.dumps(envelope, separators=(",", ":"), sort_keys=True))
    ran = run("charter", "show", federation.draft)
    assert ran.code == 3
    assert str(federation.draft) in ran.error()


@pytest.mark.parametrize(
    ("extra", "code", "expected"),
    [
        (["--labels", "a"], 3, "at least 2"),
        ([], 3, "--labels-from"),
        (["--labels", "a,b", "--labels-from", "x.csv"], 3, "in one way"),
        (["--labels-from", "nowhere.csv"], 4, "check the path"),
        (["--labels", "a,b", "--quorum", "9"], 3, "quorum"),
        (["--labels", "a,b", "--founders", "bank-x"], 3, "bank-x"),
        (["--labels", "a,b", "--dropouts", "3"], 3, "at most 1 may vanish"),
        (["--labels", "a,b", "--scale", str(1 << 31)], 3, "does not"),
        (["--labels", "a,b", "--clip", "nan"], 3, "clip"),
        (["--labels", "a,b", "--lane-bits", "16"], 3, "lane_bits"),
        (["--labels", "a,b", "--federation", "Our Banks"], 3, "lowercase"),
        (["--labels", "a,b", "--log-key", "zz"], 3, "log.pub"),
        (["--labels", "a,b", "--model", "/nowhere/model"], 4, "model"),
        (["--labels", "a,b", "--rounds", "0"], 2, ""),
    ],
)
def test_wrong_terms(sites: Sites, run: Run, extra: list[str], code: int, expected: str) -> None:
    ran = run(*sites.new_charter(), *extra)
    assert ran.code == code, ran.err
    if code != 2:
        assert expected in ran.error()
    assert not sites.draft.exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[training]\nepoch = 2\n", "unknown keys epoch"),
        ("[train]\nepochs = 2\n", "unknown tables train"),
        ("[training]\nepochs = 0\n", "at least 1"),
        ("training = 3\n", "[training]"),
        ("[training\n", "not valid TOML"),
    ],
)
def test_wrong_training_file(
    sites: Sites, run: Run, tmp_path: Path, text: str, expected: str
) -> None:
    terms = tmp_path / "terms.toml"
    terms.write_text(text)
    ran = run(*sites.new_charter(), "--labels", "a,b", "--training", terms)
    assert ran.code == 3
    assert expected in ran.error()


def test_two_clients_with_one_identity(sites: Sites, run: Run) -> None:
    twin = sites.client("twin")
    twin.mkdir()
    (sites.client("bank-a") / "keys").rename(twin / "keys")
    config = (sites.client("bank-a") / "site.toml").read_text()
    (twin / "site.toml").write_text(config.replace("bank-a", "twin"))
    assert run("enroll", "--site", twin).code == 0
    ran = run(*sites.new_charter(*CLIENTS, "twin"), "--labels", "a,b")
    assert ran.code == 3
    assert "bank-a and twin have the same identity key" in ran.error()
    assert "keygen" in ran.error()


def test_one_enrolment_twice(sites: Sites, run: Run) -> None:
    ran = run(*sites.new_charter(*CLIENTS, "bank-a"), "--labels", "a,b")
    assert ran.code == 3
    assert "two enrolments are named bank-a" in ran.error()


def test_roles_cannot_be_swapped(sites: Sites, run: Run) -> None:
    as_client = run(*sites.new_charter(*CLIENTS, "coordinator"), "--labels", "a,b")
    assert as_client.code == 3
    assert "no place on the roster" in as_client.error()


def test_a_draft_never_replaces_a_file(sites: Sites, run: Run) -> None:
    sites.draft.write_text("signed by all")
    assert run(*sites.new_charter(), "--labels", "a,b").code == 3
    assert sites.draft.read_text() == "signed by all"


def test_signing_works_from_the_folder_that_holds_the_draft(
    sites: Sites, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*sites.new_charter(), "--labels", "a,b")
    monkeypatch.chdir(sites.draft.parent)
    ran = run("charter", "sign", "--site", sites.client("bank-a"), sites.draft.name)
    assert ran.code == 0, ran.err
    assert open_charter(sites.draft.read_bytes(), require_quorum=False).signers == ("bank-a",)
