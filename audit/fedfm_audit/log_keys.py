"""Which key signs the log's head at which size: the charter's, and those that followed it.

A leaf of type ``urn:secure-fedfm:log-key:v1``, signed by the key in force, names the next one.  A
checkpoint that covers the leaf is signed by the next key, one that does not by the key before it;
never by both, so that a key that was given up signs nothing any more.  Source: audit/README.md,
"Log keys".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedfm_audit.charter_view import CharterView
from fedfm_audit.errors import StatementError
from fedfm_audit.log import CHECKPOINT
from fedfm_audit.statements import LogKeyPredicate, log_key_statement, open_leaf, sign_statement
from fedfm_audit.tiles import MAX_LEAVES, read_entries
from fedfm_crypto.errors import FedFMError, NoteError
from fedfm_crypto.identity import IdentityKey, IdentityPublicKey
from fedfm_crypto.note import (
    NoteAlgorithm,
    VerifierKey,
    format_vkey,
    parse_checkpoint,
    parse_vkey,
    split_note,
)


@dataclass(frozen=True, slots=True)
class LogKey:
    """``key`` signs heads of more than ``above`` leaves, until the next one does; -1 for the
    charter's key, which signs from the empty tree on."""

    key: VerifierKey
    above: int


@dataclass(frozen=True, slots=True)
class LogKeys:
    """The keys of a log, in order: a charter's, then those that leaves name."""

    origin: str
    charter: str
    keys: tuple[LogKey, ...]

    @classmethod
    def of(cls, charter: CharterView) -> LogKeys:
        """The key that a charter names, before any change."""
        return cls.starting(charter.log_key, charter.digest.hex())

    @classmethod
    def starting(cls, key: VerifierKey, charter: str) -> LogKeys:
        """Only the first key, under the charter with this hex SHA-256."""
        return cls(key.name, charter, (LogKey(key, -1),))

    @property
    def last(self) -> VerifierKey:
        """The key in force at the end."""
        return self.keys[-1].key

    @property
    def publics(self) -> dict[str, IdentityPublicKey]:
        """All keys by their hex, as leaves name their signers."""
        return {one.key.public.hex: one.key.public for one in self.keys}

    def at(self, size: int) -> VerifierKey:
        """The one key that signs a head of ``size`` leaves."""
        return next(one.key for one in reversed(self.keys) if size > one.above)

    def changes(self, leaf: bytes) -> bool:
        """Whether a leaf claims to be signed by the key in force, which signs nothing but changes
        (a look at the key id; nothing is verified)."""
        return self.last.public.hex.encode() in leaf

    def follow(self, leaf: bytes, index: int) -> LogKeys:
        """The keys after the change that leaf ``index`` states.

        Raises
        ------
        StatementError
            unless it is the next change of this log, signed by the key in force, to a new key.
        """
        place = f"leaf {index}, a change of the log's key"
        try:
            opened = open_leaf(leaf, {self.last.public.hex: self.last.public})
            predicate = opened.statement.predicate
            if not isinstance(predicate, LogKeyPredicate):
                raise StatementError(f"is a {predicate.TYPE} under the log's key")
            following = parse_vkey(predicate.key)
        except FedFMError as error:
            raise StatementError(f"{place}: {error}") from error
        said = (predicate.charter, predicate.sequence, predicate.previous)
        if said != (self.charter, len(self.keys), vkey_text(self.last)):
            raise StatementError(
                f"{place}: number {predicate.sequence} under charter {predicate.charter[:16]} "
                f"after {predicate.previous}; expected number {len(self.keys)} under "
                f"{self.charter[:16]} after {vkey_text(self.last)}"
            )
        if (following.name, following.algorithm) != (self.origin, NoteAlgorithm.ED25519):
            raise StatementError(f"{place}: {predicate.key} is no log key of {self.origin}")
        if following.public.hex in self.publics:
            raise StatementError(f"{place}: {predicate.key} signed this log before")
        return LogKeys(self.origin, self.charter, (*self.keys, LogKey(following, index)))

    def sign_change(self, signer: IdentityKey, following: IdentityPublicKey) -> bytes:
        """The leaf by which ``signer``, the key in force, hands the log over to ``following``."""
        if signer.public != self.last.public:
            raise NoteError(
                f"the log's key in force is {vkey_text(self.last)}; another cannot change it"
            )
        predicate = LogKeyPredicate(
            charter=self.charter,
            sequence=len(self.keys),
            previous=vkey_text(self.last),
            key=format_vkey(self.origin, following),
        )
        return sign_statement(log_key_statement(predicate), signer)


def vkey_text(key: VerifierKey) -> str:
    """The verifier key line of a key."""
    return format_vkey(key.name, key.public, key.algorithm)


def log_keys_in(
    files: Mapping[str, bytes], charter: CharterView
) -> tuple[LogKeys, tuple[tuple[str, StatementError], ...]]:
    """The keys of the log in a bundle's files, and what is wrong with their changes, by place.

    Where leaves cannot be read there are none: verification steps 1 and 2 say why.
    """
    keys, wrong = LogKeys.of(charter), []
    try:
        size = parse_checkpoint(split_note(files[CHECKPOINT])[0]).size
        leaves = read_entries(files, size) if size <= MAX_LEAVES else []
    except (KeyError, FedFMError):
        leaves = []
    for index, leaf in enumerate(leaves):
        if keys.changes(leaf):
            try:
                keys = keys.follow(leaf, index)
            except StatementError as error:
                wrong.append((f"leaf {index}", error))
    return keys, tuple(wrong)


def follow_log_keys(charter: CharterView, changes: Sequence[bytes]) -> tuple[LogKey, ...]:
    """The charter's key and those that a list of changes leads to, their places unknown.

    Raises
    ------
    StatementError
        if they do not follow from each other.
    """
    keys = LogKeys.of(charter)
    for number, leaf in enumerate(changes):
        keys = keys.follow(leaf, number)
    return keys.keys


def log_keys_of(keys: LogKeys, leaves: Iterable[bytes]) -> LogKeys:
    """The keys of a log with these leaves, which begin with the first one.

    Raises
    ------
    StatementError
        at the first leaf under a log key that is not the next change.
    """
    for index, leaf in enumerate(leaves):
        if keys.changes(leaf):
            keys = keys.follow(leaf, index)
    return keys
