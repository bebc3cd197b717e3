"""Exit codes, one-line errors, and help of every verb."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedfm_audit.errors import BundleError, LogLockedError, PolicyError
from fedfm_crypto.errors import CapacityError, FedFMError, SignatureError
from fedfm_protocols.errors import (
    CharterError,
    DivergenceError,
    EnrolmentError,
    PolicyViolation,
    RoundAborted,
)
from secure_fedfm.cli import main as entry
from secure_fedfm.cli import status
from secure_fedfm.cli.outcome import EXTRA_OF, Exit, exit_code, explain, require
from secure_fedfm.errors import (
    ConfigurationError,
    DataError,
    ModelError,
    ServiceError,
    StorageError,
    TransportError,
)
from secure_fedfm.transport.errors import BindError
from tests.secure_fedfm.cli.conftest import Run, Sites

VERBS = [
    ["demo"], ["keygen"], ["enroll"], ["charter"], ["charter", "new"], ["charter", "sign"],
    ["charter", "show"], ["coordinator"], ["client"], ["status"], ["evaluate"], ["audit"],
    ["audit", "verify"], ["config"], ["config", "check"], ["doctor"], [],
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: " ".join(verb) or "root")
def test_every_verb_explains_itself_and_the_exit_codes(verb: list[str]) -> None:
    for option in ("-h", "--help"):
        result = CliRunner().invoke(entry.app, [*verb, option])
        assert result.exit_code == 0
        assert "Usage:" in result.output
        for code in Exit:
            assert f"{code.value:<3} " in result.output.split("Exit codes:")[1]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("x"), 3),
        (CharterError("x"), 3),
        (PolicyViolation("x"), 3),
        (EnrolmentError("x"), 3),
        (PolicyError("x"), 3),
        (CapacityError("x"), 3),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 3),
        (DataError("x"), 4),
        (ModelError("x"), 4),
        (TransportError("x"), 5),
        (BindError("x"), 5),
        (ServiceError("x"), 6),
        (StorageError("x"), 6),
        (RoundAborted("x"), 6),
        (DivergenceError("x"), 6),
        (LogLockedError("x"), 6),
        (BundleError("x"), 6),
        (SignatureError("x"), 6),
        (FedFMError("x"), 6),
        (OSError(28, "No space left on device", "state"), 6),
        (ZeroDivisionError("x"), 70),
        (ModuleNotFoundError("No module named 'mine'", name="mine"), 70),
    ],
)
def test_exit_code_of_every_kind_of_error(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_is_one_printable_line() -> None:
    text = explain(CharterError("first\nsecond \x1b[31mred\u202e"))
    assert text == "first second \\x1b[31mred\\x202e"


@pytest.mark.parametrize(("package", "extra"), sorted(EXTRA_OF.items()))
def test_a_missing_package_names_its_extra(package: str, extra: str) -> None:
    error = ModuleNotFoundError(f"No module named '{package}.x'", name=f"{package}.x")
    assert f'pip install "secure-fedfm[{extra}]"' in explain(error)


def test_a_missing_extra_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, run: Run, federation: Sites
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = run("client", "--site", federation.client("bank-a"))
    assert ran.code == 3
    assert 'pip install "secure-fedfm[federation]"' in ran.error()
    require()


def test_an_unforeseen_error_is_70_and_debug_shows_where(
    monkeypatch: pytest.MonkeyPatch, run: Run, sites: Sites
) -> None:
    def broken(site: object) -> bool:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(status, "is_running", broken)
    ran = run("status", "--site", sites.coordinator)
    assert ran.code == 70
    assert "internal error: RuntimeError: unforeseen" in ran.error()
    debugged = run("--debug", "status", "--site", sites.coordinator)
    assert debugged.code == 70
    assert "Traceback" in debugged.err


@pytest.mark.parametrize(
    "arguments", [["nope"], ["keygen"], ["keygen", "--rolle", "x"], ["audit", "verify"]]
)
def test_wrong_usage_is_2(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert "Usage:" in ran.err + ran.out


def test_version(run: Run) -> None:
    ran = run("--version")
    assert ran.code == 0
    assert ran.out.startswith("secure-fedfm ")


def test_interrupting_a_service_is_130(federation: Sites) -> None:
    command = [sys.executable, "-m", "secure_fedfm", "coordinator", "--site",
               str(federation.coordinator), "--bind", "tcp://127.0.0.1:0"]  # fmt: skip
    # A job in the background of a shell ignores SIGINT, and so would its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            assert process.stderr is not None
            assert "listening" in process.stderr.readline()
            if sys.platform.startswith("linux"):  # it has no adapter: nothing to train one with
                maps = Path(f"/proc/{process.pid}/maps").read_text("utf-8")
                assert "libtorch" not in maps
            status_now = subprocess.run(
                [sys.executable, "-m", "secure_fedfm", "status", "--site", federation.coordinator],
                capture_output=True,
                text=True,
                check=True,
            )
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
            assert process.wait(30) == 130
        finally:
            process.kill()
    assert "Traceback" not in said
    assert "is running" in status_now.stderr
