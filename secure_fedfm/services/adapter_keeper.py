"""The adapter in force at a client, and the one computed but not yet agreed on.

Both are immutable; files are named by the adapter's hash and written before the journal says
which one is in force, so a crash leaves either the old state or the new one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secure_fedfm.errors import ServiceError
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.server_optimiser import AdapterUpdater, OptimiserState


@dataclass(frozen=True, slots=True)
class AdapterInForce:
    """An adapter with the optimiser state that belongs to it."""

    adapter: Adapter
    optimiser: OptimiserState


class AdapterKeeper:
    """Applies opened sums and keeps the results durably.

    ``write`` replaces a file durably; ``initial`` is the adapter before round 1.
    """

    def __init__(
        self,
        folder: Path,
        updater: AdapterUpdater,
        initial: Adapter,
        write: Callable[[Path, bytes], None],
    ) -> None:
        self._folder = folder
        self._updater = updater
        self._write = write
        self._initial = AdapterInForce(initial, updater.initial_state())
        self._current = self._initial
        self._pending: AdapterInForce | None = None

    @property
    def adapter(self) -> Adapter:
        """The adapter in force."""
        return self._current.adapter

    @property
    def initial_hash(self) -> bytes:
        """Hash of the adapter before round 1."""
        return self._initial.adapter.hash()

    def restore(self, adapter_hash: bytes) -> bool:
        """Load the adapter with this hash; False if its files are not there."""
        if adapter_hash == self.initial_hash:
            self._current = self._initial
            return True
        adapter_file, optimiser_file = self._files(adapter_hash)
        if not (adapter_file.is_file() and optimiser_file.is_file()):
            return False
        adapter = Adapter.from_bytes(adapter_file.read_bytes())
        if adapter.hash() != adapter_hash:
            raise ServiceError(
                f"{adapter_file} was changed: its tensors hash to {adapter.hash().hex()[:16]}; "
                "remove the file, and this site rebuilds it by catching up"
            )
        optimiser = OptimiserState.from_bytes(optimiser_file.read_bytes())
        self._current = AdapterInForce(adapter, optimiser)
        return True

    def compute(self, total: NDArray[np.float64], accepted: int) -> bytes:
        """Apply the mean of ``accepted`` updates whose sum is ``total`` (float64 ``[values]``);
        the result is pending until :meth:`adopt`.  Returns its hash."""
        mean = (total / accepted).astype(np.float32)
        adapter, optimiser = self._updater.apply(
            self._current.adapter, self._current.optimiser, mean
        )
        self._pending = AdapterInForce(adapter, optimiser)
        return adapter.hash()

    def adopt(self, adapter_hash: bytes) -> None:
        """Put the pending adapter in force, durably."""
        if self._pending is None or self._pending.adapter.hash() != adapter_hash:
            raise ServiceError(
                f"asked to adopt adapter {adapter_hash.hex()[:16]}, which was not computed here"
            )
        previous = self._current
        self._current, self._pending = self._pending, None
        adapter_file, optimiser_file = self._files(adapter_hash)
        self._write(optimiser_file, self._current.optimiser.to_bytes())
        self._write(adapter_file, self._current.adapter.to_bytes())
        self._forget(keep={adapter_hash, previous.adapter.hash()})

    def drop(self) -> None:
        """Forget a pending adapter: the round was void or aborted."""
        self._pending = None

    def _files(self, adapter_hash: bytes) -> tuple[Path, Path]:
        stem = adapter_hash.hex()
        return (
            self._folder / f"{stem}.safetensors",
            self._folder / f"{stem}.optimiser.safetensors",
        )

    def _forget(self, keep: set[bytes]) -> None:
        """Remove files older than the previous round's; the journal can point to neither."""
        kept = {file for adapter_hash in keep for file in self._files(adapter_hash)}
        for file in self._folder.glob("*.safetensors"):
            if file not in kept:
                file.unlink()
