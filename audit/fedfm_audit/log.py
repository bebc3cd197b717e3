"""The transparency log: an append-only RFC 6962 tree stored as C2SP tlog-tiles.

Durability contract
-------------------
* ``append`` returns only after the leaf is on disk (file and folder synced).  The entry bundle is
  written first and is the one source of truth; hash tiles are derived from it.
* A crash at any point leaves a folder that ``Log.open`` accepts: it takes the entries, rewrites
  the tiles that are missing, and keeps every leaf that was acknowledged.  A leaf whose ``append``
  did not return may or may not be there; appending it again is safe, because appending the bytes
  of an existing leaf returns that leaf's index.
* ``sign_checkpoint`` and ``attach_cosignatures`` return a note only after it is on disk: what has
  been shown to anybody survives a crash.
* ``Log.open`` recomputes the root from the entries and refuses a folder whose stored tiles or
  checkpoint disagree with it.  It cannot see by itself that a whole older folder was restored:
  ask the witnesses and pass their heads to ``check_head``.
* One process writes at a time (``flock`` on ``.lock``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from fedfm_audit.errors import LogCorruptError, LogError, LogForkError
from fedfm_audit.recovery import lock_folder, plan_repair, stored_leaves
from fedfm_audit.storage import remove_leftovers, write_durably
from fedfm_audit.tiles import (
    MAX_LEAF_BYTES,
    MAX_LEAVES,
    TILE_WIDTH,
    encode_entries,
    hash_tiles,
    tile_path,
    tiles_of_level,
)
from fedfm_crypto.errors import NoteError
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.merkle import consistency_proof, inclusion_proof, leaf_hash, tree_root
from fedfm_crypto.note import (
    Checkpoint,
    VerifierKey,
    add_signature,
    open_note,
    parse_checkpoint,
    sign_checkpoint,
    split_note,
)

CHECKPOINT = "checkpoint"


class Log:
    """An open log.  Use :meth:`open`; the lock is held until :meth:`close`."""

    def __init__(self, folder: Path, origin: str, lock: int, leaves: list[bytes]) -> None:
        self.folder = folder
        self.origin = origin
        self._lock = lock
        self._leaves = leaves
        self._hashes = [leaf_hash(leaf) for leaf in leaves]
        self._index = {digest: index for index, digest in reversed(list(enumerate(self._hashes)))}
        self._checkpoint: bytes | None = None

    @classmethod
    def open(cls, folder: Path, origin: str) -> Log:
        """Open the log in ``folder``, or start an empty one there.

        Raises
        ------
        LogLockedError
            if another process has it open.
        LogCorruptError
            if entries, tiles and checkpoint do not fit together, or the checkpoint names another
            origin.  Nothing is changed in that case.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder)
        try:
            remove_leftovers(folder)
            log = cls(folder, origin, lock, stored_leaves(folder))
            log._load_checkpoint()
            log._repair_tiles()
        except BaseException:
            os.close(lock)
            raise
        return log

    def close(self) -> None:
        """Release the lock; the object is of no further use."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- reading

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._leaves)

    @property
    def leaves(self) -> tuple[bytes, ...]:
        """All leaves, in order."""
        return tuple(self._leaves)

    @property
    def checkpoint(self) -> bytes | None:
        """The latest signed note, with the cosignatures attached so far; None before the first.
        It may be smaller than the log: leaves appended since are not in it yet."""
        return self._checkpoint

    def root(self, size: int | None = None) -> bytes:
        """Root of the first ``size`` leaves (default: all), 32 bytes."""
        return tree_root(self._hashes[: self._checked_size(size)])

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """RFC 6962 audit path of leaf ``index`` in the tree of the first ``size`` leaves."""
        return inclusion_proof(self._hashes[: self._checked_size(size)], index)

    def consistency_proof(self, old: int, size: int | None = None) -> list[bytes]:
        """RFC 6962 proof that the tree of ``old`` leaves is a prefix of that of ``size``."""
        return consistency_proof(self._hashes[: self._checked_size(size)], old)

    def check_head(self, size: int, root: bytes) -> None:
        """Compare a witness's head with this log; call it on start for every witness.

        Raises
        ------
        LogForkError
            if the witness has seen leaves that are not here, or others.
        """
        if size > self.size:
            raise LogForkError(
                f"a witness holds a head of size {size}, this log has {self.size} leaves; it was "
                f"restored from an old copy. Restore the newest copy of {self.folder}, never "
                "append to this one; without one, the witnesses' leaves are lost: found a new log"
            )
        own = self.root(size)
        if own != root:
            raise LogForkError(
                f"a witness holds root {root.hex()} at size {size}, this log of {self.size} leaves "
                f"has {own.hex()} there; it went on from an old copy. Restore the newest copy of "
                f"{self.folder} from before that, never append to this one"
            )

    # ---- writing

    def append(self, leaf: bytes) -> int:
        """Make ``leaf`` durable and return its index; an existing leaf keeps its index.

        Raises
        ------
        LogError
            if the leaf is empty, larger than 65535 bytes, or the log is full or closed.
        """
        self._check_writable()
        if not 0 < len(leaf) <= MAX_LEAF_BYTES:
            raise LogError(f"leaf of {len(leaf)} bytes; a log entry has 1 to {MAX_LEAF_BYTES}")
        digest = leaf_hash(leaf)
        if digest in self._index:
            return self._index[digest]
        if self.size >= MAX_LEAVES:
            raise LogError(f"the log is full ({MAX_LEAVES} leaves)")
        index = self.size
        start = index - index % TILE_WIDTH
        bundle = encode_entries([*self._leaves[start:], leaf])
        path = tile_path("entries", index // TILE_WIDTH, index - start + 1)
        write_durably(self.folder / path, bundle, self.folder)
        # From here on the leaf is acknowledged: what follows can be redone from the entries.
        self._leaves.append(leaf)
        self._hashes.append(digest)
        self._index[digest] = index
        self._write_tiles()
        return index

    def sign_checkpoint(self, key: IdentityKey) -> bytes:
        """Sign the current head, store it, and return the note.

        Signing the same head again returns the stored note with its cosignatures.
        """
        self._check_writable()
        head = Checkpoint(self.origin, self.size, self.root())
        note = sign_checkpoint(head, self.origin, key)
        if self._checkpoint is not None and self._checkpoint.startswith(note):
            return self._checkpoint
        self._store_checkpoint(note)
        return note

    def attach_cosignatures(
        self, lines: Iterable[bytes], vkeys: Sequence[VerifierKey | str]
    ) -> bytes:
        """Add witnesses' cosignature lines to the stored checkpoint and return the new note.

        ``vkeys`` are the log's and the witnesses' verifier keys.  A line of a witness that has
        already signed this checkpoint is skipped.

        Raises
        ------
        LogError
            if there is no checkpoint yet.
        NoteError
            if a line does not verify under these keys; nothing is stored then.
        """
        self._check_writable()
        if self._checkpoint is None:
            raise LogError("there is no checkpoint to cosign; call sign_checkpoint first")
        text, signatures = split_note(self._checkpoint)
        note = self._checkpoint
        present = {(signature.name, signature.key_id) for signature in signatures}
        for line in lines:
            signers = {(one.name, one.key_id) for one in split_note(text + b"\n" + line)[1]}
            if not signers <= present:
                note = add_signature(note, line)  # refuses anything but one line
                present |= signers
        if note != self._checkpoint:
            open_note(note, vkeys)
            self._store_checkpoint(note)
        return note

    # ---- inside

    def _checked_size(self, size: int | None) -> int:
        wanted = self.size if size is None else size
        if not 0 <= wanted <= self.size:
            raise LogError(f"no tree of size {wanted}: the log has {self.size} leaves")
        return wanted

    def _check_writable(self) -> None:
        if self._lock < 0:
            raise LogError("the log is closed")

    def _store_checkpoint(self, note: bytes) -> None:
        write_durably(self.folder / CHECKPOINT, note, self.folder)
        self._checkpoint = note

    def _write_tiles(self) -> None:
        """Write the hash tiles that do not exist yet, then drop partial tiles they replace."""
        tiles = hash_tiles(self._hashes)
        for path, content in tiles.items():
            if not (self.folder / path).exists():
                write_durably(self.folder / path, content, self.folder)
        newest = tile_path("entries", (self.size - 1) // TILE_WIDTH)
        tails = {newest, *(path.partition(".p/")[0] for path in tiles)}
        keep = {tile_path("entries", *last) for last in tiles_of_level(self.size)} | set(tiles)
        for tail in tails:
            for narrower in (self.folder / f"{tail}.p").glob("*"):
                if narrower.relative_to(self.folder).as_posix() not in keep:
                    narrower.unlink()

    def _load_checkpoint(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        note = path.read_bytes()
        try:
            stored = parse_checkpoint(split_note(note)[0])
        except NoteError as error:
            raise LogCorruptError(f"{path}: {error}") from error
        if stored.origin != self.origin:
            raise LogCorruptError(
                f"{path} is of log {stored.origin!r}, this one should be {self.origin!r}"
            )
        if stored.size > self.size or self.root(stored.size) != stored.root:
            raise LogCorruptError(
                f"{path} has size {stored.size} and root {stored.root.hex()}, the {self.size} "
                "stored entries do not give that; restore the folder from its newest copy"
            )
        self._checkpoint = note

    def _repair_tiles(self) -> None:
        repair = plan_repair(self.folder, self._leaves)
        for path, content in repair.write.items():
            write_durably(self.folder / path, content, self.folder)
        for replaced in repair.remove:
            replaced.unlink()
