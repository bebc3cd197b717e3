"""Sites made by the command line itself, and a way to run a command inside the test process."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedfm_audit.watermark.claim import TargetModule
from secure_fedfm import founding
from secure_fedfm.cli.main import main
from secure_fedfm.config import PREFIX
from tests.audit.marks import CARRIER

CLIENTS = ("bank-a", "bank-b", "bank-c", "bank-d")
DATA = "text,label\n" + "".join(f"hello {i},greet\nbye {i},part\n" for i in range(30))


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)

    def error(self) -> str:
        """The error line, which must be the only one."""
        found = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(found) == 1, self.err
        assert "Traceback" not in self.err
        return found[0]


Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings from outside, and the logging of this process as it was."""
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process; arguments may be paths and numbers."""

    def run_command(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run_command


@dataclass(frozen=True)
class Sites:
    """Site folders of a coordinator and four clients, enrolled, each client with data."""

    root: Path

    @property
    def coordinator(self) -> Path:
        return self.root / "coordinator"

    @property
    def model(self) -> Path:
        """Folder of a base model that nobody loads."""
        return self.root / "model"

    @property
    def draft(self) -> Path:
        return self.root / "charter.json"

    def client(self, name: str) -> Path:
        return self.root / name

    def new_charter(self, *clients: str) -> list[object]:
        """Arguments of `charter new` for these clients."""
        enrolments: list[object] = []
        for name in clients or CLIENTS:
            enrolments += ["--client-enrolment", self.client(name) / "enrolment.json"]
        coordinator = self.coordinator / "enrolment.json"
        return ["charter", "new", "--out", self.draft, "--federation", "banks", "--model",
                self.model, "--coordinator-enrolment", coordinator, *enrolments]  # fmt: skip


def _must(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="session")
def enrolled_sites(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    """Made once, since every key and file is synced to disk; tests work on copies."""
    made = Sites(tmp_path_factory.mktemp("enrolled"))
    for name, role in [("coordinator", "coordinator"), *((name, "client") for name in CLIENTS)]:
        folder = made.root / name
        _must("keygen", "--site", folder, "--role", role, "--name", name)
        _must("enroll", "--site", folder)
        if role == "client":
            (folder / "data.csv").write_text(DATA)
    made.model.mkdir()
    (made.model / "model.safetensors").write_bytes(b"weights that nobody loads")
    return made


@pytest.fixture(scope="session")
def founded_federation(enrolled_sites: Sites, tmp_path_factory: pytest.TempPathFactory) -> Sites:
    """Those sites with a charter that a quorum has signed, in every site folder."""
    made = Sites(tmp_path_factory.mktemp("founded") / "sites")
    shutil.copytree(enrolled_sites.root, made.root)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(founding, "learning_facts", _facts_without_model)
        _must(*made.new_charter(), "--labels", "greet,part")
    for name in CLIENTS[:3]:
        _must("charter", "sign", "--site", made.client(name), made.draft)
    enrolments = made.coordinator / "enrolments"
    enrolments.mkdir()
    for name in CLIENTS:
        shutil.copy(made.draft, made.client(name))
        shutil.copy(made.client(name) / "enrolment.json", enrolments / f"{name}.json")
    shutil.copy(made.draft, made.coordinator)
    return made


def _facts_without_model(*_: object) -> tuple[int, str, tuple[TargetModule, ...]]:
    return 50, "11" * 32, CARRIER.targets()


@pytest.fixture
def sites(enrolled_sites: Sites, tmp_path: Path) -> Sites:
    """Enrolled sites of this test's own."""
    shutil.copytree(enrolled_sites.root, tmp_path / "sites")
    return Sites(tmp_path / "sites")


@pytest.fixture
def federation(founded_federation: Sites, tmp_path: Path) -> Sites:
    """A founded federation of this test's own."""
    shutil.copytree(founded_federation.root, tmp_path / "founded")
    return Sites(tmp_path / "founded")


@pytest.fixture
def no_model_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draft charters without a base model: 50 values, some initial hash."""
    monkeypatch.setattr(founding, "learning_facts", _facts_without_model)
