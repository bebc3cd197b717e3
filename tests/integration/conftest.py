"""One launcher for all tests of this folder: torch is imported once, parties are forked from it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from secure_fedfm.learning.specs import ModelSpec
from tests.integration.federation_processes import (
    COORDINATOR,
    Launcher,
    TestFederation,
    build_federation,
    save_tiny_model,
)


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
def recorded(tmp_path_factory: pytest.TempPathFactory, launcher: Launcher) -> TestFederation:
    """A finished federation of two rounds with long updates; ``traffic`` at the coordinator holds
    all that it received and sent, ``updates`` at every client what that client trained."""
    root = tmp_path_factory.mktemp("recorded")
    model = save_tiny_model(root / "model", hidden=128)
    federation = build_federation(root / "sites", launcher, model, clients=3, rounds=2, rank=256)
    folders = {
        name: site.root / ("traffic" if name == COORDINATOR else "updates")
        for name, site in federation.sites.items()
    }
    for folder in folders.values():
        folder.mkdir()
    with federation:
        federation.start_all(
            {
                name: {"record_traffic" if name == COORDINATOR else "record_updates": str(folder)}
                for name, folder in folders.items()
            }
        )
        federation.run_to_end()
    return federation
