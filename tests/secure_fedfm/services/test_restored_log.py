"""A coordinator whose log is an older copy, or a history that went on from one, does not go on:
one client's greeting shows it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedfm_audit.errors import LogForkError
from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import CheckpointSeen, seal_envelope
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.note import Checkpoint, sign_checkpoint
from fedfm_crypto.random_source import SeededRandom, system_random
from fedfm_protocols.coordinator_states import CoordinatorContext, CoordinatorSite
from fedfm_protocols.errors import MalformedMessage
from fedfm_protocols.messages import Hello
from secure_fedfm.cli.outcome import Exit, exit_code
from secure_fedfm.services.coordinator_link import CoordinatorLink
from tests.audit.simulated import ORIGIN
from tests.soak.appending import Coordinator

NAME = "client-01"


class _Wire:
    """A transport that drops what it is given."""

    async def plan(self, data: bytes) -> Any:
        return SimpleNamespace(payload=data)

    async def send(self, name: str, message: Any) -> None:
        pass


class Bench:
    """A coordinator's log of some rounds, which can be put back to an earlier day."""

    def __init__(self, root: Path) -> None:
        self.coordinator = Coordinator.at(root / "site")
        self.backup = root / "backup"
        evidence = self.coordinator.open()
        names = ("coordinator", *self.coordinator.federation.clients)
        enrolments = dict(zip(names, self.coordinator.founded.leaves, strict=False))
        evidence.found(enrolments, self.coordinator.founded.charter.model.sha256)
        self.coordinator._round(evidence)
        evidence.close()
        shutil.copytree(self.coordinator.root, self.backup)
        self.newest = self.go_on(2)

    def go_on(self, rounds: int) -> tuple[CheckpointSeen, bytes]:
        """Some more rounds, and the head that the clients have seen after them."""
        evidence = self.coordinator.open()
        for _ in range(rounds):
            self.coordinator._round(evidence)
        seen = evidence.checkpoint, evidence.note
        evidence.close()
        return seen

    def restore(self) -> None:
        """An older copy of the whole folder is put in place of the newest one."""
        shutil.rmtree(self.coordinator.root)
        shutil.copytree(self.backup, self.coordinator.root)

    def greeted(self, seen: CheckpointSeen, note: bytes, names: tuple[str, ...] = (NAME,)) -> Any:
        """The coordinator starts, and clients say which head they know; returns its link."""
        evidence = self.coordinator.open()
        try:
            link = CoordinatorLink(self._context(), evidence, cast(Any, _Wire()))
            for name in names:
                asyncio.run(link._welcome(name, self._hello(name, seen, note)))
            return link
        finally:
            evidence.close()

    def _context(self) -> CoordinatorContext:
        keys = self.coordinator.founded.keys
        site = CoordinatorSite(keys.coordinator, self.coordinator.federation)
        return CoordinatorContext(site, system_random, None)

    def _hello(self, name: str, seen: CheckpointSeen, note: bytes) -> Any:
        body = Hello(0, bytes(32), 0, 0, seen.size, 0, bytes(32), note)
        return seal_envelope(
            self.coordinator.founded.keys.clients[name],
            context=self.coordinator.federation.link_context,
            type="Hello",
            sender=name,
            step=0,
            sequence=1,
            checkpoint=seen,
            body=encode(body),
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_newest_log_goes_on(bench: Bench) -> None:
    assert bench.greeted(*bench.newest)._peers.ready == {NAME}


def test_one_client_stops_a_coordinator_with_an_older_copy(bench: Bench) -> None:
    bench.restore()
    with pytest.raises(LogForkError, match="head of size 8, this log has 6 leaves") as refused:
        bench.greeted(*bench.newest)
    assert "Restore the newest copy of" in str(refused.value)
    assert exit_code(refused.value) is Exit.SERVICE


def test_another_head_of_the_same_size_stops_it_likewise(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.restore()
    monkeypatch.setattr("tests.soak.appending.REASON", "another reason")
    other, _ = bench.go_on(2)
    assert other.size == bench.newest[0].size
    with pytest.raises(LogForkError, match="at size 8, this log of 8 leaves has"):
        bench.greeted(*bench.newest)


def test_nothing_is_added_to_the_log_before_the_witnesses_were_asked(bench: Bench) -> None:
    """A round that the old copy's journal calls open is not logged as aborted on it."""
    bench.restore()
    before = {p: p.read_bytes() for p in bench.coordinator.root.rglob("*") if p.is_file()}
    with pytest.raises(LogForkError):
        bench.greeted(*bench.newest)
    after = {p: p.read_bytes() for p in bench.coordinator.root.rglob("*") if p.is_file()}
    assert after == before


def test_a_client_alone_cannot_stop_it_without_the_logs_signature(bench: Bench) -> None:
    """It could be lying; more of them than may conspire cannot all be."""
    larger = CheckpointSeen(9, b"\x01" * 32)
    assert bench.greeted(larger, b"")._peers.ready == set()
    with pytest.raises(LogForkError):
        bench.greeted(larger, b"", ("client-01", "client-02"))


def test_a_note_that_is_not_the_logs_is_refused(bench: Bench) -> None:
    larger = CheckpointSeen(9, b"\x01" * 32)
    key = IdentityKey.generate(SeededRandom(b"thief"))
    forged = sign_checkpoint(Checkpoint(ORIGIN, 9, larger.root), ORIGIN, key)
    for note in (forged, bench.newest[1], b"no note"):
        with pytest.raises(MalformedMessage, match="note"):
            bench.greeted(larger, note)
