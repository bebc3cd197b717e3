"""The privacy ledger of an institution in its state file: signed leaves, by sequence number.

``append`` returns when the leaf is on disk (one transaction, ``synchronous=FULL``), so a charge is
durable before anything that it pays for is computed.  Nothing is ever changed or removed but the
note that a leaf has reached the log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from secure_fedfm.errors import StorageError
from secure_fedfm.storage.database import Database


class DatabaseLedgerStore:
    """A ``fedfm_audit.privacy.ledger.LedgerStore`` in a site's state file."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def leaves(self) -> tuple[bytes, ...]:
        """All leaves, by sequence number.

        Raises
        ------
        StorageError
            if a sequence number is missing.
        """
        rows = self._rows("SELECT sequence, leaf FROM privacy_ledger ORDER BY sequence")
        for expected, (sequence, _) in enumerate(rows):
            if sequence != expected:
                raise StorageError(
                    f"{self._database.path}: the privacy ledger has no entry {expected}; restore "
                    "the state file from a backup and compare it with the federation's log"
                )
        return tuple(bytes(leaf) for _, leaf in rows)

    def append(self, sequence: int, leaf: bytes) -> None:
        """Store the next leaf durably.

        Raises
        ------
        StorageError
            if that is not the next sequence number; nothing was stored.
        """
        with self._database.transaction() as connection:
            (count,) = connection.execute("SELECT count(*) FROM privacy_ledger").fetchone()
            if sequence != count:
                raise StorageError(
                    f"{self._database.path}: entry {sequence} does not follow the {count} entries "
                    "of the privacy ledger; start the client again"
                )
            connection.execute(
                "INSERT INTO privacy_ledger (sequence, leaf) VALUES (?, ?)", (sequence, leaf)
            )

    def unlogged(self) -> tuple[bytes, ...]:
        """Leaves that are not known to be in the federation's log yet, by sequence number."""
        rows = self._rows("SELECT sequence, leaf FROM privacy_ledger WHERE logged = 0 ORDER BY 1")
        return tuple(bytes(leaf) for _, leaf in rows)

    def mark_logged(self, leaves: Iterable[bytes]) -> None:
        """Note that the log holds these leaves."""
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE privacy_ledger SET logged = 1 WHERE leaf = ?",
                [(leaf,) for leaf in leaves],
            )

    def _rows(self, query: str) -> list[tuple[int, bytes]]:
        with self._database.transaction() as connection:
            return connection.execute(query).fetchall()


def read_ledger_leaves(path_uri: str) -> tuple[bytes, ...]:
    """All ledger leaves of a state file that no process holds, opened read-only.

    Raises
    ------
    StorageError
        if the file cannot be read, or a service holds it.
    """
    try:
        connection = sqlite3.connect(path_uri, uri=True, timeout=0)
        try:
            known = connection.execute(
                "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'privacy_ledger'"
            ).fetchone()
            if known is None:
                return ()
            rows = connection.execute("SELECT leaf FROM privacy_ledger ORDER BY sequence")
            return tuple(bytes(leaf) for (leaf,) in rows)
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise StorageError(
            f"cannot read the privacy ledger in {path_uri}: {error}; if the client of this site "
            "runs, stop it first or read the federation's bundle"
        ) from error
