"""Wrong input to real services: one clear line that says what to do, and the documented code."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from secure_fedfm.learning.specs import ModelSpec
from secure_fedfm.services.client_memory import ClientJournal
from secure_fedfm.storage.site import Site
from tests.integration.federation_processes import (
    COORDINATOR,
    TestFederation,
    build_federation,
    free_port,
    rows_of,
    write_rows,
)
from tests.integration.forked_processes import REPOSITORY, Launcher

CONFIGURATION, DATA, NETWORK, SERVICE = 3, 4, 5, 6
CLIENT = "clinic-1"
COMMAND = (sys.executable, "-m", "secure_fedfm")


@pytest.fixture(scope="module")
def pristine(
    tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, tiny_model: ModelSpec
) -> TestFederation:
    root = tmp_path_factory.mktemp("wrong-input") / "sites"
    return build_federation(root, launcher, tiny_model, clients=3, rounds=1)


@pytest.fixture
def federation(pristine: TestFederation, tmp_path: Path) -> TestFederation:
    """A fresh copy of the site folders, to spoil."""
    root = tmp_path / "sites"
    shutil.copytree(pristine.root, root)
    sites = {name: Site(root / name) for name in pristine.sites}
    return TestFederation(root, pristine.launcher, pristine.charter, sites, pristine.endpoint)


def the_error(federation: TestFederation, party: str, code: int, *flags: str) -> str:
    """Run a party that cannot start; returns its one line of error."""
    with federation:
        federation.start(party, flags=flags)
        ended = federation.processes[party].wait()
        log = federation.log_of(party)
    return checked_line(ended, log, code)


def checked_line(ended: int, log: str, code: int) -> str:
    assert ended == code, log
    assert "Traceback" not in log
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, log
    assert log.splitlines()[-1] == errors[0]
    return errors[0]


def missing_column(site: Site) -> tuple[str, ...]:
    write_rows(site.root / "data.csv", rows_of(1), header=("sentence", "mood"))
    return ("--text-column", "question")


def unknown_label(site: Site) -> tuple[str, ...]:
    write_rows(site.root / "data.csv", [*rows_of(1), ("my card", "stolen-card")])
    return ()


def other_weights(site: Site) -> tuple[str, ...]:
    folder = site.root / "model"
    shutil.copytree(Site(site.root).charter().charter.model.name, folder)
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + torch.full_like(tensors[name], 1e-3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return ("--model", str(folder))


def strict_policy(site: Site) -> tuple[str, ...]:
    return ("--set", "policy.min_clients=10")


def pinned_charter(site: Site) -> tuple[str, ...]:
    return ("--charter-hash", "ab" * 32)


def keys_of_another(site: Site) -> tuple[str, ...]:
    shutil.rmtree(site.root / "keys")
    shutil.copytree(site.root.parent / "clinic-2" / "keys", site.root / "keys")
    return ()


def altered_charter(site: Site) -> tuple[str, ...]:
    data = site.charter_file.read_bytes()
    site.charter_file.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    return ()


def state_of_another_federation(site: Site) -> tuple[str, ...]:
    database = site.database()
    ClientJournal(database, "cd" * 32)
    database.close()
    return ()


def nobody_there(site: Site) -> tuple[str, ...]:
    address = f"tcp://127.0.0.1:{free_port()}"
    return ("--coordinator", address, "--connect-timeout", "0.5")


def readable_key(site: Site) -> tuple[str, ...]:
    site.identity_file.chmod(0o644)
    return ()


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (missing_column, DATA, ("question", "sentence", "mood")),
        (unknown_label, DATA, ("stolen-card",)),
        (other_weights, DATA, ("SHA-256", "Install the agreed model")),
        (strict_policy, CONFIGURATION, ("min_clients", "at least 10", "ask the founders")),
        (pinned_charter, CONFIGURATION, ("charter_hash", "abab", "ask the founders")),
        (keys_of_another, CONFIGURATION, ("identity key", CLIENT, "use the site folder")),
        (altered_charter, CONFIGURATION, ()),
        (readable_key, SERVICE, ("0644", "chmod 600")),
        (state_of_another_federation, SERVICE, ("another federation", "folder of its own")),
        (nobody_there, NETWORK, ("nobody listens", "start the coordinator")),
    ],
)
def test_a_client_says_what_is_wrong(
    federation: TestFederation,
    spoil: Callable[[Site], tuple[str, ...]],
    code: int,
    says: tuple[str, ...],
) -> None:
    flags = spoil(federation.sites[CLIENT])
    line = the_error(federation, CLIENT, code, *flags)
    for words in says:
        assert words in line


def test_a_port_in_use(federation: TestFederation) -> None:
    """By the command that a person types, not through the launcher."""
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        address = f"tcp://127.0.0.1:{busy.getsockname()[1]}"
        site = federation.sites[COORDINATOR].root
        done = subprocess.run(
            [*COMMAND, "coordinator", "--site", str(site), "--bind", address],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    line = checked_line(done.returncode, done.stderr, NETWORK)
    assert address in line
    assert "in use" in line


def test_the_verb_of_the_other_role(federation: TestFederation) -> None:
    with federation:
        site = federation.sites[CLIENT]
        process = federation.launcher.start(
            CLIENT, ["coordinator", "--site", str(site.root)], site.root / "log.jsonl", {}
        )
        line = checked_line(process.wait(), federation.log_of(CLIENT), CONFIGURATION)
    assert "give another --site" in line


def test_a_missing_enrolment(federation: TestFederation) -> None:
    (federation.sites[COORDINATOR].enrolments_folder / "clinic-2.json").unlink()
    line = the_error(federation, COORDINATOR, CONFIGURATION)
    assert "clinic-2" in line
    assert "secure-fedfm enroll" in line


def test_two_clients_on_one_site_folder(federation: TestFederation) -> None:
    """The second one is refused by the state file; the first goes on undisturbed."""
    gate = federation.root / "gate"
    with federation:
        federation.start_all({CLIENT: {"train_until": {"2": str(gate)}}})
        federation.wait_for(CLIENT, "connected")
        first = federation.processes[CLIENT]
        log = federation.sites[CLIENT].root / "second.log"
        arguments = ["client", "--site", str(federation.sites[CLIENT].root)]
        second = federation.launcher.start("second", arguments, log, {})
        line = checked_line(second.wait(), log.read_text(), SERVICE)
        assert "another process of this site" in line
        gate.touch()
        federation.run_to_end()
        assert first.code == 0
        assert federation.outcomes() == {1: "completed", 2: "completed"}
