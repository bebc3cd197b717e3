"""Owners of marks in the benchmark's adapters, and marking as a federation does it.

Marks are planned, written and applied by the library's own parts: sizes by ``plan_marks``, what an
owner adds by ``MarkWriter`` (the charter's norm bound included), what everybody makes of the sum by
``MarkSum``. Keys follow from a seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedfm_audit.watermark.claim import Claim, TargetModule
from fedfm_audit.watermark.commitment import MarkKey
from fedfm_audit.watermark.judge import Finding, judge
from fedfm_audit.watermark.statistic import Trials
from fedfm_audit.watermark.suspect import LowRank, Suspect
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.marks import Watermark
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.watermark.carrier import Carrier
from secure_fedfm.watermark.embedding import Embedding, embed
from secure_fedfm.watermark.owned import OwnedMark, make_leaf, read_leaf
from secure_fedfm.watermark.planning import (
    DEFAULT_LARGEST_CHANGE,
    DEFAULT_NORM_BOUND,
    plan_marks,
)
from secure_fedfm.watermark.writing import MarkSum, MarkWriter, TriggerWriter

BASE_MODEL = "00" * 32
FEDERATION = "marks-benchmark"


@dataclass(frozen=True)
class Owners:
    """The consortium's mark, kept by the first client, and one of every client.

    Attributes:
        marks: owned marks by (client, mark).
        norm_bound: of the charter; the default, unless its effect is looked at.
        triggers: how the keeper's mark is made to show in predictions too; None: it is not.
    """

    carrier: Carrier
    marks: Mapping[tuple[str, str], OwnedMark]
    norm_bound: float = DEFAULT_NORM_BOUND
    triggers: TriggerWriter | None = None

    @classmethod
    def plan(
        cls,
        carrier: Carrier,
        modules: Sequence[TargetModule],
        clients: int,
        seed: int,
        *,
        private: bool = False,
    ) -> Owners:
        """As many marks, as large, as the adapter carries by the library's own plan."""
        plan = plan_marks(modules, clients, private=private)
        names = [f"client-{number:02}" for number in range(1, clients + 1)]
        wanted = [(names[0], "consortium", plan.consortium)]
        wanted += [(name, "own", plan.own) for name in names if plan.own]
        return cls(
            carrier,
            {
                (client, mark): _owned(modules, client, mark, size, plan.strength, seed)
                for client, mark, size in wanted
            },
        )

    @cached_property
    def terms(self) -> Watermark:
        """The charter's section."""
        owners = [
            {"client": client, "mark": mark, "commitment": hashlib.sha256(one.leaf).hexdigest()}
            for (client, mark), one in self.marks.items()
        ]
        return Watermark.model_validate(
            {
                "owners": sorted(owners, key=lambda one: (one["client"], one["mark"])),
                "norm_bound": self.norm_bound,
                "largest_change": DEFAULT_LARGEST_CHANGE,
                "clip": self.norm_bound,
                "scale": 1 << 20,
            }
        )

    @property
    def clients(self) -> tuple[str, ...]:
        """Clients that own a mark."""
        return tuple(sorted({client for client, _ in self.marks}))

    def written(self, adapter: Adapter) -> Adapter:
        """The adapter after the round of marks."""
        total = np.zeros(self.carrier.layout.size, np.float64)
        for name in self.clients:
            total += self.writer(name).update(adapter)
        return MarkSum(self.carrier, self.terms).apply(adapter, total, len(self.clients))

    def writer(self, client: str) -> MarkWriter:
        """What this client adds to the round."""
        mine = tuple(one for (name, _), one in self.marks.items() if name == client)
        return MarkWriter(self.carrier, self.terms, mine, self.triggers)

    def embeddings(self, adapter: Adapter) -> dict[tuple[str, str], Embedding]:
        """Every mark by itself, before any cap by norm: how large marks are."""
        factors = self.carrier.factors(adapter)
        found = {}
        for owner, one in self.marks.items():
            claim = one.committed.claim
            (found[owner],) = embed(factors, claim, [one.key.sub_key(claim, 0)])
        return found

    def judge(self, suspect: Suspect) -> dict[tuple[str, str], Finding]:
        """What the auditor's own judge finds of every mark, each a logged claim."""
        return {
            owner: judge(one.key.open(one.committed, 0), suspect, Trials(len(self.marks), 1))
            for owner, one in self.marks.items()
        }


@dataclass(frozen=True, slots=True)
class Strength:
    """T of the consortium's mark and of the worst client's own, and how many of all marks are
    below what a logged claim needs."""

    consortium: float
    worst: float
    lost: int

    @classmethod
    def of(cls, found: Mapping[tuple[str, str], Finding]) -> Strength:
        """From what was found of every mark."""
        by_mark: dict[str, list[float]] = {"consortium": [], "own": []}
        for (_, mark), one in found.items():
            by_mark[mark].append(one.evidence.statistic)
        return cls(
            min(by_mark["consortium"]),
            min(by_mark["own"] or by_mark["consortium"]),
            sum(not one.present for one in found.values()),
        )


def outsider(modules: Sequence[TargetModule], size: int, strength: float, seed: int) -> OwnedMark:
    """A mark of somebody who is no owner: for thieves."""
    return _owned(modules, "thief", "own", size, strength, seed)


def _owned(
    modules: Sequence[TargetModule], client: str, mark: str, size: int, strength: float, seed: int
) -> OwnedMark:
    random = SeededRandom(f"{client} {mark} {seed}".encode())
    identity, key = IdentityKey.generate(random), MarkKey.generate(random)
    claim = Claim(
        "ownership", FEDERATION, identity.public, BASE_MODEL, tuple(modules), size, strength, 1
    )
    leaf = make_leaf(key.commit(claim, identity), client, mark, identity)
    return OwnedMark(read_leaf(leaf, [identity.public], "a mark"), leaf, key)


def with_factors(carrier: Carrier, adapter: Adapter, factors: Mapping[str, LowRank]) -> Adapter:
    """The adapter with other factors, rank and scale brought to its own: for measuring accuracy.

    Factors of a smaller rank get columns and rows of zeros.
    """
    changed = dict(adapter)
    names = {n.removesuffix(".lora_B.weight"): n for n in adapter if n.endswith(".lora_B.weight")}
    for stem, name in names.items():
        module = stem.removeprefix("base_model.model.")
        one, rank = factors[module], adapter[name].shape[1]
        spare = ((0, 0), (0, rank - one.b.shape[1]))
        changed[name] = np.pad(one.b * np.float32(one.scale / carrier.scale), spare)
        changed[f"{stem}.lora_A.weight"] = np.pad(one.a, spare[::-1])
    return Adapter(changed)
