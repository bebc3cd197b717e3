"""`protocol run|explain|list`, and the documentation of it: every snippet and command runs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fedfm_protocols.scenario.library import shipped_names
from tests.conftest import REPOSITORY
from tests.secure_fedfm.cli.conftest import Run
from tests.secure_fedfm.cli.test_light_imports import run_without_extras

PAGE = REPOSITORY / "docs" / "protocol-testing.md"
WRONG = """
title = "an expectation that does not hold"
[[rounds]]
[rounds.expect]
outcome = "aborted"
"""


def test_run_and_explain(run: Run, tmp_path: Path) -> None:
    ran = run("protocol", "run", "double-listed-victim", "--out", str(tmp_path), "--json")
    assert ran.code == 0
    assert ran.json()["scenarios"]["double-listed-victim"]["ok"] is True
    assert "1 of 1 scenarios as expected" in ran.err
    told = run("protocol", "explain", str(tmp_path / "double-listed-victim.json"))
    assert told.code == 0
    assert "step 8" in told.out
    assert "EquivocationError: client-03 listed as accepted and as removed" in told.out
    assert told.out.rstrip().splitlines()[-1].startswith("Verdict: as expected")


def test_the_seed_changes_the_transcript_and_not_the_verdict(run: Run, tmp_path: Path) -> None:
    for seed in ("1", "2", "2"):
        folder = tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}"
        assert run("protocol", "run", "honest", "--seed", seed, "--out", str(folder)).code == 0
    first, second, third = (p.read_bytes() for p in sorted(tmp_path.rglob("honest.json")))
    assert first != second
    assert second == third


def test_inside_a_session(run: Run, tmp_path: Path) -> None:
    arguments = ("--session", "3", "--step", "2", "--out", str(tmp_path))
    assert run("protocol", "run", "double-listed-victim", *arguments).code == 0
    told = run("protocol", "explain", str(tmp_path / "double-listed-victim.json"))
    assert "ended after 2 of 3 steps: 0 clients voted" in told.out
    wrong = run("protocol", "run", "honest", "--session", "3", "--step", "3")
    assert wrong.code == 3
    assert "step 3 of a session of 3 steps; expected 0 to 2" in wrong.err


def test_a_verdict_that_is_not_the_expected_one_ends_with_1(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(WRONG)
    ran = run("protocol", "run", str(path), "--out", str(tmp_path))
    assert ran.code == 1
    assert "expected 'aborted', found 'completed'" in ran.err
    told = run("protocol", "explain", str(tmp_path / "wrong.json"))
    assert "NOT as expected" in told.out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["no-such-scenario"], 3, "no scenario called 'no-such-scenario'"),
        (["--all", "honest"], 2, "name one scenario"),
        ([], 2, "name one scenario"),
        (["missing.toml"], 6, "missing.toml"),
    ],
)
def test_wrong_usage(run: Run, arguments: list[str], code: int, text: str) -> None:
    ran = run("protocol", "run", *arguments)
    assert ran.code == code
    assert text in ran.err


def test_a_scenario_with_an_unknown_act_lists_the_known_ones(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "typo.toml"
    path.write_text('title = "x"\n[[rounds]]\nacts = [{ act = "dropp" }]\n')
    ran = run("protocol", "run", str(path))
    assert ran.code == 3
    assert "unknown act 'dropp'; known acts are" in ran.err


def test_a_script_without_a_scenario(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("x = 1\n")
    ran = run("protocol", "run", str(path))
    assert ran.code == 3
    assert "defines no `scenario`" in ran.err


def test_list(run: Run) -> None:
    listed = run("protocol", "list", "--json").json()["scenarios"]
    assert [one["name"] for one in listed] == list(shipped_names())
    acts = run("protocol", "list", "--acts", "--json").json()["acts"]
    assert acts["double-list"]["by"] == "malicious coordinator"


def test_protocol_needs_no_extra() -> None:
    ran = run_without_extras("protocol", "run", "honest", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["ok"] is True


def test_the_page_is_true(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scenarios give their verdicts, and its commands end with 0 (`--all` elsewhere)."""
    text = PAGE.read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    for name, language in (
        ("lost-upload.toml", "toml"),
        ("rogue-part.toml", "toml"),
        ("late-lie.toml", "toml"),
        ("half-a-sketch.toml", "toml"),
        ("isolate.py", "python runnable"),
    ):
        after = text[text.index(f"`{name}`") :]
        found = re.search(rf"^```{language}\n(.*?)^```$", after, re.MULTILINE | re.DOTALL)
        assert found is not None
        Path(name).write_text(found.group(1))
    commands = re.findall(r"^secure-fedfm (protocol [^\n#]*)", text, re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        if "--all" not in command:
            ran = run(*shlex.split(command))
            assert ran.code == 0, (command, ran.err)
    ended = subprocess.run([sys.executable, "isolate.py"], capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_page_names_every_shipped_scenario_and_no_other() -> None:
    table = PAGE.read_text("utf-8").partition("## Attacks covered")[2]
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", table)) | {"bad-updates"}
    elsewhere = {
        name
        for name in shipped_names()
        if name.startswith("dropout-before-")
        or "honest" in name.split("-")
        or name in ("bad-updates", "not-a-number", "charter-exhausted")
    }
    assert set(shipped_names()) - named - elsewhere == set()
    assert {n for n in named if "-" in n} - set(shipped_names()) <= {"dropout-before"}
