"""config check, status and doctor: reading a site and saying what is so."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from secure_fedfm.cli.checks import Requirement
from secure_fedfm.services.status import Status, write_status
from secure_fedfm.storage.database import Database
from secure_fedfm.storage.keys import PASSPHRASE_VARIABLE
from tests.secure_fedfm.cli.conftest import Ran, Run, Sites


def test_config_check_names_the_source_of_every_value(
    sites: Sites, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECURE_FEDFM_THREADS", "3")
    monkeypatch.setenv("SECURE_FEDFM_TIMEOUTS__VOTES", "9")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    site = sites.client("bank-a")
    arguments = ("--set", "timeouts.votes=5", "--set", 'policy.suites=["clear"]', "--json")
    ran = run("config", "check", "--site", site, *arguments)
    assert ran.code == 0, ran.err
    document = ran.json()
    expected = {
        "name": ("bank-a", "site.toml"),
        "threads": (3, "SECURE_FEDFM_THREADS"),
        "timeouts.votes": (5.0, "flag"),
        "policy.suites": (["clear"], "flag"),
        "log_level": ("info", "default"),
    }
    found = {key: (document["values"][key], document["sources"][key]) for key in expected}
    assert found == expected
    assert "correct horse" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("line", "expected"),
    [("thread = 2", "thread"), ("threads = 0", "threads"), ("threads = ", "not valid TOML")],
)
def test_config_check_names_what_is_wrong(sites: Sites, run: Run, line: str, expected: str) -> None:
    file = sites.client("bank-a") / "site.toml"
    file.write_text(f"{line}\n" + file.read_text())
    ran = run("config", "check", file)
    assert ran.code == 3
    assert expected in ran.error()


def test_config_check_wants_one_place(run: Run, tmp_path: Path) -> None:
    assert run("config", "check").code == 3
    assert run("config", "check", "--site", tmp_path, tmp_path / "site.toml").code == 3


def test_status_says_that_nothing_runs(federation: Sites, run: Run) -> None:
    ran = run("status", "--site", federation.client("bank-a"), "--json")
    assert ran.code == 0
    assert "nothing runs" in ran.err
    document = ran.json()
    assert (document["running"], document["status"]) == (False, None)
    assert document["charter"]["in_force"] is True


def test_status_after_a_service_has_ended(federation: Sites, run: Run) -> None:
    site = federation.coordinator
    Database(site / "state.sqlite").close()
    write_status(site, Status("coordinator", "coordinator", "votes", 2, 1, 3, "ab" * 32, ("x",)))
    ran = run("status", "--site", site, "--json")
    assert ran.code == 0
    assert "nothing runs" in ran.err
    assert "'votes'" in ran.err
    assert ran.json()["status"]["completed"] == 1


@pytest.mark.parametrize("content", ["{", "[1]", '"x"'])
def test_status_refuses_a_damaged_file(federation: Sites, run: Run, content: str) -> None:
    (federation.coordinator / "status.json").write_text(content)
    ran = run("status", "--site", federation.coordinator)
    assert ran.code == 6
    assert "status.json" in ran.error()


def _levels(ran: Ran) -> dict[str, str]:
    return {check["name"]: check["level"] for check in ran.json()["checks"]}


def test_doctor_is_content_with_a_good_coordinator(federation: Sites, run: Run) -> None:
    free = ("--site", federation.coordinator, "--json")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = federation.coordinator / "site.toml"
    file.write_text(file.read_text().replace("7401", str(port)))
    ran = run("doctor", *free)
    assert ran.code == 0, ran.err
    assert ran.json()["role"] == "coordinator"
    assert _levels(ran)["enrolments"] == "ok"


def test_doctor_finds_every_fault_of_a_client(federation: Sites, run: Run) -> None:
    site = federation.client("bank-a")
    (site / "keys" / "identity.pem").chmod(0o640)
    (site / "data.csv").write_text("text,label\nhi,shrug\n")
    ran = run("doctor", "--site", site, "--json")
    assert ran.code == 1
    levels = _levels(ran)
    assert levels["keys"] == levels["data"] == levels["charter"] == "failed"
    assert levels["python"] == "ok"
    fixes = {check["name"]: check["found"] for check in ran.json()["checks"]}
    assert "chmod 600" in fixes["keys"]
    assert "shrug" in fixes["data"]


def test_doctor_finds_a_port_in_use(federation: Sites, run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        file = federation.coordinator / "site.toml"
        file.write_text(file.read_text().replace("7401", str(taken.getsockname()[1])))
        ran = run("doctor", "--site", federation.coordinator, "--json")
    assert ran.code == 1
    assert _levels(ran)["port"] == "failed"


def test_doctor_of_a_site_before_its_charter(sites: Sites, run: Run) -> None:
    ran = run("doctor", "--site", sites.client("bank-a"), "--json")
    assert ran.code == 0, ran.err
    assert _levels(ran)["charter"] == "warning"


def test_doctor_without_a_site_looks_at_the_base_install(run: Run) -> None:
    ran = run("doctor", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["role"] == "auditor"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("numpy<3,>=2.0", ""),
        ("numpy<2,>=1.0", "is not <2,>=1.0"),
        ("no-such-package>=1", "is missing"),
    ],
)
def test_requirements_are_judged_by_their_bounds(line: str, problem: str) -> None:
    requirement = Requirement.parse(line + '; extra == "federation"')
    assert requirement is not None
    assert requirement.extra == "federation"
    assert problem in requirement.problem()
    assert bool(problem) == bool(requirement.problem())
