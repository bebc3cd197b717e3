"""Bundles for checks by tools that nobody here wrote: a synthetic one, and one that is given.

``SECURE_FEDFM_BUNDLE`` names a folder of a real run; ``.ci/run`` passes the demo's.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fedfm_audit.bundle import write_files
from tests.audit.played_round import ABORTED, DROPOUT, MAKE_KEYS, Script
from tests.audit.synthetic import Federation, play_federation

GIVEN = "SECURE_FEDFM_BUNDLE"


@pytest.fixture(scope="session")
def played() -> Federation:
    """Five clients, suite layered: a key, a full round, an aborted one, one with a dropout."""
    return play_federation(MAKE_KEYS, Script(), ABORTED, DROPOUT, suite="layered")


@pytest.fixture(scope="session")
def synthetic(played: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That federation's bundle as a folder; treat as read-only."""
    return write_files(played.files(), tmp_path_factory.mktemp("independent") / "bundle")


@pytest.fixture(params=["synthetic", "given"])
def bundle(request: pytest.FixtureRequest, synthetic: Path) -> Path:
    """Either bundle; treat as read-only."""
    if request.param == "synthetic":
        return synthetic
    if GIVEN not in os.environ:
        pytest.skip(f"{GIVEN} names no bundle of a real run")
    folder = Path(os.environ[GIVEN]).resolve()
    assert folder.is_dir(), f"{GIVEN}: {folder} is no folder"
    return folder


def need(tool: str, package: str) -> str:
    """Path of a command line tool; without it the test is skipped, but fails where a bundle was
    given: whoever asks for these checks must not get a pass without them."""
    found = shutil.which(tool)
    if found is None:
        reason = f"no {tool} on this machine; on Debian: apt-get install {package}"
        if GIVEN in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture
def auditor(bundle: Path, tmp_path: Path) -> Path:
    """A working folder as the commands in docs/for-auditors.md expect it."""
    shutil.copytree(bundle, tmp_path / "bundle")
    shutil.copy(bundle / "policy", tmp_path / "my-policy")
    (tmp_path / "tests").symlink_to(Path(__file__).resolve().parent.parent)
    return tmp_path
