"""What program runs here: a hash over its own files, and the distributions that it stands on.

Both go into the log's federation statement, so that an auditor can tell whether the coordinator ran
a release, and with which dependencies.  A participant that lies about its program can state any
hash; what it does is judged by its signed messages.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

PACKAGE = "secure-fedfm"
IMPORTED = ("fedfm_audit", "fedfm_crypto", "fedfm_protocols", "secure_fedfm")
SUFFIXES = (".py", ".json", ".toml")
EXTRA = "federation"
"""The extra that coordinators and clients are installed with."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_ONLY_FOR = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


def code_hash() -> bytes:
    """SHA-256 over the lines ``<hex SHA-256>  <path>`` (each with a line feed, sorted by path) of
    the four packages' files that end in .py, .json or .toml.

    Paths are those inside a wheel, so that ``sha256sum`` gives the same (audit/README.md, "Program
    and dependencies").
    """
    manifest = hashlib.sha256()
    for name, path in sorted(_own_files()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest.update(f"{digest}  {name}\n".encode())
    return manifest.digest()


def _own_files() -> Iterator[tuple[str, Path]]:
    for package in IMPORTED:
        root = Path(str(files(package)))
        for path in root.rglob("*"):
            if path.suffix in SUFFIXES and path.is_file():
                yield f"{package}/{path.relative_to(root).as_posix()}", path


def installed_distributions() -> tuple[tuple[str, str], ...]:
    """Name (as PEP 503 normalises it) and version of everything installed that the federation extra
    needs, directly or not, sorted by name; empty where the package itself is not installed.

    A requirement for another platform counts if it is installed: nothing here evaluates markers
    but those about extras.
    """
    found: dict[str, str] = {}
    pending = [PACKAGE]
    while pending:
        name = pending.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in distribution.requires or ():
            needed = _needed(requirement, root=name == PACKAGE)
            if needed is not None and needed not in found:
                try:
                    found[needed] = importlib.metadata.version(needed)
                except importlib.metadata.PackageNotFoundError:
                    continue
                pending.append(needed)
    found.pop(PACKAGE, None)
    return tuple(sorted(found.items()))


def _needed(requirement: str, *, root: bool) -> str | None:
    """The normalised name that a requirement asks for; None if it belongs to an extra that is not
    of this program."""
    extras = _ONLY_FOR.findall(requirement)
    if extras and not (root and EXTRA in extras):
        return None
    match = _NAME.match(requirement.strip())
    return None if match is None else re.sub(r"[-_.]+", "-", match.group()).lower()
