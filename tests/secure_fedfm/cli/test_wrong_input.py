"""The wrong inputs that end in a service: one clear error line with its fix, and the right code."""

from __future__ import annotations

import socket

import pytest

from secure_fedfm.cli.outcome import Exit, exit_code
from secure_fedfm.transport.errors import DuplicateIdentityError
from tests.secure_fedfm.cli.conftest import Run, Sites

A_CLIENT = "bank-a"


def test_port_in_use(federation: Sites, run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        ran = run("coordinator", "--site", federation.coordinator, "--bind", address)
    assert ran.code == 5
    assert address in ran.error()
    assert "choose another port" in ran.error()


def test_remote_address_without_leave(federation: Sites, run: Run) -> None:
    ran = run("coordinator", "--site", federation.coordinator, "--bind", "tcp://0.0.0.0:7499")
    assert ran.code == 5
    assert "allow_remote" in ran.error()


def test_charter_below_local_policy(federation: Sites, run: Run) -> None:
    site = federation.client(A_CLIENT)
    ran = run("client", "--site", site, "--set", "policy.min_clients=9")
    assert ran.code == 3
    assert "local policy min_clients: at least 9 is demanded, the charter has 4" in ran.error()


def test_another_charter_than_agreed(federation: Sites, run: Run) -> None:
    ran = run("client", "--site", federation.client(A_CLIENT), "--charter-hash", "00" * 32)
    assert ran.code == 3
    assert "charter_hash" in ran.error()


def test_missing_column(federation: Sites, run: Run) -> None:
    ran = run("client", "--site", federation.client(A_CLIENT), "--label-column", "topic")
    assert ran.code == 4
    assert "found columns text, label" in ran.error()
    assert "--label-column" in ran.error()


def test_unknown_label(federation: Sites, run: Run) -> None:
    site = federation.client(A_CLIENT)
    (site / "data.csv").write_text("text,label\nhi,greet\nyo,shrug\n")
    ran = run("client", "--site", site)
    assert ran.code == 4
    assert "unknown label 'shrug' in row 2" in ran.error()


def test_no_data(federation: Sites, run: Run) -> None:
    site = federation.client(A_CLIENT)
    (site / "data.csv").unlink()
    ran = run("client", "--site", site)
    assert ran.code == 4
    assert "check the path" in ran.error()


def test_model_hash_mismatch(federation: Sites, run: Run) -> None:
    (federation.model / "model.safetensors").write_bytes(b"other weights")
    ran = run("client", "--site", federation.client(A_CLIENT), "--model", federation.model)
    assert ran.code == 4
    assert "expected" in ran.error()
    assert "Install the agreed model" in ran.error()


def test_a_site_of_the_other_role(federation: Sites, run: Run) -> None:
    ran = run("client", "--site", federation.coordinator)
    assert ran.code == 3
    assert "this command is for a client" in ran.error()


def test_an_identity_that_the_charter_does_not_know(federation: Sites, run: Run) -> None:
    charter = (federation.coordinator / "charter.json").read_bytes()
    run("keygen", "--site", federation.root / "x", "--role", "client", "--name", A_CLIENT)
    (federation.root / "x" / "charter.json").write_bytes(charter)
    ran = run("client", "--site", federation.root / "x")
    assert ran.code == 3
    assert "not the one the charter enrolled" in ran.error()


def test_two_processes_with_one_identity_is_a_network_error() -> None:
    assert exit_code(DuplicateIdentityError("taken over")) is Exit.NETWORK


@pytest.mark.parametrize("setting", ["policy", "=3", ".a=1", "policy.=1"])
def test_malformed_set(federation: Sites, run: Run, setting: str) -> None:
    ran = run("client", "--site", federation.client(A_CLIENT), "--set", setting)
    assert ran.code == 3
    assert "KEY=VALUE" in ran.error()
