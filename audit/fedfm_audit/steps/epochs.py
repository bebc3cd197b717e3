"""Key epochs: which collective keys the log has, and which one each round may name.

The keys of a federation are the ``key`` fields of its completed rounds of kind ``keys``.  They are
followed from the statements alone, so that one unreadable transcript does not take the contexts of
every later round with it; what each round says about its own key is checked in its replay.
Source: protocols/README.md, "Key epochs".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedfm_audit.charter_view import CharterView
from fedfm_audit.messages import KEYS, NO_HASH, RoundOpen
from fedfm_audit.statements import KeyReference, RoundPredicate


@dataclass(frozen=True, slots=True)
class KeyHistory:
    """The keys that completed rounds made so far, oldest first."""

    keys: tuple[KeyReference, ...] = ()

    @property
    def latest(self) -> KeyReference | None:
        """The key that a round which sums anything must use now."""
        return self.keys[-1] if self.keys else None

    @property
    def highest(self) -> int:
        """The highest epoch so far, 0 before the first."""
        return max((key.epoch for key in self.keys), default=0)

    def of_epoch(self, epoch: int) -> KeyReference | None:
        """The last key made for an epoch."""
        return next((key for key in reversed(self.keys) if key.epoch == epoch), None)

    def after(self, predicate: RoundPredicate) -> KeyHistory:
        """The history after one more round."""
        if predicate.kind != KEYS or predicate.outcome != "completed" or predicate.key is None:
            return self
        return KeyHistory((*self.keys, predicate.key))

    def context_key(self, opened: RoundOpen, charter: CharterView) -> bytes:
        """The key hash in the contexts of a round: of the epoch that it names, if there is one."""
        key = self.of_epoch(opened.key_epoch)
        if opened.kind == KEYS or not charter.encrypted or key is None:
            return NO_HASH
        return bytes.fromhex(key.hash)


def wrong_epoch(
    opened: RoundOpen, predicate: RoundPredicate, history: KeyHistory, charter: CharterView
) -> Sequence[str]:
    """What is wrong with the epoch that a round names, and with its statement's ``key``."""
    found: list[str] = []
    if opened.kind == KEYS:
        if not charter.encrypted:
            found.append(f"makes a collective key, which suite {charter.suite} does not have")
        if opened.key_epoch <= history.highest:
            found.append(
                f"makes key epoch {opened.key_epoch}; epochs rise, the last was {history.highest}"
            )
        return (*found, *_wrong_made(opened, predicate))
    if not charter.encrypted:
        if opened.key_epoch:
            found.append(
                f"key epoch {opened.key_epoch}; suite {charter.suite} has no keys, only epoch 0"
            )
        if predicate.key is not None:
            found.append(f"the statement names a key, which suite {charter.suite} does not have")
        return found
    latest = history.latest
    if latest is None:
        return (*found, "encrypts before any key generation was completed")
    if opened.key_epoch != latest.epoch:
        found.append(f"names key epoch {opened.key_epoch}, the latest completed is {latest.epoch}")
    if predicate.key != latest:
        found.append(
            f"the statement says {_shown(predicate.key)}; the latest key is {_shown(latest)}"
        )
    return found


def _wrong_made(opened: RoundOpen, predicate: RoundPredicate) -> Sequence[str]:
    key = predicate.key
    if predicate.outcome != "completed":
        return () if key is None else (f"{predicate.outcome}, yet its statement names a key",)
    if key is None:
        return ("completed, yet its statement names no key",)
    if key.epoch != opened.key_epoch:
        return (f"the statement's key is of epoch {key.epoch}, RoundOpen's of {opened.key_epoch}",)
    return ()


def _shown(key: KeyReference | None) -> str:
    if key is None:
        return "no key"
    return f"key {key.hash} of epoch {key.epoch}, held by {len(key.holders)}"
