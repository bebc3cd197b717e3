"""`log rotate-key`: a coordinator's log changes its key, whatever moment it is killed at."""

from __future__ import annotations

import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from fedfm_audit.bundle import bundle_files
from fedfm_audit.log import Log
from fedfm_audit.log_keys import vkey_text
from fedfm_audit.verify import verify_files
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.note import cosign
from fedfm_protocols.client_states import ClientMemory
from fedfm_protocols.witness import NOTHING_SEEN, take_offer
from secure_fedfm.cli.main import main
from secure_fedfm.errors import StorageError
from secure_fedfm.services import log_rotation
from secure_fedfm.services.evidence import Evidence
from secure_fedfm.services.log_rotation import finish_rotation, rotate_log_key
from secure_fedfm.storage.keys import save_identity
from secure_fedfm.storage.site import Site
from tests.audit.simulated import MOMENT
from tests.soak.appending import Coordinator


class _Killed(BaseException):
    """The process ends here."""


class Bench:
    """A coordinator's site with keys, a log of one round, and clients that have seen it."""

    def __init__(self, root: Path) -> None:
        self.coordinator = Coordinator.at(root)
        self.site, self.federation = Site(root), self.coordinator.federation
        keys = self.coordinator.founded.keys
        save_identity(self.site.identity_file, keys.coordinator)
        save_identity(self.site.log_key_file, keys.log)
        self.old = keys.log
        evidence = self.open()
        names = ("coordinator", *self.federation.clients)
        enrolments = dict(zip(names, self.coordinator.founded.leaves, strict=False))
        evidence.found(enrolments, self.coordinator.founded.charter.model.sha256)
        start = ClientMemory(0, 0, 0, bytes(32), NOTHING_SEEN)
        self.memory = take_offer(self.federation, start, evidence.offer(0))
        self.coordinator._round(evidence)
        evidence.close()

    def open(self, key: IdentityKey | None = None) -> Evidence:
        own = self.coordinator.founded.keys.coordinator
        return Evidence(self.site, self.federation, own, key or self.site.log_key())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "site")


def test_the_new_key_is_in_place_and_the_old_one_gone(bench: Bench) -> None:
    found = rotate_log_key(bench.site, bench.federation)
    assert (found.index, found.before) == (6, bench.federation.charter.log.key)
    assert bench.site.log_key().public != bench.old.public
    files = sorted(path.name for path in bench.site.log_key_file.parent.iterdir())
    assert files == ["identity.pem", "log.pem"]
    assert stat.S_IMODE(bench.site.log_key_file.stat().st_mode) == 0o600
    with pytest.raises(StorageError, match="the one in force is"):
        bench.open(bench.old)
    evidence = bench.open()
    assert vkey_text(evidence.log_keys.last) == found.after
    evidence.close()


def test_rounds_go_on_under_the_new_key_and_the_bundle_verifies(bench: Bench) -> None:
    rotate_log_key(bench.site, bench.federation)
    rotate_log_key(bench.site, bench.federation)
    evidence = bench.open()
    bench.coordinator._round(evidence)
    bench.memory = take_offer(
        bench.federation, bench.memory, evidence.offer(bench.memory.checkpoint.size)
    )
    assert len(bench.memory.log_changes) == 2
    assert evidence.head_of(bench.memory.note) == bench.memory.checkpoint
    for name in bench.federation.clients:
        key = bench.coordinator.founded.keys.clients[name]
        evidence.attach(cosign(evidence.note, f"test/{name}", key, MOMENT))
    transcripts = {int(p.stem): p.read_bytes() for p in bench.site.rounds_folder.glob("*.json")}
    files = bundle_files(evidence.log, bench.site.charter_file.read_bytes(), transcripts)
    evidence.close()
    report = verify_files(files, name="rotated")
    assert report.ok, report.to_text()


def test_a_client_that_knows_the_change_refuses_the_old_key(bench: Bench) -> None:
    with Log.open(bench.site.log_folder, bench.federation.charter.log.origin) as log:
        stale = log.sign_checkpoint(bench.old)
    rotate_log_key(bench.site, bench.federation)
    evidence = bench.open()
    offer = evidence.offer(bench.memory.checkpoint.size)
    evidence.close()
    known = take_offer(bench.federation, bench.memory, offer)
    with pytest.raises(Exception, match="without a signature of its log"):
        take_offer(bench.federation, known, replace(offer, checkpoint=stale, changes=()))


PLACES = {
    "before the leaf": (Log, "append"),
    "after the leaf": (Log, "sign_checkpoint"),
    "before the new file": (log_rotation, "_in_force"),
}


@pytest.mark.parametrize("place", PLACES)
def test_killed_at_any_place_it_goes_on(
    bench: Bench, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(*PLACES[place], die)
        with pytest.raises(_Killed):
            rotate_log_key(bench.site, bench.federation)
    finish_rotation(bench.site, bench.federation)  # what a coordinator does when it starts
    evidence = bench.open()
    changed = len(evidence.log_keys.keys) - 1
    evidence.found({}, "")
    assert evidence.offer(0).checkpoint == evidence.note
    evidence.close()
    assert changed == (0 if place == "before the leaf" else 1)
    assert bench.site.next_log_key_file.exists() is (changed == 0)
    rotate_log_key(bench.site, bench.federation)
    assert not bench.site.next_log_key_file.exists()


def test_not_before_the_log_is_founded(bench: Bench) -> None:
    shutil.rmtree(bench.site.log_folder)
    with pytest.raises(StorageError, match="after the coordinator was started once"):
        rotate_log_key(bench.site, bench.federation)


def test_the_command(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.site.config_file.write_text('role = "coordinator"\nname = "coordinator"\n')
    assert main(["log", "rotate-key", "--site", str(bench.site.root), "--json"]) == 0
    said = capsys.readouterr()
    assert '"leaf": 6' in said.out
    assert "PRIVATE" not in said.out + said.err
    with Log.open(bench.site.log_folder, bench.federation.charter.log.origin):
        assert main(["log", "rotate-key", "--site", str(bench.site.root)]) == 6
