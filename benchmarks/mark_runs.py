"""Cases of the benchmark of marks: each gives one row.

The adapter that is attacked is a seed's own, with the marks of the consortium and of five clients
in it and, written on top for comparison, a sign mark of each: so both kinds meet the very same
attack. What marks cost in accuracy is measured without the sign marks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.mark_adapters import FINE_TUNED, Workbench
from benchmarks.mark_attacks import (
    ERASING_STRENGTHS,
    LOW_RANK,
    MERGED,
    Factors,
    Overwriting,
    erased,
    merged,
)
from benchmarks.mark_owners import Owners, Strength, outsider, with_factors
from benchmarks.mark_private import private_marks
from benchmarks.mark_probes import PROBED, ProbedRelease
from benchmarks.mark_statistics import colluding, false_positives
from benchmarks.results import Row, package_versions
from benchmarks.sign_marks import SignMark, as_factors, from_merged
from fedfm_audit.watermark.suspect import DenseSuspect, LowRankSuspect
from secure_fedfm.learning.adapter_state import Adapter

CLIENTS = 5
MANY_CLIENTS = (8, 16, 32)
COLLUDERS = (2, 3, 4)
SIGNS = 128
OVERWRITING = {"overwritten 1x": 1.0, "overwritten 3x": 3.0}
FINE_TUNING = {f"fine-tuning, {epochs} epochs": epochs for epochs in FINE_TUNED}
RETRAINING = {
    "fine-tuning of A too, 3 epochs": 0.0, "noise 2x, then that": 2.0, "noise 5x, then that": 5.0,
}  # fmt: skip
"""How much noise a thief puts into B before it trains A and B on its rows, by name."""
RETRAINED = 3
KINDS = (
    "marking", "attack", "fine-tuning", "erasing", "retraining", "clients", "colluders",
    "false positives", "private", "black box",
)  # fmt: skip
ATTACKS = (*LOW_RANK, *MERGED, *OVERWRITING, *FINE_TUNING)


@dataclass(frozen=True, slots=True)
class Case:
    """What is done to which seed's adapter; ``strength`` is 0 where there is nothing to dose."""

    kind: str
    what: str
    seed: int
    strength: float = 0.0

    def key(self) -> Row:
        """What names the row."""
        return {"benchmark": "watermark", **asdict(self)}


