"""A client's durable memory: what it must still know after a crash.

Written in the same transaction as the journal record that it belongs to.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import CheckpointSeen
from fedfm_crypto.errors import CodecError
from fedfm_protocols.client_states import ClientMemory
from fedfm_protocols.effects import Persist
from fedfm_protocols.key_ring import KeyRing
from fedfm_protocols.sketch_keys import HeldSketchKey
from secure_fedfm.errors import StorageError
from secure_fedfm.storage.database import Database, store_journal, store_memory

_KEY = "client"
_KEYS = "key-ring"
_SKETCH_KEY = "sketch-key"


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    last_opened: int
    last_applied: int
    completed: int
    adapter: str
    log_size: int
    log_root: str
    log_note: str = ""
    log_changes: list[str] = []


def encode_memory(memory: ClientMemory) -> bytes:
    """JSON of everything but keys, which are large and seldom new, and some of them secret."""
    stored = _Stored(
        last_opened=memory.last_opened,
        last_applied=memory.last_applied,
        completed=memory.completed,
        adapter=memory.adapter_hash.hex(),
        log_size=memory.checkpoint.size,
        log_root=memory.checkpoint.root.hex(),
        log_note=memory.note.decode(),
        log_changes=[leaf.decode() for leaf in memory.log_changes],
    )
    return stored.model_dump_json().encode()


def decode_memory(data: bytes) -> ClientMemory:
    """The inverse of :func:`encode_memory`.

    Raises
    ------
    StorageError
        if the stored bytes are not a memory of this version.
    """
    try:
        stored = _Stored.model_validate_json(data)
        return ClientMemory(
            last_opened=stored.last_opened,
            last_applied=stored.last_applied,
            completed=stored.completed,
            adapter_hash=bytes.fromhex(stored.adapter),
            checkpoint=CheckpointSeen(stored.log_size, bytes.fromhex(stored.log_root)),
            note=stored.log_note.encode(),
            log_changes=tuple(leaf.encode() for leaf in stored.log_changes),
        )
    except ValueError as error:
        raise StorageError("the state file holds no readable client memory") from error


class ClientJournal:
    """The client's memory and journal in the site's state file."""

    def __init__(self, database: Database, federation: str) -> None:
        self._database = database
        self._keys = KeyRing()  # as it is on disk
        self._sketch_key: HeldSketchKey | None = None  # likewise
        self._written: ClientMemory | None = None  # likewise, once written here
        stored = database.recall("federation")
        if stored is not None and stored != federation.encode():
            raise StorageError(
                "the state file belongs to another federation (charter "
                f"{stored.decode()[:16]}, this one is {federation[:16]}); every federation needs "
                "a site folder of its own"
            )
        database.remember({"federation": federation.encode()})

    def recall(self) -> ClientMemory | None:
        """The memory of the last run, if there was one."""
        data = self._database.recall(_KEY)
        if data is None:
            return None
        keys, sketch_key = self._database.recall(_KEYS), self._database.recall(_SKETCH_KEY)
        try:
            if keys is not None:
                self._keys = decode(KeyRing, keys)
            if sketch_key is not None:
                self._sketch_key = decode(HeldSketchKey, sketch_key)
        except CodecError as error:
            raise StorageError("the state file holds no readable keys") from error
        return replace(decode_memory(data), keys=self._keys, sketch_key=self._sketch_key)

    def remember(self, memory: ClientMemory) -> None:
        """Write the memory durably."""
        self._database.remember(self._rows(memory))
        self._is_on_disk(memory)

    def record(self, persist: Persist, memory: ClientMemory) -> None:
        """Write a journal record and the memory that belongs to it in one transaction."""
        with self._database.transaction() as connection:
            store_journal(
                connection, persist.round, persist.record, persist.value, step=persist.step
            )
            store_memory(connection, self._rows(memory))
        self._is_on_disk(memory)

    def _is_on_disk(self, memory: ClientMemory) -> None:
        self._keys, self._sketch_key, self._written = memory.keys, memory.sketch_key, memory

    def _rows(self, memory: ClientMemory) -> dict[str, bytes]:
        if memory is self._written:  # as in every step of a session but the last
            return {}
        rows = {_KEY: encode_memory(memory)}
        if memory.keys is not self._keys:
            rows[_KEYS] = encode(memory.keys)
        if memory.sketch_key is not None and memory.sketch_key is not self._sketch_key:
            rows[_SKETCH_KEY] = encode(memory.sketch_key)
        return rows
