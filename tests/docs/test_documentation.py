"""The documentation is true where a machine can tell: links, commands, snippets, no local paths."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from secure_fedfm.cli.main import app
from tests.conftest import REPOSITORY

PROGRAM = "secure-fedfm"
# What a file of this machine would look like in a text for other machines.
LOCAL_PATH = re.compile(r"(?<![\w.~<-])/(?:work|root|home|tmp|Users|mnt|private)(?:/|\b)")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
INLINE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(rf"(?:^|/){re.escape(PROGRAM)}$")
SHELL = ("sh", "bash", "console")


def documents() -> list[Path]:
    """Every Markdown file that belongs to the project."""
    found = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    for folder in ("crypto", "protocols", "audit", "benchmarks"):
        found += (REPOSITORY / folder).glob("*.md")
    return sorted(found)


def blocks(text: str, *languages: str) -> Iterator[str]:
    """Fenced blocks whose info string starts with one of ``languages``."""
    for info, content in FENCE.findall(text):
        if info.split()[:1] and info.split()[0] in languages:
            yield content


def anchors(path: Path) -> set[str]:
    """Anchors of the headings of a file, as the usual hosting platforms make them."""
    outside = FENCE.sub("", path.read_text("utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", outside, re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
        found.add(plain.replace(" ", "-"))
    return found


def broken_links(path: Path, text: str) -> list[str]:
    """Relative links of a document that lead nowhere."""
    broken = []
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        goal = (path.parent / name).resolve() if name else path
        there = goal.exists() and goal.is_relative_to(REPOSITORY)
        if there and anchor:
            there = goal.suffix == ".md" and anchor in anchors(goal)
        if not there:
            broken.append(target)
    return broken


# ---- the command line, as the parser knows it


@cache
def command_tree() -> Any:
    """The root command; a verb with subcommands has ``commands``, every verb has ``params``."""
    return typer.main.get_command(app)


def flags_of(command: Any) -> set[str]:
    """Every spelling of every option, the help option included."""
    found = {"-h", "--help"}
    for parameter in command.params:
        if parameter.param_type_name == "option":
            found |= {*parameter.opts, *parameter.secondary_opts}
    return found


def check_command(words: list[str]) -> None:
    """Check that the words after the program name are a verb of it, with flags that it has.

    Raises
    ------
    ValueError
        naming the verb or flag that does not exist.
    """
    command = command_tree()
    verb = PROGRAM
    for number, word in enumerate(words):
        if word.startswith("-") and word != "-":
            flag = word.partition("=")[0]
            if flag not in flags_of(command):
                raise ValueError(f"{verb} has no flag {flag}")
        elif hasattr(command, "commands"):
            if not re.fullmatch(r"[a-z|-]+", word):
                return  # "...", a placeholder or prose
            if "|" in word and number == len(words) - 1:
                for one in word.split("|"):
                    check_command([*words[:number], one])
                return
            if word not in command.commands:
                raise ValueError(f"{verb} has no verb {word}")
            command, verb = command.commands[word], f"{verb} {word}"


def commands_in(text: str) -> Iterator[list[str]]:
    """The words after ``secure-fedfm`` of every command in shell blocks and inline code."""
    lines = []
    for content in blocks(text, *SHELL):
        lines += content.replace("\\\n", " ").splitlines()
    lines += INLINE.findall(FENCE.sub("", text))
    for line in lines:
        if PROGRAM not in line:
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # inline prose with an apostrophe
        starts = [number for number, word in enumerate(words) if COMMAND.search(word)]
        if starts[:1] and all("=" in word or word == "&&" for word in words[: starts[0]]):
            yield words[starts[0] + 1 :]


# ---- tests


@pytest.mark.parametrize("path", documents(), ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_relative_links_resolve(path: Path) -> None:
    assert broken_links(path, path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", documents(), ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_no_path_of_one_machine(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert [line for line in lines if LOCAL_PATH.search(line)] == []


@pytest.mark.parametrize("path", documents(), ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_commands_exist(path: Path) -> None:
    for words in commands_in(path.read_text("utf-8")):
        check_command(words)


def test_readme_starts_with_the_two_commands() -> None:
    first = next(blocks((REPOSITORY / "README.md").read_text("utf-8"), *SHELL))
    commands = [line.split("#")[0].strip() for line in first.splitlines()]
    assert commands == ["make demo", "make test"]
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    assert all(re.search(rf"^{c.split()[1]}:", makefile, re.MULTILINE) for c in commands)


def test_readme_mentions_every_verb() -> None:
    """A verb that no document shows is a verb that nobody finds."""
    shown = " ".join(path.read_text("utf-8") for path in documents())
    root = command_tree()
    for verb, command in root.commands.items():
        for name in getattr(command, "commands", {"": None}):
            assert f"{PROGRAM} {verb} {name}".strip() in shown


def runnable() -> list[Any]:
    """Python blocks marked ``runnable``, one parameter each."""
    found = []
    for name in ("docs/api.md", "docs/protocol-testing.md"):
        text = (REPOSITORY / name).read_text("utf-8")
        for number, (info, content) in enumerate(FENCE.findall(text)):
            if info.split() == ["python", "runnable"]:
                found.append(pytest.param(content, id=f"{Path(name).name}-{number}"))
    return found


@pytest.mark.parametrize("content", runnable())
def test_runnable_snippets_run(content: str, tmp_path: Path) -> None:
    script = tmp_path / "snippet.py"
    script.write_text(content, "utf-8")
    ended = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


def test_snippets_parse() -> None:
    for path in documents():
        for content in blocks(path.read_text("utf-8"), "python"):
            compile(content, path.name, "exec")


def test_there_are_snippets_to_run() -> None:
    assert len(runnable()) >= 4


# ---- the checks themselves can fail


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("secure-fedfm conquer --site x", "has no verb conquer"),
        ("secure-fedfm charter burn", "has no verb burn"),
        ("secure-fedfm charter new|burn", "has no verb burn"),
        ("secure-fedfm client --site x --epsilon 8", "has no flag --epsilon"),
        (".venv/bin/secure-fedfm demo --privcy=none", "has no flag --privcy"),
    ],
)
def test_a_wrong_command_is_found(line: str, complaint: str) -> None:
    (words,) = commands_in(f"```sh\n{line}\n```\n")
    with pytest.raises(ValueError, match=complaint):
        check_command(words)


def test_a_broken_link_is_found() -> None:
    text = "[a](nowhere.md) [b](README.md#no-such-heading) [c](README.md#status) [d](https://x.y)"
    path = REPOSITORY / "README.md"
    assert broken_links(path, text) == ["nowhere.md", "README.md#no-such-heading"]


@pytest.mark.parametrize("text", ["see /home/user/x", "cd /work", '"/tmp/bundle"', "(/root/.venv)"])
def test_a_local_path_is_found(text: str) -> None:
    assert LOCAL_PATH.search(text)


@pytest.mark.parametrize("text", ["https://a.b/work/x", "docs/work.md", "and/or", "a/tmp/b"])
def test_other_slashes_are_not(text: str) -> None:
    assert not LOCAL_PATH.search(text)
