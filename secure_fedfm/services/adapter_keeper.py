"""The adapter in force at a client, and those computed but not yet agreed on.

A round of several steps computes one candidate after the other, each from the one before; the
adapter in force changes only at the end, to one of the last two (the last step may lack the quorum
that the one before it had).  All are immutable; files are named by the adapter's hash and written
before the journal says which one is in force, so a crash leaves either the old state or the new
one, and a step costs no disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedfm_protocols.context import TRAIN, WATERMARK
from secure_fedfm.errors import ServiceError
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.server_optimiser import AdapterUpdater, OptimiserState
from secure_fedfm.watermark.writing import MarkSum


@dataclass(frozen=True, slots=True)
class AdapterInForce:
    """An adapter with the optimiser state that belongs to it."""

    adapter: Adapter
    optimiser: OptimiserState


class AdapterKeeper:
    """Applies opened sums and keeps the results durably.

    ``write`` replaces a file durably; ``initial`` is the adapter before round 1; ``marks`` says how
    a sum of marks is applied, where the charter has any.
    """

    def __init__(
        self,
        folder: Path,
        updater: AdapterUpdater,
        initial: Adapter,
        write: Callable[[Path, bytes], None],
        marks: MarkSum | None = None,
    ) -> None:
        self._folder = folder
        self._updater = updater
        self._write = write
        self._marks = marks
        self._initial = AdapterInForce(initial, updater.initial_state())
        self._current = self._initial
        self._candidates: dict[int, AdapterInForce] = {}  # by step, the last two

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

    def base(self, step: int) -> Adapter:
        """What step ``step`` (from 0) trains on: the adapter in force, or the candidate of the
        step before.

        Raises
        ------
        ServiceError
            if that was not computed here.
        """
        return self._before(step).adapter

    def compute(
        self, total: NDArray[np.float64], accepted: int, step: int = 0, kind: str = TRAIN
    ) -> bytes:
        """Apply the opened sum ``total`` (float64 ``[values]``) of ``accepted`` updates to what
        step ``step`` was trained on; the result is a candidate until :meth:`adopt`.  Returns its
        hash.  In a round of kind ``watermark`` the sum is one of marks: added, not averaged.

        Raises
        ------
        ServiceError
            if the step before was not computed here.
        """
        before = self._before(step)
        adapter, optimiser = self._applied(before, total, accepted, kind)
        kept = {step - 1: before} if step else {}
        self._candidates = {**kept, step: AdapterInForce(adapter, optimiser)}
        return adapter.hash()

    def _applied(
        self, before: AdapterInForce, total: NDArray[np.float64], accepted: int, kind: str
    ) -> tuple[Adapter, OptimiserState]:
        if kind != WATERMARK:
            return self._updater.advance(before.adapter, before.optimiser, total, accepted)
        if self._marks is None:
            raise ServiceError("a sum of marks under a charter that has none; report this as a bug")
        return self._marks.apply(before.adapter, total, accepted), before.optimiser

    def adopt(self, adapter_hash: bytes) -> None:
        """Put one of the last two candidates in force, durably.

        Raises
        ------
        ServiceError
            if neither has this hash.
        """
        # The latest first: a step may leave the adapter as it was, but not the optimiser.
        for _, candidate in sorted(self._candidates.items(), reverse=True):
            if candidate.adapter.hash() == adapter_hash:
                break
        else:
            raise ServiceError(
                f"asked to adopt adapter {adapter_hash.hex()[:16]}, which was not computed here"
            )
        previous = self._current
        self._current, self._candidates = candidate, {}
        adapter_file, optimiser_file = self._files(adapter_hash)
        self._write(optimiser_file, self._current.optimiser.to_bytes())
        self._write(adapter_file, self._current.adapter.to_bytes())
        self._forget(keep={adapter_hash, previous.adapter.hash()})

    def drop(self) -> None:
        """Forget all candidates: the round was void or aborted."""
        self._candidates = {}

    def _before(self, step: int) -> AdapterInForce:
        if step == 0:
            return self._current
        if step - 1 not in self._candidates:
            raise ServiceError(
                f"step {step} builds on step {step - 1}, whose adapter was not computed here; "
                "this site rejoins at the next round"
            )
        return self._candidates[step - 1]

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
