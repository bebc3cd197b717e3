"""`ledger`: what it prints and how it ends; the arithmetic is tested in tests/audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedfm_audit.privacy.ledger import InstitutionLedger
from fedfm_audit.statements import privacy_statement, sign_statement
from secure_fedfm.storage.database import Database
from secure_fedfm.storage.ledger import DatabaseLedgerStore
from tests.audit.privacy_ledgers import CLIENT, LOCAL, PrivateFederation
from tests.audit.synthetic import play_federation
from tests.secure_fedfm.cli.conftest import Run


def write(files: dict[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def played() -> PrivateFederation:
    federation = PrivateFederation(LOCAL)
    federation.play()
    federation.settle()
    federation.play()
    return federation


@pytest.fixture(scope="module")
def bundle(played: PrivateFederation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(played.files(), tmp_path_factory.mktemp("private"))


@pytest.fixture
def site(played: PrivateFederation, tmp_path: Path) -> Path:
    """A client's folder with the charter and its own stored ledger."""
    (tmp_path / "charter.json").write_bytes(played.federation.charter)
    ledger = played.ledgers["client-02"]
    database = Database(tmp_path / "state.sqlite")
    store = DatabaseLedgerStore(database)
    for sequence, entry in enumerate(ledger.state.entries):
        key = played.federation.keys["client-02"]
        store.append(sequence, sign_statement(privacy_statement(entry), key))
    InstitutionLedger(ledger.state.terms, played.federation.keys["client-02"], store)
    database.close()
    return tmp_path


def test_epsilon(run: Run) -> None:
    ran = run(
        "ledger", "epsilon", "--noise-multiplier", "0.7", "--sampling-rate", "0.01",
        "--steps", "120", "--delta", "1e-5", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = ran.json()
    assert set(found) == {"epsilon_rdp", "epsilon_pld"}
    assert found["epsilon_rdp"] == pytest.approx(3.2392676, abs=5e-8)
    assert found["epsilon_pld"] == pytest.approx(2.4612381, abs=5e-8)
    assert ran.err == "epsilon 2.4612 at delta 1e-05 (RDP 3.2393, PLD 2.4612)\n"


def test_epsilon_as_a_table(run: Run) -> None:
    ran = run(
        "ledger", "epsilon", "--noise-multiplier", "4", "--delta", "1e-5", "--table", "--json"
    )
    rows = ran.json()["table"]
    noises = [row["noise_multiplier"] for row in rows]
    costs = [row["epsilon_pld"] for row in rows]
    assert (noises, costs) == (sorted(noises), sorted(costs, reverse=True))
    assert 4 in noises
    assert len(ran.err.splitlines()) == 2 + len(rows)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--noise-multiplier", "0"), ("--sampling-rate", "1.5"), ("--steps", "0"), ("--delta", "2")],
)
def test_epsilon_of_impossible_settings(option: str, value: str, run: Run) -> None:
    usual = {"--noise-multiplier": "1", "--sampling-rate": "0.1", "--steps": "1", "--delta": "1e-5"}
    words = [word for pair in {**usual, option: value}.items() for word in pair]
    ran = run("ledger", "epsilon", *words)
    assert ran.code == 3, ran.err
    assert option.strip("-").replace("-", "_") in ran.err


def test_show_a_bundle(bundle: Path, run: Run) -> None:
    ran = run("ledger", "show", bundle, "--json")
    assert ran.code == 0, ran.err
    document = ran.json()
    assert document["privacy"]["mode"] == "local"
    assert [ledger["institution"] for ledger in document["ledgers"]] == [
        f"client-0{number}" for number in range(1, 6)
    ]
    first: dict[str, Any] = document["ledgers"][0]
    assert first["epsilon"] == pytest.approx(1.286, abs=1e-3)
    assert (first["problems"], first["open_charges"]) == ([], [2])
    assert [entry["event"]["type"] for entry in first["entries"]] == [
        "gaussian", "completed-round", "gaussian",
    ]  # fmt: skip
    assert "not settled, and spent all the same: 2" in ran.err


def test_show_a_site(site: Path, run: Run) -> None:
    ran = run("ledger", "show", site, "--json")
    assert ran.code == 0, ran.err
    (ledger,) = ran.json()["ledgers"]
    assert (ledger["institution"], len(ledger["entries"])) == ("client-02", 3)


def test_show_names_what_is_wrong(played: PrivateFederation, tmp_path: Path, run: Run) -> None:
    index = played.indices("client-03")[1]
    leaves = [leaf for at, leaf in enumerate(played.federation.leaves) if at != index]
    ran = run("ledger", "show", write(played.files(leaves), tmp_path))
    assert ran.code == 1
    assert "entry 2: has sequence 2; the log holds no entry 1 before it" in ran.err


def test_verify(bundle: Path, run: Run) -> None:
    ran = run("ledger", "verify", bundle, "--json")
    assert ran.code == 0, ran.err
    assert ran.json()["verdict"] == "verified"
    assert ran.json()["step"]["number"] == 6
    assert run("audit", "verify", bundle, "--full").code == 0


def test_verify_fails_on_a_removed_entry(
    played: PrivateFederation, tmp_path: Path, run: Run
) -> None:
    index = played.indices("client-03")[-1]
    leaves = [leaf for at, leaf in enumerate(played.federation.leaves) if at != index]
    ran = run("ledger", "verify", write(played.files(leaves), tmp_path))
    assert ran.code == 1
    assert "client-03 committed to an update in round 2 without a charge" in ran.err


def test_no_privacy_claim_is_no_success(tmp_path: Path, run: Run) -> None:
    bundle = write(play_federation().files(), tmp_path)
    ran = run("ledger", "verify", bundle)
    assert ran.code == 1
    assert ran.err.startswith("not checkable")
    assert run("ledger", "show", bundle).err.endswith("privacy mode is none\n")
    assert run("ledger", "forecast", bundle).code == 3


def test_forecast(bundle: Path, site: Path, run: Run) -> None:
    ran = run("ledger", "forecast", bundle, "--accountant", "rdp", "--json")
    assert ran.code == 0, ran.err
    rows = ran.json()["institutions"]
    assert [row["rounds_left"] for row in rows] == [3] * 5  # five fit, two are charged
    assert run("ledger", "forecast", site, "--json").json()["institutions"][0]["rounds_left"] >= 3
    assert run("ledger", "forecast", site, "--accountant", "gdp").code == 3


def test_forecast_before_the_first_charge(tmp_path: Path, run: Run) -> None:
    planned = PrivateFederation(CLIENT)
    ran = run(
        "ledger", "forecast", write(planned.files(), tmp_path), "--accountant", "rdp", "--json"
    )
    (row,) = ran.json()["institutions"]
    assert (row["institution"], row["epsilon"]) == ("every institution", 0)
    assert row["rounds_left"] >= 20  # noise multiplier 4: twenty cost 5.38


def test_what_is_neither_site_nor_bundle(tmp_path: Path, run: Run) -> None:
    assert run("ledger", "show", tmp_path).code == 3
    assert run("ledger", "show", tmp_path / "nowhere").code == 2
    Database(tmp_path / "state.sqlite").close()
    ran = run("ledger", "show", tmp_path)
    assert (ran.code, "no charter yet" in ran.err) == (3, True)


def test_a_running_site_is_left_alone(site: Path, run: Run) -> None:
    database = Database(site / "state.sqlite")
    ran = run("ledger", "show", site)
    database.close()
    assert ran.code == 6
    assert "stop it first" in ran.err
