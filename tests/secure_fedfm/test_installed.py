"""What a coordinator says about its program can be computed by others: with coreutils, and from the
metadata that pip writes."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from secure_fedfm import installed
from tests.conftest import REPOSITORY

README = REPOSITORY / "audit" / "README.md"
FOLDERS = {
    "fedfm_audit": "audit",
    "fedfm_crypto": "crypto",
    "fedfm_protocols": "protocols",
    "secure_fedfm": ".",
}


def as_in_a_wheel(folder: Path) -> Path:
    """The four packages beside each other, compiled files and all."""
    for package in installed.IMPORTED:
        shutil.copytree(REPOSITORY / FOLDERS[package] / package, folder / package)
    return folder


def documented() -> str:
    section = README.read_text("utf-8").partition("### Program and dependencies")[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return block[1]


def test_the_documented_command_gives_the_code_hash(tmp_path: Path) -> None:
    folder = as_in_a_wheel(tmp_path)

    def computed() -> str:
        done = subprocess.run(
            ["bash", "-c", documented()], cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.split()[0]

    assert computed() == installed.code_hash().hex()
    schema = folder / "fedfm_audit" / "schemas" / "round-v1.json"
    schema.write_bytes(schema.read_bytes() + b"\n")
    assert computed() != installed.code_hash().hex()


def test_what_the_program_stands_on_is_listed() -> None:
    listed = dict(installed.installed_distributions())
    assert list(listed) == sorted(listed)
    assert installed.PACKAGE not in listed
    for name in ("cryptography", "numpy", "torch", "pyzmq", "scipy", "cffi"):  # directly and not
        assert listed[name] == importlib.metadata.version(name)
    assert not {"pytest", "ruff", "hypothesis", "flwr"} & set(listed)  # other extras
    assert all(re.fullmatch("[a-z0-9]([a-z0-9-]*[a-z0-9])?", name) for name in listed)


REQUIREMENTS = [
    ("numpy>=2.0,<3", True, "numpy"),
    ('Foo.Bar_baz (>=1) ; python_version < "4"', True, "foo-bar-baz"),
    ('torch>=2.6; extra == "federation"', True, "torch"),
    ('torch>=2.6; extra == "federation"', False, None),
    ("pytest>=8; extra == 'test'", True, None),
]


@pytest.mark.parametrize(("requirement", "root", "name"), REQUIREMENTS)
def test_requirements_of_other_extras_are_left_out(
    requirement: str, root: bool, name: str | None
) -> None:
    assert installed._needed(requirement, root=root) == name


def test_nothing_tells_of_the_machine() -> None:
    for name, version in installed.installed_distributions():
        assert "/" not in name + version
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,63}", version), (name, version)
