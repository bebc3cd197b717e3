"""Where `ledger` finds entries: a client's site folder, or an evidence bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfm_audit.bundle import CHARTER, read_bundle
from fedfm_audit.charter_view import CharterView, open_charter
from fedfm_audit.errors import BundleError
from fedfm_audit.log import CHECKPOINT
from fedfm_audit.log_keys import LogKeys
from fedfm_audit.privacy.entries import PrivacyPredicate
from fedfm_audit.privacy.reader import LedgerReader
from fedfm_audit.privacy.terms import PrivacyTerms, read_terms
from fedfm_audit.statements import open_leaf
from fedfm_audit.tiles import read_entries
from fedfm_crypto.note import parse_checkpoint, split_note
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.storage.ledger import read_ledger_leaves
from secure_fedfm.storage.site import Site

STATE_FILE = "state.sqlite"  # what Site.database() opens


@dataclass(frozen=True, slots=True)
class ReadLedger:
    """One institution's entries, and what is wrong with any of them (by sequence number)."""

    institution: str
    entries: tuple[PrivacyPredicate, ...]
    problems: tuple[tuple[int, str], ...]
    epsilon: float
    open_charges: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LedgerFiles:
    """The charter, and the ledgers found with it."""

    charter: CharterView
    ledgers: tuple[ReadLedger, ...]

    @property
    def terms(self) -> PrivacyTerms | None:
        """What the charter promises; None in mode none."""
        charter = self.charter
        return read_terms(charter.privacy, charter.thresholds, charter.values, charter.scale)


def read_ledgers(path: Path, *, full: bool = False) -> LedgerFiles:
    """Read and recompute the ledgers of a site folder or a bundle.

    Raises
    ------
    ConfigurationError
        if ``path`` is neither.
    BundleError, StorageError, CharterViewError, StatementError
        if it cannot be read.
    """
    state = path / STATE_FILE
    if state.is_file():
        charter_file = Site(path).charter_file
        if not charter_file.is_file():
            raise ConfigurationError(f"{path} has no charter yet, so it has no privacy ledger")
        charter = open_charter(charter_file.read_bytes())
        leaves = read_ledger_leaves(f"{state.absolute().as_uri()}?mode=ro")
        return LedgerFiles(charter, _ledgers(charter, leaves, full=full))
    if path.is_dir() and not (path / CHARTER).is_file():
        raise ConfigurationError(
            f"{path} is neither a client's site folder ({STATE_FILE}) nor a bundle ({CHARTER})"
        )
    files = read_bundle(path)
    if CHARTER not in files or CHECKPOINT not in files:
        raise BundleError(f"{path} lacks {CHARTER} or {CHECKPOINT}; run `audit verify` on it")
    charter = open_charter(files[CHARTER])
    size = parse_checkpoint(split_note(files[CHECKPOINT])[0]).size
    return LedgerFiles(charter, _ledgers(charter, read_entries(files, size), full=full))


def _ledgers(
    charter: CharterView, leaves: Iterable[bytes], *, full: bool
) -> tuple[ReadLedger, ...]:
    found: dict[str, list[tuple[PrivacyPredicate, str]]] = {}
    keys = LogKeys.of(charter)
    for index, leaf in enumerate(leaves):
        if keys.changes(leaf):
            keys = keys.follow(leaf, index)
            continue
        predicate = open_leaf(leaf, charter.keys).statement.predicate
        if isinstance(predicate, PrivacyPredicate):
            digest = hashlib.sha256(leaf).hexdigest()
            found.setdefault(predicate.institution, []).append((predicate, digest))
    return tuple(_read(name, listed, full=full) for name, listed in sorted(found.items()))


def _read(name: str, listed: Sequence[tuple[PrivacyPredicate, str]], *, full: bool) -> ReadLedger:
    reader = LedgerReader(pld=full)
    problems = [
        (predicate.sequence, problem)
        for predicate, digest in listed
        for problem in reader.read(predicate, digest)
    ]
    entries = tuple(predicate for predicate, _ in listed)
    return ReadLedger(name, entries, tuple(problems), reader.epsilon, reader.open_charges)
