"""Adapters, claims and keys for tests about marks: random hosts in the shape of LoRA adapters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from fedfm_audit.watermark.claim import Claim, Purpose, TargetModule
from fedfm_audit.watermark.commitment import CommittedClaim, MarkKey, Opening
from fedfm_audit.watermark.directions import Directions
from fedfm_audit.watermark.response import respond
from fedfm_audit.watermark.statistic import Evidence
from fedfm_audit.watermark.suspect import LowRank, LowRankSuspect
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret

BASE_MODEL = "ab" * 32
Host = Mapping[str, LowRank]


@dataclass(frozen=True)
class Shape:
    """Modules, width and rank of a host."""

    modules: int = 16
    width: int = 256
    rank: int = 8

    def targets(self) -> tuple[TargetModule, ...]:
        names = (f"layers.{i:02}.query" for i in range(self.modules))
        return tuple(TargetModule(name, self.width, self.width, self.rank) for name in names)


CARRIER = Shape()
"""Carries N = 256 with a relative change below a tenth."""
TINY = Shape(modules=1, width=48, rank=4)


def host(shape: Shape = CARRIER, seed: int = 1, scale: float = 2.0) -> dict[str, LowRank]:
    """A random adapter whose spectrum decays, as trained ones do."""
    generator = np.random.default_rng(seed)
    decay = np.exp(-np.arange(shape.rank) / 4) * 0.01
    found = {}
    for module in shape.targets():
        b = generator.normal(size=(module.rows, shape.rank)) * decay
        a = generator.normal(size=(shape.rank, module.columns)) * 4 / np.sqrt(shape.width)
        found[module.name] = LowRank(b.astype(np.float32), a.astype(np.float32), scale)
    return found


@dataclass(frozen=True)
class Owner:
    """An identity, its claim and the claim's key."""

    identity: IdentityKey
    key: MarkKey
    committed: CommittedClaim

    @property
    def claim(self) -> Claim:
        return self.committed.claim

    def opening(self, index: int = 0) -> Opening:
        return self.key.open(self.committed, index)


def owner(
    seed: int,
    shape: Shape = CARRIER,
    *,
    size: int = 256,
    keys: int = 1,
    purpose: Purpose = "ownership",
    strength: float = 0.6,
    base_model: str = BASE_MODEL,
) -> Owner:
    """An owner whose keys follow from ``seed``."""
    random = SeededRandom(seed)
    identity, key = IdentityKey.generate(random), MarkKey.generate(random)
    claim = Claim(
        purpose, "ward-notes", identity.public, base_model, shape.targets(), size, strength, keys
    )
    return Owner(identity, key, key.commit(claim, identity))


def write_adapter(
    folder: Path,
    factors: Host,
    config: Mapping[str, object] | None = None,
    dtype: str = "float32",
    prefix: str = "base_model.model.",
) -> Path:
    """A PEFT folder of these factors, whose alpha / r is their scale."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, NDArray[np.generic]] = {}
    for name, one in factors.items():
        tensors[f"{prefix}{name}.lora_A.weight"] = np.ascontiguousarray(one.a).astype(dtype)
        tensors[f"{prefix}{name}.lora_B.weight"] = np.ascontiguousarray(one.b).astype(dtype)
    save_file(tensors, folder / "adapter_model.safetensors")
    some = next(iter(factors.values()))
    said = {"peft_type": "LORA", "r": some.a.shape[0], "lora_alpha": some.scale * some.a.shape[0]}
    (folder / "adapter_config.json").write_text(json.dumps({**said, **(config or {})}))
    return folder


def random_statistics(keys: int, seed: int, shape: Shape = TINY) -> NDArray[np.float64]:
    """T of ``keys`` random keys on one random adapter that knows nothing of them."""
    suspect, random = LowRankSuspect(host(shape, seed)), SeededRandom(seed)
    claim = owner(seed, shape, size=128).claim
    found = []
    for _ in range(keys):
        directions = Directions(claim, Secret(random(32)))
        response = respond(directions, suspect)
        found.append(Evidence.of(response.values, directions.bits()).statistic)
    return np.array(found)


def check_tail(found: NDArray[np.float64]) -> None:
    """The share of T >= t is at most exp(-t^2 / 2), up to three standard errors, for every t."""
    for t in np.arange(0.5, 6, 0.25):
        bound = float(np.exp(-(t**2) / 2))
        slack = 3 * float(np.sqrt(bound * (1 - bound) / len(found)))
        assert float((found >= t).mean()) <= bound + slack, t
