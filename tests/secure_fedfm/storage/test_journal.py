"""The journal of a client: durable with the memory that belongs to it, written once each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedfm_protocols.client_states import ClientMemory
from fedfm_protocols.effects import Persist
from fedfm_protocols.witness import NOTHING_SEEN
from secure_fedfm.errors import StorageError
from secure_fedfm.services.client_memory import ClientJournal
from secure_fedfm.storage.database import Database

MEMORY = ClientMemory(1, 0, 0, bytes(32), NOTHING_SEEN)


def _reopened(path: Path) -> tuple[list[tuple[int, str, bytes]], ClientMemory | None]:
    database = Database(path)
    try:
        return database.journal(), ClientJournal(database, "ab").recall()
    finally:
        database.close()


def test_a_memory_that_did_not_change_stays_and_one_that_did_is_written(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    database = Database(path)
    journal = ClientJournal(database, "ab")
    later = replace(MEMORY, last_applied=1)
    journal.record(Persist(1, 0, "opened", b"x"), MEMORY)
    journal.record(Persist(1, 0, "voted", b"y"), MEMORY)
    journal.record(Persist(1, 0, "closed", b"z"), later)
    database.close()
    rows, memory = _reopened(path)
    assert [record for _, record, _ in rows] == ["opened", "voted", "closed"]
    assert memory == later


def test_a_record_twice_is_one_and_another_value_in_its_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    database = Database(path)
    journal = ClientJournal(database, "ab")
    for _ in range(2):
        journal.record(Persist(1, 3, "voted", b"x"), MEMORY)
    journal.record(Persist(1, 4, "voted", b"y"), MEMORY)
    with pytest.raises(StorageError, match="will not do it twice"):
        journal.record(Persist(1, 3, "voted", b"y"), replace(MEMORY, last_applied=1))
    database.close()
    rows, memory = _reopened(path)
    assert [value for *_, value in rows] == [b"x", b"y"]
    assert memory == MEMORY  # the refused record's memory went with it
