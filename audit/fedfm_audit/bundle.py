"""The evidence bundle: a folder or a zip with everything an auditor needs, and nothing else.

::

    charter.json            the signed charter (DSSE)
    policy                  C2SP tlog-policy, rendered from the charter
    checkpoint              the log's signed note with the witnesses' cosignatures
    tile/...                entries and hashes of the log at the checkpoint's size
    transcripts/000001.json one per round, named by the round statements of the log

A bundle is read into memory whole, within bounds, and nothing is ever unpacked to disk.  A zip is
accepted only in the one form that ``pack_zip`` writes (stored, sorted, no dates): zip readers
disagree about everything else, and a byte that no check covers could carry a different story.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fedfm_audit.charter_view import open_charter
from fedfm_audit.errors import BundleError
from fedfm_audit.log import CHECKPOINT, Log
from fedfm_audit.log_keys import LogKeys, log_keys_of
from fedfm_audit.policy import render_policy
from fedfm_audit.statements import transcript_path
from fedfm_audit.tiles import render_tiles
from fedfm_crypto.note import parse_checkpoint, split_note

CHARTER = "charter.json"
POLICY = "policy"
TIMESTAMP = "checkpoint.tsr"

_TILE = re.compile(
    r"tile/(?:entries|[0-9]|[1-5][0-9]|6[0-3])/(?:x[0-9]{3}/)*[0-9]{3}(?:\.p/[0-9]{1,3})?"
)
_TRANSCRIPT = re.compile(r"transcripts/[0-9]{6}\.json")
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_ZIP_MODE = (stat.S_IFREG | 0o644) << 16
_ZIP_UNIX = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """What a reader is willing to load: number of files, bytes of one, bytes of all, path depth."""

    files: int = 100_000
    file_bytes: int = 256 << 20
    total_bytes: int = 2 << 30
    depth: int = 8


DEFAULT_LIMITS = Limits()


def known_name(name: str) -> bool:
    """Whether a bundle may hold a file of this name at all."""
    return (
        name in (CHARTER, POLICY, CHECKPOINT, TIMESTAMP)
        or _TILE.fullmatch(name) is not None
        or _TRANSCRIPT.fullmatch(name) is not None
    )


# ---- writing


def bundle_files(
    log: Log, charter: bytes, transcripts: Mapping[int, bytes], timestamp: bytes | None = None
) -> dict[str, bytes]:
    """The files of a bundle: the log at its stored checkpoint, and the rounds' transcripts.

    ``charter`` is the signed charter (DSSE bytes), ``transcripts`` maps round number to the
    encoded transcript, ``timestamp`` is an RFC 3161 response about the checkpoint.

    Raises
    ------
    BundleError
        if the log has no checkpoint or has leaves that the checkpoint does not cover.
    CharterViewError
        if the charter is not signed as it must be.
    """
    if log.checkpoint is None:
        raise BundleError("the log has no checkpoint; call sign_checkpoint first")
    head = parse_checkpoint(split_note(log.checkpoint)[0])
    if head.size != log.size:
        raise BundleError(
            f"the checkpoint covers {head.size} of {log.size} leaves; sign a new one and have it "
            "cosigned"
        )
    view = open_charter(charter)
    return {
        CHARTER: charter,
        POLICY: render_policy(view, log_keys_of(LogKeys.of(view), log.leaves)),
        CHECKPOINT: log.checkpoint,
        **({} if timestamp is None else {TIMESTAMP: timestamp}),
        **render_tiles(log.leaves),
        **{transcript_path(number): data for number, data in transcripts.items()},
    }


def write_bundle(
    log: Log,
    charter: bytes,
    transcripts: Mapping[int, bytes],
    destination: Path,
    timestamp: bytes | None = None,
) -> Path:
    """Write a bundle to ``destination``: a zip if it ends in ``.zip``, else a new folder.

    Raises
    ------
    BundleError
        if ``destination`` exists already, and as :func:`bundle_files`.
    """
    return write_files(bundle_files(log, charter, transcripts, timestamp), destination)


def write_files(files: Mapping[str, bytes], destination: Path) -> Path:
    """Write bundle files to a new folder or zip; it appears whole or not at all."""
    if destination.exists() or destination.is_symlink():
        raise BundleError(f"{destination} exists already; choose another place or remove it")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".bundle-") as folder:
        staged = Path(folder, "bundle")
        if destination.suffix == ".zip":
            staged.write_bytes(pack_zip(files))
        else:
            for name, data in files.items():
                path = staged / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        os.replace(staged, destination)
    return destination


def pack_zip(files: Mapping[str, bytes]) -> bytes:
    """The one zip of these files: stored, sorted by name, fixed date and mode."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            member = zipfile.ZipInfo(name, _ZIP_DATE)
            member.external_attr = _ZIP_MODE
            member.create_system = _ZIP_UNIX
            archive.writestr(member, files[name])
    return packed.getvalue()


