"""What the coordinator's service puts into the replay archive, and what a full disk costs."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedfm_audit.archive import ARCHIVED_KINDS, ArchiveWriter
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.effects import Send
from fedfm_protocols.simulation import Simulation
from secure_fedfm.config import ArchiveSection, read_config
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.services.archive import RoundArchive
from secure_fedfm.site_template import site_toml
from secure_fedfm.storage.site import Site
from tests.protocols.federations import make_simulation

ON = ArchiveSection(enabled=True)


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    """A federation of five in suite masked."""
    return make_simulation(5)


@pytest.fixture(scope="module")
def played(simulation: Simulation) -> tuple[Finished, list[Any]]:
    """Its first round, and what the coordinator received and said in it."""
    said: list[Any] = []
    deliver = simulation.intercept

    def network(sender: str, recipient: str, envelope: Any) -> Any:
        if sender == simulation.federation.coordinator:
            said.append(envelope)
        return deliver(sender, recipient, envelope)

    simulation.intercept = network
    finished = simulation.run_round(1)
    return finished, [*simulation.coordinator_received, *said]


def keep(
    root: Path, played: tuple[Finished, list[Any]], simulation: Simulation, section: ArchiveSection
) -> RoundArchive:
    finished, envelopes = played
    archive = RoundArchive(Site(root), section, simulation.federation, 0)
    coordinator = simulation.federation.coordinator

    async def run() -> None:
        for envelope in envelopes:
            if envelope.header.sender == coordinator:
                await archive.sent(1, [Send("client-01", envelope)])
            else:
                await archive.take(1, envelope)
        await archive.close_round(finished)

    asyncio.run(run())
    return archive


def test_a_round_is_kept_from_what_was_taken_and_sent(
    tmp_path: Path, simulation: Simulation, played: tuple[Finished, list[Any]]
) -> None:
    keep(tmp_path, played, simulation, ON)
    found = [p.relative_to(tmp_path / "archive") for p in tmp_path.rglob("*") if p.is_file()]
    assert len([place for place in found if place.parts[2] == "Upload"]) == 5
    assert {place.parts[:2] for place in found} == {("000001", "0000")}
    assert {place.parts[2] for place in found} == ARCHIVED_KINDS - {"WrappedKey"}


def test_nothing_is_kept_unless_it_is_asked_for(
    tmp_path: Path, simulation: Simulation, played: tuple[Finished, list[Any]]
) -> None:
    keep(tmp_path, played, simulation, ArchiveSection())
    assert list(tmp_path.iterdir()) == []


def test_only_the_latest_rounds_are_kept(
    tmp_path: Path, simulation: Simulation, played: tuple[Finished, list[Any]]
) -> None:
    writer = ArchiveWriter(tmp_path / "archive", 0)
    writer.put(7, 0, "Upload", "client-01", b"a later one")
    writer.close_round(7, {0: [("Upload", "client-01")]})
    finished, envelopes = played
    archive = RoundArchive(
        Site(tmp_path), ArchiveSection(enabled=True, keep_rounds=1), simulation.federation, 7
    )
    identity = replace(finished.round.identity, round=8)
    later = replace(finished, round=replace(finished.round, identity=identity))

    async def run() -> None:
        for envelope in envelopes:
            await archive.take(8, envelope)
        await archive.close_round(later)

    asyncio.run(run())
    assert [path.name for path in (tmp_path / "archive").iterdir()] == ["000008"]


def test_a_disk_that_fails_costs_the_archive_the_round_and_nobody_else(
    tmp_path: Path,
    simulation: Simulation,
    played: tuple[Finished, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    original, calls = ArchiveWriter.put, iter(range(100))

    def put(self: ArchiveWriter, *rest: Any) -> None:
        if next(calls) == 3:
            raise OSError(28, "No space left on device")
        original(self, *rest)

    monkeypatch.setattr(ArchiveWriter, "put", put)
    with caplog.at_level(logging.ERROR):
        keep(tmp_path, played, simulation, ON)
    assert "round 1 will not be in the replay archive: [Errno 28]" in caplog.text
    assert list((tmp_path / "archive").iterdir()) == []


@pytest.mark.parametrize("suite", ["layered", "sealed", "masked", "clear"])
def test_the_log_says_what_an_archive_tells(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suite: str
) -> None:
    federation = make_simulation(5, suite=suite).federation
    with caplog.at_level(logging.INFO):
        RoundArchive(Site(tmp_path), ON, federation, 0)
    assert ("SUM of every round" in caplog.text) == (suite == "masked")
    assert ("EVERY UPDATE in clear" in caplog.text) == (suite == "clear")


def test_the_template_names_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(site_toml("coordinator", "hub").replace("# enabled", "enabled"))
    assert read_config(file, environment={}).archive == ArchiveSection()


def test_fewer_rounds_than_none_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('role = "coordinator"\nname = "hub"\n[archive]\nkeep_rounds = -1\n')
    with pytest.raises(ConfigurationError, match="keep_rounds"):
        read_config(file, environment={})
