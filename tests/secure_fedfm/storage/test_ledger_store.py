"""The ledger in the state file: durable before it returns, and a kill -9 leaves the charge."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from fedfm_audit.errors import BudgetExceededError, PrivacyLedgerError
from fedfm_audit.privacy.events import CompletedRound
from fedfm_audit.privacy.ledger import InstitutionLedger, LedgerStore, MemoryStore
from secure_fedfm.errors import StorageError
from secure_fedfm.storage.database import MIGRATIONS, Database
from secure_fedfm.storage.ledger import DatabaseLedgerStore, read_ledger_leaves
from tests.audit.privacy_ledgers import EVENT, HASH, KEY, terms
from tests.conftest import REPOSITORY

_KILLED = """
import os, signal, sys
from pathlib import Path
from fedfm_audit.privacy.ledger import InstitutionLedger
from secure_fedfm.storage.database import Database
from secure_fedfm.storage.ledger import DatabaseLedgerStore
from tests.audit.privacy_ledgers import EVENT, KEY, terms
for count in range(5):  # each dies in a process of its own; the imports are paid for once
    if os.fork() == 0:
        ledger = InstitutionLedger(terms(), KEY, DatabaseLedgerStore(Database(Path(sys.argv[1]))))
        ledger.reserve(len(ledger.state.entries) + 1, EVENT)
        os.kill(os.getpid(), signal.SIGKILL)
    print(-os.waitstatus_to_exitcode(os.wait()[1]))
    database = Database(Path(sys.argv[1]))
    charges = InstitutionLedger(terms(), KEY, DatabaseLedgerStore(database)).state.open_charges
    assert [charge.sequence for charge in charges] == list(range(count + 1))
    database.close()
"""


def opened(path: Path) -> tuple[Database, InstitutionLedger]:
    database = Database(path)
    return database, InstitutionLedger(terms(), KEY, DatabaseLedgerStore(database))


@pytest.fixture(params=["memory", "database"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerStore:
    if request.param == "memory":
        return MemoryStore()
    return DatabaseLedgerStore(Database(tmp_path / "state.sqlite"))


def test_every_store_keeps_leaves_in_order(store: LedgerStore) -> None:
    assert store.leaves() == ()
    store.append(0, b"first")
    store.append(1, b"second")
    assert store.leaves() == (b"first", b"second")
    for taken in (0, 1, 3):
        with pytest.raises((StorageError, PrivacyLedgerError), match=f"{taken}"):
            store.append(taken, b"another")
    assert store.leaves() == (b"first", b"second")


def test_a_ledger_comes_back_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    database, ledger = opened(path)
    ledger.reserve(1, EVENT)
    ledger.settle(CompletedRound(charge=0, accepted=5, aggregate=HASH))
    state = ledger.state
    database.close()
    database, ledger = opened(path)
    assert ledger.state == state
    database.close()


@pytest.mark.slow
def test_kill_between_reserve_and_commit_leaves_the_charge(tmp_path: Path) -> None:
    """Five processes are killed right after their charge; the sixth round is refused."""
    path = tmp_path / "state.sqlite"
    ran = subprocess.run(
        [sys.executable, "-c", _KILLED, str(path)], cwd=REPOSITORY, check=True, capture_output=True
    )
    assert ran.stdout.split() == [str(int(signal.SIGKILL)).encode()] * 5
    database, ledger = opened(path)
    assert [charge.sequence for charge in ledger.state.open_charges] == list(range(5))
    with pytest.raises(BudgetExceededError, match="the budget is 2"):
        ledger.reserve(6, EVENT)
    database.close()


def test_leaves_wait_until_the_log_has_them(tmp_path: Path) -> None:
    database, ledger = opened(tmp_path / "state.sqlite")
    store = DatabaseLedgerStore(database)
    first, second = ledger.reserve(1, EVENT), ledger.reserve(2, EVENT)
    assert store.unlogged() == (first, second)
    store.mark_logged([first, b"unknown"])
    assert store.unlogged() == (second,)
    assert store.leaves() == (first, second)


def test_a_missing_row_is_named(tmp_path: Path) -> None:
    database, ledger = opened(tmp_path / "state.sqlite")
    for number in (1, 2, 3):
        ledger.reserve(number, EVENT)
    with database.transaction() as connection:
        connection.execute("DELETE FROM privacy_ledger WHERE sequence = 1")
    with pytest.raises(StorageError, match="no entry 1"):
        DatabaseLedgerStore(database).leaves()


def test_a_state_file_of_the_version_before_gets_the_table(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(MIGRATIONS[0])
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    uri = f"{path.as_uri()}?mode=ro"
    assert read_ledger_leaves(uri) == ()
    database, ledger = opened(path)
    leaf = ledger.reserve(1, EVENT)
    with pytest.raises(StorageError, match="stop it first"):
        read_ledger_leaves(uri)
    database.close()
    assert read_ledger_leaves(uri) == (leaf,)