# ---- reading


def read_bundle(path: Path, limits: Limits = DEFAULT_LIMITS) -> dict[str, bytes]:
    """Every file of a bundle folder or zip, by name.  Nothing is verified yet.

    Raises
    ------
    BundleError
        for anything that is not a plain file with a plain relative name, or beyond ``limits``.
    """
    try:
        if path.is_dir():
            return _read_folder(path, limits)
        if path.is_file():
            return _read_zip(path, limits)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error}") from error
    raise BundleError(f"{path} is neither a folder nor a file")


class _Loader:
    """Adds up what was loaded and refuses the file that goes beyond the limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.files: dict[str, bytes] = {}
        self._total = 0

    def allowance(self, name: str) -> int:
        """How many bytes the next file may have."""
        if name in self.files:
            raise BundleError(f"{name!r} occurs twice")
        if len(self.files) >= self.limits.files:
            raise BundleError(f"more than {self.limits.files} files")
        return min(self.limits.file_bytes, self.limits.total_bytes - self._total)

    def add(self, name: str, data: bytes, allowance: int) -> None:
        if len(data) > allowance:
            raise BundleError(f"{name!r} is larger than the {allowance} bytes left to read")
        self.files[name] = data
        self._total += len(data)


def _read_folder(root: Path, limits: Limits) -> dict[str, bytes]:
    loader = _Loader(limits)
    folders = [root]
    while folders:
        folder = folders.pop()
        if len(folder.relative_to(root).parts) > limits.depth:
            raise BundleError(f"{folder} lies deeper than {limits.depth} folders")
        with os.scandir(folder) as listing:
            for entry in listing:
                path = Path(entry.path)
                name = path.relative_to(root).as_posix()
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                    if len(folders) > limits.files:
                        raise BundleError(f"more than {limits.files} folders")
                elif entry.is_file(follow_symlinks=False):
                    allowance = loader.allowance(name)
                    loader.add(name, _read_plain(path, allowance), allowance)
                else:
                    raise BundleError(f"{name!r} is a link or a special file; a bundle has none")
    return loader.files


def _read_plain(path: Path, allowance: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(allowance + 1)


def _read_zip(path: Path, limits: Limits) -> dict[str, bytes]:
    # Every member is stored, so the file's own size bounds what it can unpack to.
    if path.stat().st_size > 2 * limits.total_bytes:
        raise BundleError(f"{path} has {path.stat().st_size} bytes; too large for a bundle")
    packed = _read_plain(path, 2 * limits.total_bytes)
    try:
        files = _unpack(packed, limits)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise BundleError(f"{path} is not a readable zip: {error}") from error
    if pack_zip(files) != packed:
        raise BundleError(
            f"{path} is not in the form that this project packs (stored, sorted, undated); unpack "
            "it yourself and verify the folder"
        )
    return files


def _unpack(packed: bytes, limits: Limits) -> dict[str, bytes]:
    loader = _Loader(limits)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        for member in archive.infolist():
            name = member.filename
            parts = PurePosixPath(name).parts
            if name.startswith("/") or "\\" in name or ".." in parts or name.endswith("/"):
                raise BundleError(f"{name!r} is no plain relative file name")
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                raise BundleError(f"{name!r} is a link or a special file; a bundle has none")
            if member.compress_type != zipfile.ZIP_STORED:
                raise BundleError(f"{name!r} is compressed; a bundle's zip stores its files as is")
            allowance = loader.allowance(name)
            with archive.open(member) as stream:
                loader.add(name, stream.read(allowance + 1), allowance)
    return loader.files
