"""The server-side optimiser, run by every client because the coordinator must not see the sum.

Adaptive federated optimisation (Reddi et al. 2021, arXiv 2003.00295, algorithm 2): the mean of the
clients' deltas is a pseudo-gradient d, and with x the trained tensors

    fedavg    x <- x + eta d                        (eta = 1: McMahan et al. 2017)
    fedavgm   m <- b1 m + d,  x <- x + eta m        (Hsu et al. 2019, arXiv 1909.06335)
    fedadam   m <- b1 m + (1 - b1) d,  v <- b2 v + (1 - b2) d^2,  x <- x + eta m / (sqrt(v) + tau)

(no bias correction, as in the paper). All clients must arrive at the same bits, so each formula is
a sequence of single float32 additions, multiplications, divisions and square roots, which IEEE 754
rounds correctly on every machine; nothing is fused, reduced or raised to a power.

In privacy mode `shared-noise` a sum is no delta but a gradient: ``step_optimiser`` has its rules.
Where clients send votes, a sum is none either: ``votes``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from fedfm_crypto.hashing import hash_tensors
from secure_fedfm.errors import ConfigurationError, ModelError
from secure_fedfm.learning.adapter_state import Adapter, read_tensors
from secure_fedfm.learning.payload import FloatArray, TensorLayout
from secure_fedfm.learning.step_optimiser import KINDS, StepOptimiserSpec, gradient_step
from secure_fedfm.learning.strict_json import from_json, to_json
from secure_fedfm.learning.votes import KIND as VOTES
from secure_fedfm.learning.votes import VoteSpec, voted_step


@dataclass(frozen=True, slots=True)
class ServerOptimiserSpec:
    """Which rule, and its constants (unused ones are stated all the same: a charter is complete).

    `tau` is FedAdam's adaptivity: the smaller, the more every coordinate moves alike.
    """

    kind: Literal["fedavg", "fedavgm", "fedadam"] = "fedavg"
    learning_rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        for name, value, good, expected in (
            ("learning_rate", self.learning_rate, 0 < self.learning_rate <= 100, "in (0, 100]"),
            ("beta1", self.beta1, 0 <= self.beta1 < 1, "in [0, 1)"),
            ("beta2", self.beta2, 0 <= self.beta2 < 1, "in [0, 1)"),
            ("tau", self.tau, 0 < self.tau <= 1, "in (0, 1]"),
        ):
            if not good:
                raise ConfigurationError(f"server_optimiser.{name} is {value}; expected {expected}")

    def to_json(self) -> dict[str, object]:
        return to_json(self)

    @classmethod
    def from_json(cls, data: object) -> ServerOptimiserSpec:
        return from_json(cls, "server_optimiser", data)


OptimiserSpec = ServerOptimiserSpec | StepOptimiserSpec | VoteSpec


def read_optimiser(section: object) -> OptimiserSpec:
    """A charter's ``server_optimiser``, of any kind.

    Raises:
        ConfigurationError: unknown, missing or wrong values.
    """
    if isinstance(section, Mapping) and section.get("kind") in KINDS:
        return StepOptimiserSpec.from_json(section)
    if isinstance(section, Mapping) and section.get("kind") == VOTES:
        return VoteSpec.from_json(section)
    return ServerOptimiserSpec.from_json(section)


_COUNT_BASE = 1 << 20  # two digits to this base are exact in float32


@dataclass(frozen=True, slots=True, eq=False)
class OptimiserState:
    """First and second moment, float32 vectors of the layout's size (zeros before round 1), and
    how many gradient steps there were (0 where sums are deltas).

    Part of what must be equal in every client: `hash` goes wherever the adapter's hash goes.
    """

    momentum: FloatArray
    variance: FloatArray
    count: int = 0

    @classmethod
    def zeros(cls, layout: TensorLayout) -> OptimiserState:
        return cls(np.zeros(layout.size, np.float32), np.zeros(layout.size, np.float32))

    def _tensors(self) -> dict[str, FloatArray]:
        found = {"momentum": self.momentum, "variance": self.variance}
        if self.count:
            found["count"] = np.array(divmod(self.count, _COUNT_BASE), np.float32)
        return found

    def hash(self) -> bytes:
        """Canonical 32-byte tensor hash."""
        return hash_tensors(self._tensors())

    def to_bytes(self) -> bytes:
        """safetensors bytes, for durable state."""
        return save(self._tensors())

    @classmethod
    def from_bytes(cls, data: bytes) -> OptimiserState:
        """The inverse of `to_bytes`.

        Raises:
            ModelError: not the two vectors of equal length.
        """
        tensors = read_tensors(data, "optimiser state")
        count = tensors.pop("count", np.zeros(2, np.float32))
        shapes = {array.shape for array in tensors.values()}
        if set(tensors) != {"momentum", "variance"} or len(shapes) != 1 or count.shape != (2,):
            raise ModelError(
                f"optimiser state holds {sorted(tensors)} of shapes {sorted(shapes)}; "
                "expected momentum and variance of one length: restore it from a backup"
            )
        steps = int(count[0]) * _COUNT_BASE + int(count[1])
        return cls(tensors["momentum"], tensors["variance"], steps)


@dataclass(frozen=True, slots=True)
class AdapterUpdater:
    """Applies an opened sum to the adapter: (adapter, state, sum) -> (adapter, state).

    `batch` is the public constant by which a sum of gradients is divided; sums of deltas (None)
    are divided by the number of accepted clients.
    """

    layout: TensorLayout
    spec: OptimiserSpec
    batch: float | None = None

    def initial_state(self) -> OptimiserState:
        """The state before round 1."""
        return OptimiserState.zeros(self.layout)

    def advance(
        self,
        adapter: Adapter,
        state: OptimiserState,
        total: npt.NDArray[np.float64],
        accepted: int,
    ) -> tuple[Adapter, OptimiserState]:
        """One server step on an opened sum, float64 (layout.size,), of `accepted` clients.

        Raises:
            ModelError: as for `apply`.
        """
        if isinstance(self.spec, VoteSpec):
            total = np.asarray(total, dtype=np.float64)
            self._check(total, state)
            step = voted_step(self.spec, self.layout, state.count, total, accepted)
            following = OptimiserState(state.momentum, state.variance, state.count + 1)
            return adapter.moved(self.layout, step), following
        divisor = accepted if self.batch is None else self.batch
        return self.apply(adapter, state, (total / divisor).astype(np.float32))

    def apply(
        self, adapter: Adapter, state: OptimiserState, mean_delta: FloatArray
    ) -> tuple[Adapter, OptimiserState]:
        """One server step.

        Args:
            adapter: the adapter in force during the round (or after the step before).
            state: the optimiser's state that belongs to it.
            mean_delta: float32 (or float64, rounded once here) of shape (layout.size,), the opened
                sum divided by the number of accepted clients, or the mean gradient.

        Raises:
            ModelError: wrong shape, or a value that is not finite.
        """
        if isinstance(self.spec, VoteSpec):
            raise ModelError("votes have no mean: give `advance` their sum")
        delta = np.asarray(mean_delta).astype(np.float32)
        self._check(delta, state)
        if isinstance(self.spec, ServerOptimiserSpec):
            step, following = _step(self.spec, state, delta)
            return adapter.moved(self.layout, step), following
        step, momentum, variance = gradient_step(
            self.spec, self.layout, state.momentum, state.variance, state.count, delta
        )
        following = OptimiserState(momentum, variance, state.count + 1)
        return adapter.moved(self.layout, step), following

    def _check(self, found: npt.NDArray[np.floating], state: OptimiserState) -> None:
        if found.shape != (self.layout.size,) or state.momentum.shape != found.shape:
            raise ModelError(
                f"mean delta has shape {found.shape} and state {state.momentum.shape}; "
                f"expected ({self.layout.size},) for both"
            )
        if not np.isfinite(found).all():
            raise ModelError("the mean delta holds values that are not finite; void the round")


def _step(
    spec: ServerOptimiserSpec, state: OptimiserState, delta: FloatArray
) -> tuple[FloatArray, OptimiserState]:
    eta, beta1, beta2 = (np.float32(x) for x in (spec.learning_rate, spec.beta1, spec.beta2))
    one = np.float32(1)
    if spec.kind == "fedavg":
        return eta * delta, state
    if spec.kind == "fedavgm":
        momentum = beta1 * state.momentum + delta
        return eta * momentum, OptimiserState(momentum, state.variance)
    momentum = beta1 * state.momentum + (one - beta1) * delta
    variance = beta2 * state.variance + (one - beta2) * (delta * delta)
    spread: FloatArray = np.sqrt(variance) + np.float32(spec.tau)
    step: FloatArray = eta * (momentum / spread)
    return step, OptimiserState(momentum, variance)
