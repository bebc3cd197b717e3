"""keygen and enroll: what is written, with which modes, and what is never printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfm_protocols.enrolment import open_enrolment
from secure_fedfm.config import read_config
from secure_fedfm.enrolling import fingerprint, read_log_public
from secure_fedfm.storage.site import Site
from tests.secure_fedfm.cli.conftest import Run


@pytest.mark.parametrize("role", ["client", "coordinator", "validator"])
def test_keygen_writes_private_files_and_a_valid_config(
    tmp_path: Path, run: Run, role: str
) -> None:
    ran = run("keygen", "--site", tmp_path / "s", "--role", role, "--name", "bank-a", "--json")
    assert ran.code == 0
    files = sorted(path.name for path in (tmp_path / "s" / "keys").iterdir())
    log_key = ["log.pem"] if role == "coordinator" else []
    assert files == ["identity.pem", *log_key, "transport.pem"]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "s" / "keys").iterdir()} == {0o600}
    config = read_config(tmp_path / "s" / "site.toml", environment={})
    assert (config.role, config.name) == (role, "bank-a")
    site = Site(tmp_path / "s")
    assert ran.json()["public_keys"]["identity"] == site.identity().public.hex
    if role == "coordinator":
        public = read_log_public(tmp_path / "s" / "log.pub")
        assert public.raw == site.log_key().public.raw


def test_keygen_prints_no_secret(tmp_path: Path, run: Run) -> None:
    ran = run("keygen", "--site", tmp_path, "--role", "coordinator", "--name", "c", "--json")
    site = Site(tmp_path)
    for secret in (site.identity().secret, site.transport(), site.log_key().secret):
        assert secret.reveal().hex() not in ran.out + ran.err
    assert fingerprint(site.identity().public.hex) in ran.err
    assert "PRIVATE" not in ran.out + ran.err


def test_keygen_never_overwrites(tmp_path: Path, run: Run) -> None:
    arguments = ("keygen", "--site", tmp_path, "--role", "client", "--name", "bank-a")
    run(*arguments)
    (tmp_path / "keys" / "identity.pem").unlink()
    before = (tmp_path / "keys" / "transport.pem").read_bytes()
    ran = run(*arguments)
    assert ran.code == 6
    assert "never overwritten" in ran.error()
    assert (tmp_path / "keys" / "transport.pem").read_bytes() == before
    assert not (tmp_path / "keys" / "identity.pem").exists()


def test_keygen_keeps_a_config_that_is_there(tmp_path: Path, run: Run) -> None:
    (tmp_path / "site.toml").write_text("# mine\n")
    ran = run("keygen", "--site", tmp_path, "--role", "client", "--name", "bank-a")
    assert ran.code == 0
    assert (tmp_path / "site.toml").read_text() == "# mine\n"
    assert "kept" in ran.err


@pytest.mark.parametrize("name", ["Bank A", "", "-x", "x" * 64, 'a"\nrole = "b'])
def test_keygen_refuses_a_bad_name_before_making_keys(tmp_path: Path, run: Run, name: str) -> None:
    ran = run("keygen", "--site", tmp_path / "s", "--role", "client", "--name", name)
    assert ran.code == 3
    assert "lowercase" in ran.error()
    assert not (tmp_path / "s").exists()


def test_enroll_signs_what_the_site_is(tmp_path: Path, run: Run) -> None:
    run("keygen", "--site", tmp_path, "--role", "client", "--name", "bank-a")
    copy = tmp_path / "out" / "bank-a.json"
    ran = run("enroll", "--site", tmp_path, "--days", "30", "--out", copy, "--json")
    assert ran.code == 0
    enrolment = open_enrolment((tmp_path / "enrolment.json").read_bytes())
    assert (enrolment.name, enrolment.role) == ("bank-a", "client")
    assert enrolment.identity == Site(tmp_path).identity().public.hex
    assert copy.read_bytes() == enrolment.statement
    assert ran.json()["sha256"] == enrolment.digest


def test_enroll_replaces_only_when_told(tmp_path: Path, run: Run) -> None:
    run("keygen", "--site", tmp_path, "--role", "client", "--name", "bank-a")
    run("enroll", "--site", tmp_path, "--days", "30")
    first = (tmp_path / "enrolment.json").read_bytes()
    refused = run("enroll", "--site", tmp_path)
    assert refused.code == 3
    assert "--replace" in refused.error()
    assert (tmp_path / "enrolment.json").read_bytes() == first
    assert run("enroll", "--site", tmp_path, "--replace").code == 0
    assert (tmp_path / "enrolment.json").read_bytes() != first


def test_enroll_refuses_a_key_that_others_can_read(tmp_path: Path, run: Run) -> None:
    run("keygen", "--site", tmp_path, "--role", "client", "--name", "bank-a")
    (tmp_path / "keys" / "identity.pem").chmod(0o644)
    ran = run("enroll", "--site", tmp_path)
    assert ran.code == 6
    assert "chmod 600" in ran.error()
