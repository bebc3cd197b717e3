"""A whole federation of processes: it ends, its evidence verifies, everybody has one adapter."""

from __future__ import annotations

from pathlib import Path

from fedfm_audit.verify import verify_bundle
from secure_fedfm.learning.specs import ModelSpec
from tests.integration.federation_processes import Launcher, build_federation


def test_it_completes(tmp_path: Path, launcher: Launcher, tiny_model: ModelSpec) -> None:
    with build_federation(tmp_path, launcher, tiny_model, clients=3, rounds=2) as federation:
        federation.start_all()
        federation.run_to_end()
        assert federation.outcomes() == {1: "completed", 2: "completed"}
        assert verify_bundle(federation.bundle).ok
        assert len(federation.adapters()) == 1