class Runs:
    """Runs cases on a workbench.

    Args:
        probed: seeds whose fine-tuned copies carry the consortium's triggers too.
        accuracies: whether accuracy after attacks is measured on those seeds.
    """

    def __init__(self, bench: Workbench, probed: int, *, accuracies: bool = False) -> None:
        self.bench, self._measured, self._accuracies = bench, probed, accuracies
        self._owners: dict[tuple[int, int], Owners] = {}
        self._releases: dict[int, Adapter] = {}
        self._probed: dict[int, ProbedRelease] = {}
        self._kinds: Mapping[str, Callable[[Case], Row]] = {
            "marking": self._marking,
            "attack": self._attack,
            "fine-tuning": self._attack,
            "erasing": self._erasing,
            "clients": self._clients,
            "colluders": self._colluders,
            "false positives": self._false_positives,
            "private": lambda case: private_marks(bench, case.seed),
            "black box": self._black_box,
            "retraining": self._retraining,
        }

    def run(self, case: Case) -> Row:
        """Measure; the row, key included."""
        started = time.process_time()
        found = self._kinds[case.kind](case)
        return {
            **case.key(),
            **found,
            "training": asdict(self.bench.training),
            "cpu_s": round(time.process_time() - started, 2),
            "versions": package_versions(["secure-fedfm", "torch", "numpy"]),
        }

    def owners(self, seed: int, clients: int = CLIENTS) -> Owners:
        """The consortium's mark and those of the clients."""
        key = (seed, clients)
        if key not in self._owners:
            carrier = self.bench.carrier(seed)
            modules = carrier.modules(self.bench.trained(seed))
            self._owners[key] = Owners.plan(carrier, modules, clients, seed)
        return self._owners[key]

    def sign_marks(self, seed: int) -> tuple[SignMark, ...]:
        """One for each mark, of the same strength, the consortium's first. They have 128 signs: one
        block carries no 3,584, and 128 that agree are 2^-128."""
        claims = [one.committed.claim for one in self.owners(seed).marks.values()]
        return tuple(
            SignMark(SIGNS, claim.strength, 1000 * seed + number)
            for number, claim in enumerate(claims)
        )

    def release(self, seed: int) -> Adapter:
        """The adapter with all marks and sign marks."""
        if seed not in self._releases:
            marked = self.owners(seed).written(self.bench.trained(seed))
            self._releases[seed] = self._signed(seed, marked)
        return self._releases[seed]

    def probed(self, seed: int) -> ProbedRelease:
        """The same with the consortium's triggers."""
        if seed not in self._probed:
            self._probed[seed] = ProbedRelease.write(
                self.bench, self.owners(seed), seed, lambda one: self._signed(seed, one)
            )
        return self._probed[seed]

    def _signed(self, seed: int, adapter: Adapter) -> Adapter:
        carrier = self.bench.carrier(seed)
        factors: Factors = carrier.factors(adapter)
        for one in self.sign_marks(seed):
            factors = one.written(factors)
        return with_factors(carrier, adapter, factors)

    def _marking(self, case: Case) -> Row:
        seed, bench, owners = case.seed, self.bench, self.owners(case.seed)
        plain = bench.trained(seed)
        marked = owners.written(plain)
        written = owners.embeddings(plain)
        found = Strength.of(owners.judge(LowRankSuspect(owners.carrier.factors(marked))))
        sizes = {mark: one.committed.claim.size for (_, mark), one in owners.marks.items()}
        change = _difference(owners, plain, marked)
        return {
            **_strength(found),
            "accuracy_before": bench.accuracy(seed, plain, all_rows=True),
            "accuracy": bench.accuracy(seed, marked, all_rows=True),
            "sizes": sizes,
            "norms": sorted(round(one.norm, 4) for one in written.values()),
            "relative": sorted(round(one.relative, 4) for one in written.values()),
            "sum_norm": change,
        }

    def _attack(self, case: Case) -> Row:
        seed, bench, owners = case.seed, self.bench, self.owners(case.seed)
        carrier, released = owners.carrier, self.release(case.seed)
        if case.what in FINE_TUNING and seed <= self._measured:
            released = self.probed(seed).released
        factors = carrier.factors(released)
        measure = self._accuracies and seed <= self._measured
        if case.what in MERGED:
            changes = merged(factors, bench.base(seed), MERGED[case.what])
            found = owners.judge(DenseSuspect(changes))
            seen: Factors = from_merged(changes, 8)
            accuracy = None
            if measure:
                accuracy = bench.merged_share(seed, released, changes, bench.tested())
        else:
            attacked = self._attacked(case, released, factors)
            found = owners.judge(LowRankSuspect(dict(attacked)))
            seen = attacked
            if next(iter(attacked.values())).b.shape[1] != 8:
                seen = as_factors(attacked, 8)
            accuracy = None
            if measure:
                accuracy = bench.accuracy(seed, with_factors(carrier, released, attacked))
            if case.what in FINE_TUNING:  # the head has moved too
                thief = bench.fine_tuned(seed, released, FINE_TUNING[case.what])
                accuracy = bench.accuracy(seed, thief) if seed <= self._measured else None
        return {**_strength(Strength.of(found)), **self._signs(seed, seen), "accuracy": accuracy}

    def _attacked(self, case: Case, released: Adapter, factors: Factors) -> Factors:
        if case.what in LOW_RANK:
            return LOW_RANK[case.what](factors)
        if case.what in OVERWRITING:
            return self._thief(case.seed).run(factors, OVERWRITING[case.what])
        thief = self.bench.fine_tuned(case.seed, released, FINE_TUNING[case.what])
        return self.owners(case.seed).carrier.factors(thief)

    def _thief(self, seed: int) -> Overwriting:
        """Somebody who marks a copy with a mark as large as the consortium's."""
        claims = [one.committed.claim for one in self.owners(seed).marks.values()]
        own = outsider(claims[0].modules, claims[0].size, claims[0].strength, seed)
        return Overwriting(own.committed.claim, seed)

    def _signs(self, seed: int, factors: Factors) -> Row:
        """-log2 p of the sign marks: FedIPR's own test, the tail of fair coins."""
        found = [-one.found(factors).log2_p_matches for one in self.sign_marks(seed)]
        return {"sign_consortium_bits": found[0], "sign_worst_bits": min(found[1:])}

    def _erasing(self, case: Case) -> Row:
        seed, owners, released = case.seed, self.owners(case.seed), self.release(case.seed)
        factors = owners.carrier.factors(released)
        attacked = erased(case.what, factors, case.strength, self._thief(seed))
        found = Strength.of(owners.judge(LowRankSuspect(dict(attacked))))
        adapter = with_factors(owners.carrier, released, attacked)
        before = Strength.of(owners.judge(LowRankSuspect(factors)))
        return {
            **_strength(found),
            "worst_before": min(before.worst, before.consortium),
            "accuracy_before": self.bench.accuracy(seed, released),
            "accuracy": self.bench.accuracy(seed, adapter),
        }

    def _retraining(self, case: Case) -> Row:
        seed, owners, released = case.seed, self.owners(case.seed), self.release(case.seed)
        factors = erased(
            "noise", owners.carrier.factors(released), RETRAINING[case.what], self._thief(seed)
        )
        stolen = with_factors(owners.carrier, released, factors)
        thief = self.bench.retrained(seed, stolen, RETRAINED)
        after = owners.carrier.factors(thief)
        return {
            **_strength(Strength.of(owners.judge(LowRankSuspect(after)))),
            **self._signs(seed, after),
            "accuracy_before": self.bench.accuracy(seed, released),
            "accuracy": self.bench.accuracy(seed, thief),
        }

    def _clients(self, case: Case) -> Row:
        owners = self.owners(case.seed, int(case.strength))
        plain = self.bench.trained(case.seed)
        marked = owners.written(plain)
        found = Strength.of(owners.judge(LowRankSuspect(owners.carrier.factors(marked))))
        return {
            **_strength(found),
            "sizes": {mark: one.committed.claim.size for (_, mark), one in owners.marks.items()},
            "sum_norm": _difference(owners, plain, marked),
            "accuracy_before": self.bench.accuracy(case.seed, plain, all_rows=True),
            "accuracy": self.bench.accuracy(case.seed, marked, all_rows=True),
        }

    def _colluders(self, case: Case) -> Row:
        released = self.release(case.seed)
        return colluding(self.bench.carrier(case.seed).factors(released), COLLUDERS, case.seed)

    def _false_positives(self, case: Case) -> Row:
        adapter = self.bench.trained(case.seed)
        return false_positives(self.bench.carrier(case.seed).factors(adapter), case.seed)

    def _black_box(self, case: Case) -> Row:
        return self.probed(case.seed).after(case.what)


