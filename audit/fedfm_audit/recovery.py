"""What a log folder holds after a crash, and what must be put right in it.

Reading and planning only; ``Log.open`` carries the plan out once nothing speaks against it.
"""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path

from fedfm_audit.errors import LogCorruptError, LogLockedError
from fedfm_audit.tiles import TILE_WIDTH, decode_entries, render_tiles, tile_path

LOCK = ".lock"
_PARTIAL = re.compile(r"[1-9][0-9]{0,2}")


def lock_folder(folder: Path) -> int:
    """Take the writer's lock and return its descriptor; the lock lasts until that is closed.

    Raises
    ------
    LogLockedError
        if another process has it.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise LogLockedError(
            f"{folder} is open in another process; two writers would fork the log. Stop the other"
        ) from error
    return descriptor


def stored_leaves(folder: Path) -> list[bytes]:
    """Every leaf on disk, in order.

    Raises
    ------
    LogCorruptError
        if an entry bundle is malformed, or a narrower copy of it says something else.
    """
    leaves: list[bytes] = []
    for index in range(1 << 16):
        full = folder / tile_path("entries", index)
        widths = _partial_widths(full)
        if full.exists():
            widths.append(TILE_WIDTH)
        if not widths:
            break
        bundle = b""
        for width in sorted(widths):
            path = folder / tile_path("entries", index, width)
            wider = path.read_bytes()
            if not wider.startswith(bundle):
                raise LogCorruptError(f"{path} contradicts a narrower copy of the same entries")
            leaves[index * TILE_WIDTH :] = decode_entries(wider, width, str(path))
            bundle = wider
        if max(widths) < TILE_WIDTH:
            break
    return leaves


def _partial_widths(full: Path) -> list[int]:
    folder = full.with_name(full.name + ".p")
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir()]
    strange = [name for name in names if not _PARTIAL.fullmatch(name) or int(name) >= TILE_WIDTH]
    if strange:
        raise LogCorruptError(f"{folder} holds {strange[0]!r}, which is no tile width")
    return [int(name) for name in names]


@dataclass(frozen=True, slots=True)
class Repair:
    """Files to write and files to remove so that ``tile/`` holds exactly what the leaves give."""

    write: dict[str, bytes]
    remove: tuple[Path, ...]


def plan_repair(folder: Path, leaves: list[bytes]) -> Repair:
    """Compare the stored tiles with the leaves.

    Missing tiles are to be written; partial tiles that a wider one has replaced are to be removed.

    Raises
    ------
    LogCorruptError
        if a stored tile holds anything else: entries were lost or altered.
    """
    expected = render_tiles(leaves)
    missing = dict(expected)
    remove: list[Path] = []
    for stored in sorted((folder / "tile").rglob("*")):
        if stored.is_dir():
            continue
        name = stored.relative_to(folder).as_posix()
        content = stored.read_bytes()
        if expected.get(name) == content:
            del missing[name]
        elif name not in expected and _replaced(name, content, expected):
            remove.append(stored)
        else:
            raise LogCorruptError(
                f"{stored} does not fit the {len(leaves)} stored entries; entries were lost or "
                "altered. Restore the folder from its newest copy"
            )
    return Repair(missing, tuple(remove))


def _replaced(name: str, content: bytes, expected: dict[str, bytes]) -> bool:
    """Whether ``name`` is a narrower partial of a tile that is expected wider."""
    base, separator, _ = name.rpartition(".p/")
    if not separator or not content:
        return False
    wider = [path for path in expected if path == base or path.startswith(base + ".p/")]
    return any(
        expected[path].startswith(content) and len(expected[path]) > len(content) for path in wider
    )
