"""The consortium's black-box mark in the benchmark: triggers written by the library's own path.

The keeper adds what its triggers need to its part of the round of marks, under the charter's
bounds; all six marks are in the release, and the sign marks. Hits are counted by the auditor's own
judge, from the labels that the model gives, after attacks that leave a model that answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

from benchmarks.mark_adapters import FINE_TUNED, Workbench
from benchmarks.mark_attacks import LOW_RANK
from benchmarks.mark_owners import Owners, Strength, with_factors
from benchmarks.results import Row
from fedfm_audit.watermark.statistic import Trials
from fedfm_audit.watermark.suspect import LowRankSuspect
from fedfm_audit.watermark.triggers import judge_predictions
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.watermark.trigger_training import TriggerTraining
from secure_fedfm.watermark.writing import TriggerWriter

KEEPER = ("client-01", "consortium")
_ATTACKS = ("SVD rank 8 to 4", "pruning 50 %", "int8", "int4")
_FINE_TUNED = {f"fine-tuning, {epochs} epochs": epochs for epochs in FINE_TUNED}
PROBED = ("without marks", "with all marks", *_ATTACKS, *_FINE_TUNED)


@dataclass(frozen=True)
class ProbedRelease:
    """An adapter with six marks, the consortium's with triggers.

    Attributes:
        plain, released: the adapter before and after the round of marks.
    """

    bench: Workbench
    owners: Owners
    seed: int
    training: TriggerTraining
    plain: Adapter
    released: Adapter

    @classmethod
    def write(
        cls, bench: Workbench, owners: Owners, seed: int, signed: Callable[[Adapter], Adapter]
    ) -> ProbedRelease:
        """Train the triggers in and add all marks, as the round does; ``signed`` adds sign marks,
        so that one fine-tuning serves all comparisons."""
        plain, training = bench.trained(seed), TriggerTraining(bench.model(seed), bench.labels)
        keeper = replace(
            owners, triggers=TriggerWriter(bench.labels, training.change, training.hits)
        )
        released = bench.kept(f"triggers {training.plan}", plain, lambda: keeper.written(plain))
        return cls(bench, owners, seed, training, plain, signed(released))

    def after(self, what: str) -> Row:
        """Hits, accuracy and T after one thing that was done to the release."""
        adapter = self._attacked(what)
        found = self.owners.judge(LowRankSuspect(self.owners.carrier.factors(adapter)))
        layout = self.owners.carrier.layout
        moved = layout.flatten(self.released) - layout.flatten(self.plain)
        return {
            **asdict(Strength.of(found)),
            **self._hits(adapter),
            "accuracy": self.bench.accuracy(self.seed, adapter),
            "sum_norm": float((moved.astype(float) ** 2).sum() ** 0.5),
            "plan": asdict(self.training.plan),
        }

    def _hits(self, adapter: Adapter) -> Row:
        mark = self.owners.marks[KEEPER]
        opening = mark.key.open(mark.committed, 0)
        writer = TriggerWriter(self.bench.labels, self.training.change, self.training.hits)
        answers = self.training.hits(adapter, writer.sets(mark)[0])
        trials = Trials(len(self.owners.marks), 1)
        found = judge_predictions(opening, self.bench.labels, answers, trials)
        return {"hits": found.hits, "needed": found.needed, "bits": -found.log2_p}

    def _attacked(self, what: str) -> Adapter:
        if what in _FINE_TUNED:
            return self.bench.fine_tuned(self.seed, self.released, _FINE_TUNED[what])
        whole: Mapping[str, Callable[[], Adapter]] = {
            "without marks": lambda: self.plain,
            "with all marks": lambda: self.released,
        }
        if what in whole:
            return whole[what]()
        carrier = self.owners.carrier
        factors = carrier.factors(self.released)
        return with_factors(carrier, self.released, LOW_RANK[what](factors))
