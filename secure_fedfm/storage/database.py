"""The SQLite file behind a site's durable state: one connection, full synchronisation, migrations.

Every transaction is on disk before its call returns (``synchronous=FULL`` in WAL mode); that is
what makes "journal before send" true.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from secure_fedfm.errors import StorageError

# Each entry brings the schema from its index to the next version; never edit one, append.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE memory (
        name TEXT PRIMARY KEY,
        value BLOB NOT NULL
    ) STRICT;
    CREATE TABLE journal (
        id INTEGER PRIMARY KEY,
        round INTEGER NOT NULL,
        record TEXT NOT NULL,
        value BLOB NOT NULL,
        UNIQUE (round, record)
    ) STRICT;
    """,
    """
    CREATE TABLE privacy_ledger (
        sequence INTEGER PRIMARY KEY,
        leaf BLOB NOT NULL,
        logged INTEGER NOT NULL DEFAULT 0 CHECK (logged IN (0, 1))
    ) STRICT;
    """,
    """
    CREATE TABLE journal_of_steps (
        id INTEGER PRIMARY KEY,
        round INTEGER NOT NULL,
        step INTEGER NOT NULL,
        record TEXT NOT NULL,
        value BLOB NOT NULL,
        UNIQUE (round, step, record)
    ) STRICT;
    INSERT INTO journal_of_steps (id, round, step, record, value)
        SELECT id, round, 0, record, value FROM journal;
    DROP TABLE journal;
    ALTER TABLE journal_of_steps RENAME TO journal;
    """,
    """
    CREATE TABLE score_openings (
        round INTEGER NOT NULL,
        step INTEGER NOT NULL,
        client TEXT NOT NULL,
        salt BLOB NOT NULL,
        scores BLOB NOT NULL,
        PRIMARY KEY (round, step, client)
    ) STRICT;
    """,
)


class Database:
    """A site's state file.

    Raises
    ------
    StorageError
        if it cannot be opened, is in use by another process, or was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=1.0)
            path.chmod(0o600)
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._migrate()
        except sqlite3.DatabaseError as error:
            raise StorageError(
                f"cannot open the state file {path}: {error}; if another process of this site "
                "runs, stop it first"
            ) from error

    def _migrate(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise StorageError(
                f"{self.path} has schema version {version}, this program knows "
                f"{len(MIGRATIONS)}; update secure-fedfm"
            )
        for number in range(version, len(MIGRATIONS)):
            with self.transaction() as connection:
                for statement in MIGRATIONS[number].split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number + 1}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, durable when the block ends."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def remember(self, values: dict[str, bytes]) -> None:
        """Write named values, all or nothing."""
        with self.transaction() as connection:
            store_memory(connection, values)

    def recall(self, name: str) -> bytes | None:
        """A named value, or None if it was never written."""
        row = self._connection.execute(
            "SELECT value FROM memory WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else bytes(row[0])

    def journal(self) -> list[tuple[int, str, bytes]]:
        """All journal rows (round, record, value) in the order they were written."""
        rows = self._connection.execute("SELECT round, record, value FROM journal ORDER BY id")
        return [(number, record, bytes(value)) for number, record, value in rows]

    def close(self) -> None:
        """Close the file; it can be opened again."""
        self._connection.close()


def store_memory(connection: sqlite3.Connection, values: dict[str, bytes]) -> None:
    """Write named values within an open transaction."""
    if not values:
        return
    connection.executemany(
        "INSERT INTO memory (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        list(values.items()),
    )


def store_journal(
    connection: sqlite3.Connection, number: int, record: str, value: bytes, *, step: int = 0
) -> None:
    """Add a journal row within an open transaction; the same row twice is the same row.

    Raises
    ------
    StorageError
        if the step already has this record with another value: something is done twice.
    """
    inserted = connection.execute(
        "INSERT INTO journal (round, step, record, value) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (round, step, record) DO NOTHING",
        (number, step, record, value),
    )
    if inserted.rowcount:
        return
    (stored,) = connection.execute(
        "SELECT value FROM journal WHERE round = ? AND step = ? AND record = ?",
        (number, step, record),
    ).fetchone()
    if bytes(stored) != value:
        raise StorageError(
            f"the journal already has {record!r} of round {number} step {step} with another "
            "value; this site has done that before and will not do it twice"
        )


def store_openings(
    connection: sqlite3.Connection,
    number: int,
    step: int,
    openings: Mapping[str, tuple[bytes, bytes]],
) -> None:
    """Add what opens a verdict's commitments (client -> salt, scores), within a transaction."""
    connection.executemany(
        "INSERT INTO score_openings (round, step, client, salt, scores) VALUES (?, ?, ?, ?, ?)",
        [(number, step, name, salt, scores) for name, (salt, scores) in openings.items()],
    )
