"""The collective keys that a client holds: the epoch in force, the one just made, and what is
left of the earlier ones.

A client keeps its share and the public key of at most two epochs.  Of earlier epochs it keeps the
group keys alone, with which it can still repeat sums that it missed; the shares are gone, so even
all of today's holders together cannot open a wrapped key of the past.
Source: protocols/README.md, section "Key epochs".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from fedfm_crypto.codec import U32, Bytes32, MaxCount, MaxLength
from fedfm_protocols.key_messages import GroupKey
from fedfm_protocols.message_fields import (
    KEY_SHARE_BYTES,
    MAX_EARLIER_KEYS,
    MAX_PUBLIC_KEY_BYTES,
    Names,
)


@dataclass(frozen=True, slots=True)
class EpochKeys:
    """All that one client holds of one epoch; ``share`` is empty if it is none of the holders.

    Source: protocols/README.md, section "Key epochs".
    """

    epoch: U32
    key_hash: Bytes32
    holders: Names
    public_key: Annotated[bytes, MaxLength(MAX_PUBLIC_KEY_BYTES)] = field(repr=False)
    group: Bytes32 = field(repr=False)
    share: Annotated[bytes, MaxLength(KEY_SHARE_BYTES)] = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of a client, as they survive rounds and restarts.

    ``current`` is in force; ``pending`` was made by a round that this client acknowledged and has
    not seen completed.  ``earlier`` may hold several candidates for one epoch, should a dealer
    have passed on a false one: what a candidate opens shows whether it is right.

    Source: protocols/README.md, section "Key epochs".
    """

    current: EpochKeys | None = None
    pending: EpochKeys | None = None
    earlier: Annotated[tuple[GroupKey, ...], MaxCount(MAX_EARLIER_KEYS)] = ()

    @property
    def latest(self) -> EpochKeys | None:
        """The keys of the highest epoch at hand."""
        return self.pending or self.current

    def of(self, epoch: int) -> EpochKeys | None:
        """The keys of an epoch, if they are (still) at hand."""
        for keys in (self.current, self.pending):
            if keys is not None and keys.epoch == epoch:
                return keys
        return None

    def add(self, keys: EpochKeys, passed_on: tuple[GroupKey, ...]) -> KeyRing:
        """With the keys of a new epoch pending, and group keys that its dealers passed on."""
        known = dict.fromkeys((*self.earlier, *passed_on))
        # More than fit were never made by honest clients; the newest matter most.
        merged = sorted(known, key=lambda entry: entry.epoch)[-MAX_EARLIER_KEYS:]
        return replace(self, pending=keys, earlier=tuple(merged))

    def activate(self, epoch: int) -> KeyRing:
        """With ``epoch`` in force: the share of the one before is dropped, its group key kept."""
        if self.pending is None or self.pending.epoch != epoch:
            return self
        earlier = self.earlier
        if self.current is not None:
            earlier = (*earlier, GroupKey(self.current.epoch, self.current.group))
        ring = replace(self, current=self.pending, pending=None)
        return replace(ring, earlier=tuple(dict.fromkeys(earlier))[-MAX_EARLIER_KEYS:])

    def group_keys(self, epoch: int) -> tuple[bytes, ...]:
        """Candidates for the group key of an epoch, the surest first."""
        keys = self.of(epoch)
        own = () if keys is None else (keys.group,)
        return (*own, *(entry.key for entry in self.earlier if entry.epoch == epoch))

    def all_groups(self) -> tuple[GroupKey, ...]:
        """What a dealer passes on: every group key that is in force or was."""
        mine = self.earlier
        if self.current is not None:
            mine = (*mine, GroupKey(self.current.epoch, self.current.group))
        return tuple(dict.fromkeys(mine))[-MAX_EARLIER_KEYS:]
