"""One launcher for all tests of this folder: torch is imported once, parties are forked from it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from secure_fedfm.learning.specs import ModelSpec
from tests.integration.federation_processes import Launcher, save_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A random BERT of two blocks."""
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def launcher(tiny_model: ModelSpec) -> Iterator[Launcher]:
    """The process that forks the parties; reports their CPU time when the session ends."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the launcher forks and relies on PR_SET_PDEATHSIG (Linux)")
    launcher = Launcher(tiny_model.name)
    yield launcher
    launcher.close()
    print(f"\nprocesses of test federations: {launcher.cpu}", file=sys.stderr)