def cases(seeds: int, curves: int) -> list[Case]:
    """All cases: one seed of everything before attacks on the others, what takes longest last."""
    everybody = range(1, seeds + 1)
    plain = [what for what in ATTACKS if what not in FINE_TUNING]
    found = [Case("marking", "six marks", seed) for seed in everybody]
    for seed in everybody:
        found += [Case("attack", what, seed) for what in plain]
        if seed <= curves:
            found += [Case("black box", what, seed) for what in PROBED]
            found += [Case("fine-tuning", what, seed) for what in FINE_TUNING]
            found += [
                Case("erasing", method, seed, strength)
                for method, strengths in ERASING_STRENGTHS.items()
                for strength in strengths
            ]
            found.append(Case("private", "epsilon 8", seed))
        if seed == 1:
            found += [Case("retraining", what, seed) for what in RETRAINING]
            found += [Case("clients", "together", seed, float(n)) for n in MANY_CLIENTS]
            found += [Case("false positives", "10,000 keys", one) for one in everybody]
            found.append(Case("colluders", "8 copies of 40", seed))
    unprobed = [seed for seed in everybody if seed > curves]
    return found + [Case("fine-tuning", what, seed) for seed in unprobed for what in FINE_TUNING]


def _strength(found: Strength) -> Row:
    return {**asdict(found), "worst_bits": max(found.worst, 0.0) ** 2 / 2 / math.log(2)}


def _difference(owners: Owners, before: Adapter, after: Adapter) -> float:
    layout = owners.carrier.layout
    return float(np.linalg.norm(layout.flatten(after) - layout.flatten(before)))
