"""One launcher for all tests of this folder: torch is imported once, parties are forked from it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from secure_fedfm.learning.specs import ModelSpec
from tests.integration.capture import Capture, capture_run
from tests.integration.federation_processes import save_tiny_model
from tests.integration.forked_processes import Launcher


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


@pytest.fixture(scope="session")
def private_launcher(launcher: Launcher) -> Launcher:
    """The launcher, once what privacy mode ``local`` needs is loaded and calibrated there."""
    launcher.load("tests.integration.private_terms", "warm_up")
    return launcher


@pytest.fixture(scope="session")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A model whose adapter of rank 256 has 229,000 values: long enough for statistics."""
    return save_tiny_model(tmp_path_factory.mktemp("long-model") / "tiny", hidden=128)


@pytest.fixture(scope="session")
def captured(
    tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, long_model: ModelSpec
) -> Capture:
    """A finished run of the default suite: a collective key in round 1, then two sums."""
    root = tmp_path_factory.mktemp("layered")
    return capture_run(root, launcher, long_model, rounds=2, suite="layered")


@pytest.fixture(scope="session")
def captured_masked(
    tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, long_model: ModelSpec
) -> Capture:
    """The same without encryption, one sum."""
    root = tmp_path_factory.mktemp("masked")
    return capture_run(root, launcher, long_model, rounds=1, suite="masked")
