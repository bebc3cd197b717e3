"""A coordinator whose folder was restored from an older backup: it exits, and its log stays as it
was, although its journal has a round to close."""

from __future__ import annotations

import shutil
from pathlib import Path

from fedfm_audit.verify import verify_bundle
from secure_fedfm.learning.specs import ModelSpec
from tests.integration.federation_processes import COORDINATOR, build_federation
from tests.integration.forked_processes import Exited, Launcher

KILLED = -9
ABORTED = 6  # exit code of a service that cannot go on
WITNESS = "clinic-2"


def test_a_restored_backup_is_refused_and_grows_by_nothing(
    tmp_path: Path, launcher: Launcher, tiny_model: ModelSpec
) -> None:
    federation = build_federation(
        tmp_path / "sites", launcher, tiny_model, clients=3, rounds=2, suite="masked"
    )
    site, backup = federation.sites[COORDINATOR], tmp_path / "backup"

    def start_again(ended: Exited) -> None:
        assert (ended.party, ended.code) == (COORDINATOR, KILLED), federation.tail()
        shutil.copytree(site.root, backup)
        federation.start(COORDINATOR)

    with federation:
        federation.start_all({COORDINATOR: {"coordinator_dies": {"round": 2, "at": "opened"}}})
        federation.run_to_end(start_again)
        assert verify_bundle(federation.bundle).ok
        shutil.rmtree(site.root)
        shutil.copytree(backup, site.root)
        before = {p: p.read_bytes() for p in site.log_folder.rglob("*") if p.is_file()}
        federation.start(COORDINATOR)
        federation.start(WITNESS)
        assert federation.processes[COORDINATOR].wait() == ABORTED, federation.tail()
        said = federation.log_of(COORDINATOR)
        assert f"{WITNESS} shows a checkpoint that this log's own key signed" in said
        assert "Restore the newest copy" in said
        assert {p: p.read_bytes() for p in site.log_folder.rglob("*") if p.is_file()} == before
