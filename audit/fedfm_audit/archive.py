"""The replay archive: what a coordinator got and sent for each sum, kept apart from the bundle.

::

    ARCHIVE/000003/0000/Upload/hospital-a        round, step, type, sender: one message body
    ARCHIVE/000003/0000/WrappedKey/hospital-a    suites with encryption
    ARCHIVE/000003/0000/Unmask/hospital-b        suites with masks
    ARCHIVE/000003/0000/Aggregate/coordinator

The bundle's transcripts are its index: every file is the body of a message whose signed header,
and so whose SHA-256, stands there.  A round is in the archive whole or not at all, and only steps
whose sum was published are.  Who may hold one: audit/README.md, "Replay archive".
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fedfm_audit.entries import Entry, read_body
from fedfm_audit.errors import ArchiveError
from fedfm_audit.messages import Cohort
from fedfm_audit.storage import sync_folder

ARCHIVED_KINDS = frozenset({"Upload", "WrappedKey", "Unmask", "Aggregate"})
"""Messages whose bodies repeat a sum."""

MessageKey = tuple[str, str]
"""Type and sender: names one message of a step."""

_OPEN = "open"
_ROUND = re.compile(r"[0-9]{6}")
_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600


def archived_messages(
    entries: Sequence[Entry], *, masked: bool, encrypted: bool
) -> tuple[MessageKey, ...]:
    """Which messages of a step an archive holds, in order; none where no sum was published.

    Uploads and wrapped keys of the accepted alone: an upload that came to nothing is kept nowhere,
    since beside the mask key that was opened in its stead it would hide less.

    Raises
    ------
    TranscriptError
        if the cohort does not decode.
    """
    of = {kind: [e for e in entries if e.header.type == kind] for kind in ("Aggregate", "Cohort")}
    if not of["Aggregate"] or not of["Cohort"]:
        return ()
    accepted = read_body(of["Cohort"][0], Cohort).accepted
    kinds = ("Upload", "WrappedKey") if encrypted else ("Upload",)
    listed = [(kind, name) for kind in kinds for name in accepted]
    if masked:
        listed += [("Unmask", e.header.sender) for e in entries if e.header.type == "Unmask"]
    return (*listed, ("Aggregate", of["Aggregate"][0].header.sender))


def _round_name(number: int) -> str:
    return f"{number:06d}"


def _step_path(step: int) -> str:
    return f"{step:04d}"


class ArchiveWriter:
    """Keeps bodies as they come and closes them into the archive round by round.

    A crash leaves no part of a round: what is not closed lies under ``open`` and is gone when the
    archive is opened again.  Files are readable by their owner only.

    Parameters
    ----------
    root
        The archive's folder; made if it is missing.
    last_round
        Last round that the log states.  Rounds beyond it were closed just before a crash; they
        will have another story, and go.
    """

    def __init__(self, root: Path, last_round: int) -> None:
        self._root = root
        root.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        shutil.rmtree(root / _OPEN, ignore_errors=True)
        for number in self.rounds():
            if number > last_round:
                shutil.rmtree(root / _round_name(number))

    def rounds(self) -> tuple[int, ...]:
        """Numbers of the rounds held, in order."""
        return _rounds(self._root)

    def put(self, number: int, step: int, kind: str, sender: str, body: bytes) -> None:
        """Keep one body of the running round; durable once the round is closed."""
        path = self._root / _OPEN / _round_name(number) / _step_path(step) / kind / sender
        path.parent.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE_FILE)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(body)

    def close_round(self, number: int, kept: Mapping[int, Collection[MessageKey]]) -> bool:
        """Move a round into the archive: of each step exactly the messages ``kept``.

        Returns whether there is anything of it.

        Raises
        ------
        ArchiveError
            if a body was never put; nothing of the round is kept then.
        """
        opened = self._root / _OPEN / _round_name(number)
        try:
            wanted = {
                Path(_step_path(step), kind, sender)
                for step, messages in kept.items()
                for kind, sender in messages
            }
            if not wanted:
                return False
            missing = sorted(str(path) for path in wanted if not (opened / path).is_file())
            if missing:
                raise ArchiveError(
                    f"round {number} is not archived: {missing[0]} was never put into {opened}"
                )
            _keep_only(opened, wanted)
            os.replace(opened, self._root / _round_name(number))
            sync_folder(self._root)
            return True
        finally:
            shutil.rmtree(self._root / _OPEN, ignore_errors=True)

    def keep_last(self, rounds: int) -> tuple[int, ...]:
        """Delete all but the latest ``rounds`` rounds; returns those that are gone."""
        gone = self.rounds()[:-rounds] if rounds else self.rounds()
        for number in gone:
            # Out of the archive first: half a round would read as one that somebody damaged.
            leaving = self._root / _OPEN / _round_name(number)
            leaving.parent.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
            os.replace(self._root / _round_name(number), leaving)
        shutil.rmtree(self._root / _OPEN, ignore_errors=True)
        return gone


def _keep_only(opened: Path, wanted: Collection[Path]) -> None:
    """Delete what is not ``wanted`` and make the rest durable."""
    for folder, names, files in os.walk(opened, topdown=False):
        here = Path(folder)
        for name in files:
            path = here / name
            if path.relative_to(opened) not in wanted:
                path.unlink()
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if not any(here.iterdir()):
            here.rmdir()
        else:
            sync_folder(here)
        del names


def _rounds(root: Path) -> tuple[int, ...]:
    with os.scandir(root) as listing:
        names = [entry.name for entry in listing if entry.is_dir(follow_symlinks=False)]
    return tuple(sorted(int(name) for name in names if _ROUND.fullmatch(name)))


# ---- reading


@dataclass(frozen=True, slots=True)
class ArchivedBody:
    """One file of an archive: where it is, and its size in bytes.  Read it in pieces."""

    path: Path
    size: int

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The file, open for reading; never through a link.

        Raises
        ------
        ArchiveError
            if it cannot be opened.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ArchiveError(f"cannot be opened: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as stream:
            yield stream

    def read(self, limit: int) -> bytes:
        """All of it.

        Raises
        ------
        ArchiveError
            if it is larger than ``limit`` or cannot be read.
        """
        if self.size > limit:
            raise ArchiveError(f"has {self.size} bytes, expected at most {limit}")
        with self.opened() as stream:
            return stream.read(limit + 1)


class Archive:
    """An archive folder as an auditor reads it.  Nothing in it is trusted: names come from the
    transcripts, and what a file holds is compared with the hash that was signed.

    Raises
    ------
    ArchiveError
        if ``root`` is no readable folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self.rounds = frozenset(_rounds(root))
        except OSError as error:
            raise ArchiveError(f"cannot read the archive {root}: {error.strerror}") from error

    def body(self, number: int, step: int, kind: str, sender: str) -> ArchivedBody:
        """One message's body.

        Raises
        ------
        ArchiveError
            if there is no such plain file.
        """
        path = self.root / _round_name(number) / _step_path(step) / kind / sender
        try:
            found = path.lstat()
        except OSError as error:
            raise ArchiveError("missing from the archive") from error
        if not stat.S_ISREG(found.st_mode):
            raise ArchiveError("is a link or a special file; an archive has none")
        return ArchivedBody(path, found.st_size)

    def strangers(self, number: int, known: Mapping[int, Collection[MessageKey]]) -> list[str]:
        """Files and links of a round that no message of its transcript accounts for, a few of
        them."""
        expected = {
            f"{_step_path(step)}/{kind}/{sender}"
            for step, messages in known.items()
            for kind, sender in messages
        }
        root, found = self.root / _round_name(number), []
        for folder, _, files in os.walk(root):
            for name in files:
                place = Path(folder, name).relative_to(root).as_posix()
                if place not in expected:
                    found.append(place)
            if len(found) > len(expected):
                break
        return sorted(found)[:3]
