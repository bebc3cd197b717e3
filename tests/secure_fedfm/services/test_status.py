"""status.json follows a service: at once where it matters, once a second otherwise."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from secure_fedfm.services import status as module
from secure_fedfm.services.status import STATUS_FILE, Status, StatusFile

STATUS = Status("coordinator", "coordinator", "waiting", 1, 0, 3, "ab" * 32)


def _state(root: Path) -> str:
    return str(json.loads((root / STATUS_FILE).read_text())["state"])


def test_states_that_pass_by_are_not_written_and_the_last_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL_SECONDS", 0.05)
    writes: list[str] = []
    write = module.write_status

    def noted(root: Path, status: Status) -> None:
        writes.append(status.state)
        write(root, status)

    monkeypatch.setattr(module, "write_status", noted)

    async def steps() -> None:
        file = StatusFile(tmp_path)
        for _ in range(20):
            for state in ("training", "uploads", "votes"):
                file.show(replace(STATUS, state=state))
        assert writes == ["training"]
        await asyncio.sleep(0.2)  # nothing more is shown, and the file is right nevertheless
        assert writes == ["training", "votes"]

    asyncio.run(steps())
    assert _state(tmp_path) == "votes"


def test_another_round_or_peer_is_written_at_once(tmp_path: Path) -> None:
    async def changes() -> None:
        file = StatusFile(tmp_path)
        file.show(STATUS)
        for changed in (
            replace(STATUS, state="opened", round=2),
            replace(STATUS, state="ready", round=2, connected=("x",)),
        ):
            file.show(changed)
            assert _state(tmp_path) == changed.state

    asyncio.run(changes())


def test_closing_writes_what_is_due(tmp_path: Path) -> None:
    async def end() -> None:
        file = StatusFile(tmp_path)
        file.show(STATUS)
        file.show(replace(STATUS, state="finished"))
        assert _state(tmp_path) == "waiting"
        file.close()

    asyncio.run(end())
    assert _state(tmp_path) == "finished"
