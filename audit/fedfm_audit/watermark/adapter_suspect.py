"""A PEFT adapter folder as a suspect: adapter_config.json and adapter_model.safetensors.

Its rank may be any, and its scale is taken into account module by module, since (c B, alpha / c) is
the same adapter. DoRA's magnitudes and everything that is no LoRA factor are left aside: what is
judged is B A.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm_audit.watermark.claim import TargetModule
from fedfm_audit.watermark.errors import SuspectError
from fedfm_audit.watermark.suspect import LowRank, NameIndex, Piece, fitting
from fedfm_audit.watermark.tensor_file import TensorFile

CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
_PREFIX = "base_model.model."
_A_ENDS = (".lora_A.weight", ".lora_A.default.weight")
_B_ENDS = (".lora_B.weight", ".lora_B.default.weight")
_PATTERN_SIGNS = frozenset("\\[](){}*+?|$")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What of adapter_config.json decides how strong B A is.

    Attributes:
        alpha: numerator of the scale. root: whether it is divided by sqrt(r) and not r (rsLoRA).
        alphas: other numerators, by module name or the end of one.
        transposed: whether the base model stores (inputs, outputs).
    """

    alpha: float
    root: bool
    alphas: Mapping[str, float]
    transposed: bool

    @classmethod
    def read(cls, path: Path) -> AdapterConfig:
        """
        Raises:
            SuspectError: missing, too long, no JSON, no LoRA, or numbers that are none.
        """
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_CONFIG_BYTES + 1)
        except OSError as error:
            raise SuspectError(
                f"cannot read {path}: {error.strerror}; give a PEFT adapter folder, or merged "
                "weights together with those of the base model"
            ) from error
        if len(data) > MAX_CONFIG_BYTES:
            raise SuspectError(f"{path} has more than {MAX_CONFIG_BYTES} bytes; no PEFT file has")
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError):
            raise SuspectError(f"{path} is no JSON; get the folder again") from None
        if not isinstance(parsed, dict) or parsed.get("peft_type") != "LORA":
            raise SuspectError(f"{path} is not of a LoRA adapter; merge it into the base model")
        return cls._of(path, parsed)

    @classmethod
    def _of(cls, path: Path, parsed: dict[str, Any]) -> AdapterConfig:
        patterns = parsed.get("alpha_pattern") or {}
        if not isinstance(patterns, dict) or len(patterns) > 1 << 16:
            raise SuspectError(f"{path}: alpha_pattern is no object; get the folder again")
        for name in patterns:
            if _PATTERN_SIGNS & set(name):
                raise SuspectError(
                    f"{path}: alpha_pattern has the regular expression {ascii(name)[:80]}; "
                    "replace it by the names of the modules"
                )
        return cls(
            alpha=_number(path, parsed.get("lora_alpha", 8)),
            root=parsed.get("use_rslora") is True,
            alphas={n.removeprefix("^"): _number(path, v) for n, v in patterns.items()},
            transposed=parsed.get("fan_in_fan_out") is True,
        )

    def scale(self, module: str, rank: int) -> float:
        """What B A is multiplied with."""
        alpha = self.alpha
        if self.alphas:
            parts = module.split(".")
            ends = (".".join(parts[start:]) for start in range(len(parts)))
            alpha = next((self.alphas[end] for end in ends if end in self.alphas), alpha)
        return alpha / (math.sqrt(rank) if self.root else rank)


@dataclass(frozen=True, slots=True)
class _Names:
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class AdapterSuspect:
    """An adapter folder; tensors are read one module at a time."""

    config: AdapterConfig
    file: TensorFile
    names: Mapping[str, _Names]

    @classmethod
    def open(cls, folder: Path) -> AdapterSuspect:
        """
        Raises:
            SuspectError: a file is missing, damaged, or has half a LoRA layer.
        """
        config = AdapterConfig.read(folder / CONFIG_FILE)
        file = TensorFile.open(folder / ADAPTER_FILE)
        downs, ups = _modules(file, _A_ENDS), _modules(file, _B_ENDS)
        if downs.keys() != ups.keys():
            lonely = ascii(min(downs.keys() ^ ups.keys()))[:120]
            raise SuspectError(f"{folder}: {lonely} has only one of its factors; get it again")
        return cls(config, file, {name: _Names(downs[name], ups[name]) for name in downs})

    def modules(self) -> tuple[TargetModule, ...]:
        """The LoRA layers, as a claim lists them.

        Raises:
            SuspectError: a factor is no matrix, or there is no layer.
        """
        found = []
        for name, factors in sorted(self.names.items()):
            a, b = self.file.shape(factors.a), self.file.shape(factors.b)
            if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
                raise SuspectError(f"{name} has factors of shapes {b} and {a}; expected matrices")
            found.append(TargetModule(name, b[0], a[1], a[0], self.config.transposed))
        if not found:
            raise SuspectError(f"{self.file.path} holds no LoRA layer; a head cannot carry a mark")
        return tuple(found)

    def locate(self, modules: Sequence[TargetModule]) -> Mapping[str, str]:
        """As ``Suspect`` says."""
        return NameIndex(self.names).all(modules)

    def factors(self, name: str) -> LowRank:
        """The change of a layer of this folder, by its name here."""
        names = self.names[name]
        b, a = self.file.matrix(names.b), self.file.matrix(names.a)
        return LowRank(b, a, self.config.scale(name, a.shape[0]) if a.shape[0] else 0.0)

    def pieces(self, module: TargetModule, name: str) -> Iterator[Piece]:
        """As ``Suspect`` says."""
        names = self.names[name]
        a, b = self.file.shape(names.a), self.file.shape(names.b)
        if len(a) != 2 or len(b) != 2 or max(a[0], b[1]) > min(module.rows, module.columns):
            raise SuspectError(
                f"{name} has factors of shapes {b} and {a} for a module of "
                f"{module.rows} x {module.columns}; merge it and compare with the base"
            )
        yield fitting(module, self.factors(name))


def _modules(file: TensorFile, ends: tuple[str, ...]) -> dict[str, str]:
    """Module name -> name of the tensor with one of these ends."""
    found: dict[str, str] = {}
    for name in file:
        for end in ends:
            if name.endswith(end):
                module = name.removesuffix(end).removeprefix(_PREFIX)
                if module in found:
                    raise SuspectError(f"{file.path}: {ascii(module)[:120]} has two such factors")
                found[module] = name
    return found


def _number(path: Path, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e6:
        raise SuspectError(f"{path}: a scale is {ascii(value)[:80]}; expected a number up to 1e6")
    return float(value)
