"""Where a message lies between the wire and whoever takes it: small ones in memory, others on disk.

Uploads of all clients arrive at the same time and are taken one after the other. Kept on disk
meanwhile, they cost the receiver's memory one message, not one for each client.

The file has no name (O_TMPFILE, or created 0600 and unlinked at once): only this process can
open it, and whatever ends the process frees it. Sizes that a peer declares are compared with
limits and with the free space; nothing is allocated from them.

    Spool      all that one sender may have lying here, over all its connections
    Stored     one message: append() while it arrives, then take() once, or close()
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from secure_fedfm.transport.errors import QuotaError, SpoolError
from secure_fedfm.transport.limits import MIB, TransportLimits

_ADVICE = {
    errno.ENOSPC: "free disk space there",
    errno.EDQUOT: "free disk space there or raise this user's quota",
    errno.EMFILE: "raise this process's limit of open files (`ulimit -n`)",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOENT: "that folder must exist",
    errno.EACCES: "this process must be able to write there",
    errno.EROFS: "this process must be able to write there",
}


class Spool:
    """What arrived from one sender and nobody has taken yet.

    Args:
        limits: `spool_above_bytes`, `max_memory_bytes`, `max_spooled`, `disk_reserve_bytes`.
        folder: where the files lie; None for the system's folder for temporary files.
    """

    def __init__(self, limits: TransportLimits, folder: Path | None = None) -> None:
        self._limits = limits
        self._folder = Path(tempfile.gettempdir()) if folder is None else folder
        self._memory_bytes = 0
        self._files = 0

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self._folder

    @property
    def memory_bytes(self) -> int:
        """Declared bytes of the messages that lie in memory."""
        return self._memory_bytes

    @property
    def files(self) -> int:
        """Messages that lie on disk."""
        return self._files

    def check_room(self, total: int) -> None:
        """Refuse a message of `total` bytes that would need one file too many.

        Raises:
            QuotaError: this sender has `max_spooled` messages on disk.
        """
        if not self._fits_memory(total) and self._files >= self._limits.max_spooled:
            raise QuotaError(
                f"{self._files} messages lie on disk, the limit is {self._limits.max_spooled}"
            )

    def begin(self, total: int) -> Stored:
        """Make room for a message of `total` bytes, which the limits of framing admit.

        Raises:
            QuotaError: see check_room.
            SpoolError: the disk is full, or the file cannot be made; says what to do.
        """
        self.check_room(total)
        if self._fits_memory(total):
            self._memory_bytes += total
            return Stored(self, total, None)
        try:
            self._check_disk(total)
            file = tempfile.TemporaryFile(buffering=0, dir=self._folder)  # noqa: SIM115
        except OSError as error:
            raise self.failure(total, error) from error
        self._files += 1
        return Stored(self, total, file)

    def freed(self, total: int, *, on_disk: bool) -> None:
        """A message was taken or dropped."""
        if on_disk:
            self._files -= 1
        else:
            self._memory_bytes -= total

    def failure(self, total: int, error: OSError) -> SpoolError:
        """The one error for whatever the disk refuses."""
        advice = _ADVICE.get(error.errno or 0, "check that disk")
        return SpoolError(
            f"cannot keep a message of {total} bytes under {self._folder}: "
            f"{error.strerror or error}; {advice}"
        )

    def _fits_memory(self, total: int) -> bool:
        limits = self._limits
        small = total <= limits.spool_above_bytes
        return small and self._memory_bytes + total <= limits.max_memory_bytes

    def _check_disk(self, total: int) -> None:
        """Say no before the bytes have come, and leave the site room for its own state."""
        disk = os.statvfs(self._folder)
        free, reserve = disk.f_bavail * disk.f_frsize, self._limits.disk_reserve_bytes
        if free < total + reserve:
            found = f"{free // MIB} MiB are free, {reserve // MIB} MiB of them are kept free"
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({found})")


class Stored:
    """One message in a Spool. Not safe to use from several threads."""

    __slots__ = ("_closed", "_file", "_parts", "_size", "_spool", "_then", "_total")

    def __init__(self, spool: Spool, total: int, file: io.FileIO | None) -> None:
        self._spool = spool
        self._total = total
        self._file = file
        self._parts: list[bytes] = []
        self._size = 0
        self._then: Callable[[int], None] | None = None
        self._closed = False

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return self._size

    @property
    def on_disk(self) -> bool:
        """Whether the bytes lie in a file."""
        return self._file is not None

    def append(self, part: bytes | memoryview) -> None:
        """Add what came next.

        Raises:
            SpoolError: the disk takes no more.
        """
        self._require_open()
        self._size += len(part)
        if self._file is None:
            self._parts.append(bytes(part))
            return
        rest = memoryview(part)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._spool.failure(self._total, error) from error

    def when_freed(self, then: Callable[[int], None]) -> None:
        """Call `then` with the size, once, when the message is taken or closed."""
        self._then = then

    def take(self) -> bytes:
        """The whole message; what it occupied here is free afterwards. Once only.

        Raises:
            SpoolError: the disk does not give back what was written.
        """
        self._require_open()
        try:
            if self._file is None:
                return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            return self._read_back(self._file.fileno())
        finally:
            self.close()

    def close(self) -> None:
        """Drop the message if it was not taken; twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._parts.clear()
        if self._file is not None:
            self._file.close()
        self._spool.freed(self._total, on_disk=self.on_disk)
        if self._then is not None:
            self._then(self._size)

    def _read_back(self, descriptor: int) -> bytes:
        try:
            # One read into one object: at these sizes every further copy is tens of megabytes.
            data = os.pread(descriptor, self._size, 0)
        except OSError as error:
            raise self._spool.failure(self._total, error) from error
        if len(data) != self._size:
            short = OSError(errno.EIO, f"{len(data)} of {self._size} bytes came back")
            raise self._spool.failure(self._total, short)
        return data

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError("this message was taken or dropped already")
