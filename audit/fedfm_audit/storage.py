"""Files that survive a crash: temporary file, fsync, rename, fsync of the folder.

POSIX promises that a rename is atomic, but neither that the data reached the disk before it nor
that the new name did after it; hence one fsync on each side.  Source: AUDIT design, "Durability".
"""

from __future__ import annotations

import os
from pathlib import Path

TEMPORARY_SUFFIX = ".writing"


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, root: Path) -> None:
    """Create ``folder`` below the existing ``root``, each new name durable."""
    missing = [folder, *folder.parents]
    missing = [path for path in missing[: missing.index(root)] if not path.is_dir()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def write_durably(path: Path, data: bytes, root: Path) -> None:
    """Replace ``path`` by ``data``; afterwards it is on disk, and before that the old content is.

    ``root`` is an existing folder above ``path``; folders between are created.
    """
    make_folder(path.parent, root)
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def remove_leftovers(root: Path) -> None:
    """Delete temporary files that a crash left below ``root``; none was ever acknowledged."""
    for path in root.rglob("*" + TEMPORARY_SUFFIX):
        path.unlink()
