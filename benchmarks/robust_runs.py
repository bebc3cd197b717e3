"""Plays a federation with attackers and a robust rule, round by round, on the real model.

Everything that a robust rule sees is there: updates are quantised as they are sent, sketched along
directions drawn after they are fixed, and scored, in the clear or through the real encryption
(``Scoring``). Masking and summing change nothing but rounding and are left out.

Rows are cached up to the first adapted block, for honest clients and attackers alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.attacks.crafting import Vector
from benchmarks.attacks.poison import Probe
from benchmarks.attacks.zoo import Attack, Labels, View, attack_at
from benchmarks.results import Row, package_versions
from fedfm_crypto.sketch import SketchLayout
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.dataset import Dataset, TrainTest
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.payload import delta
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.seeds import generator
from secure_fedfm.learning.specs import AdapterSpec, TaskSpec
from secure_fedfm.learning.splits import dirichlet_split
from secure_fedfm.learning.training import (
    PreparedRows,
    evaluate_rows,
    new_optimiser,
    prepare_rows,
    ready,
    train_round,
)
from secure_fedfm.learning.weights import DEFAULT_MODEL
from secure_fedfm.robust.memory import NOTHING, Memory
from secure_fedfm.robust.rule import Rule
from secure_fedfm.robust.score_matrix import ScoreMatrix

MAX_TOKENS = 48
ANCHOR_PULL = 0.02
"""Weight of the squared distance to the attacker's own honest adapter (constrain and scale)."""
SCALE = 1 << 16
CLIP = 1.0

Integers = NDArray[np.int64]
Scoring = Callable[[tuple[str, ...], Sequence[Integers], bytes, SketchLayout], ScoreMatrix]


@dataclass(frozen=True)
class Setting:
    """What all cases of a table share.

    Args:
        rows, test_rows: of the data set, drawn by the seed.
        honest: honest clients; the attackers come on top.
        rounds: of training; attackers act in rounds ``attacked`` and are honest afterwards.
    """

    rows: int = 5000
    test_rows: int = 1000
    honest: int = 4
    rounds: int = 8
    attacked: range = range(2, 7)
    adapter: AdapterSpec = field(default_factory=AdapterSpec)
    plan: TrainingPlan = field(
        default_factory=lambda: TrainingPlan(
            epochs=1,
            batch_size=32,
            adapter_learning_rate=4e-3,
            head_learning_rate=2e-2,
            schedule="linear",
            schedule_rounds=8,
            final_factor=0.1,
        )
    )


@dataclass(frozen=True)
class Case:
    """One federation: an attack at a dose, against a rule, on one split."""

    attack: str
    dose: float
    rule: str
    alpha: float
    seed: int
    scoring: str = "plain"

    def key(self, setting: Setting) -> Row:
        """What names the case's row."""
        return {
            "benchmark": "robustness",
            "attack": self.attack,
            "dose": self.dose,
            "rule": self.rule,
            "alpha": self.alpha,
            "seed": self.seed,
            "scoring": self.scoring,
            "honest": setting.honest,
            "rounds": setting.rounds,
            "rows": setting.rows,
        }


@dataclass(frozen=True)
class Player:
    """A client: its rows, and if it is an attacker those that it trains on when it attacks."""

    name: str
    clean: PreparedRows
    poisoned: PreparedRows | None = None
    member: int = 0


class Arena:
    """Model, rows and probes, loaded when a case first needs them."""

    def __init__(
        self,
        data: TrainTest,
        setting: Setting,
        rules: Mapping[str, Rule | None],
        scorings: Mapping[str, Scoring],
    ) -> None:
        self.setting = setting
        self._data, self._rules, self._scorings = data, rules, scorings
        self._labels = data.train.label_names()
        task = TaskSpec("classification", self._labels)
        self._model: AdaptedModel = load_adapted(DEFAULT_MODEL, setting.adapter, task)
        self._initial: Adapter = self._model.state()
        self._prepared: dict[bytes, PreparedRows] = {}
        self.layout = SketchLayout.whole(self._model.layout.size)

    # ---------------------------------------------------------------- one case

    def run(self, case: Case) -> Row:
        """Play a case; its row, with figures for each round."""
        started = time.process_time()
        attack = attack_at(case.attack, case.dose)
        train, test = self._sample(case.seed)
        labels = _chosen_labels(train, case.seed)
        probe = attack.probe(test, labels)
        players = self._players(case, attack, train, labels)
        rule, memory = self._rules[case.rule], NOTHING
        adapter, last = self._initial, np.zeros(self._model.layout.size)
        rounds: list[Row] = []
        for number in range(1, self.setting.rounds + 1):
            updates = self._updates(case, attack, players, adapter, last, number)
            accepted, reasons, memory = self._judge(case, rule, updates, memory, number)
            last = np.mean([updates[name] for name in accepted], axis=0)
            adapter = adapter.moved(self._model.layout, last.astype(np.float32))
            rounds.append(
                {
                    "round": number,
                    "accuracy": self._accuracy(adapter, test),
                    "asr": self._success(adapter, probe),
                    "accepted": list(accepted),
                    "reasons": reasons,
                }
            )
        return {
            **case.key(self.setting),
            "malicious": attack.malicious,
            "attacked": [n for n in self.setting.attacked if attack.strength(n) > 0],
            "per_round": rounds,
            "accuracy": rounds[-1]["accuracy"],
            "asr": None if probe is None else max(_asr_while(rounds, self.setting.attacked)),
            "values": self._model.layout.size,
            "cpu_s": time.process_time() - started,
            "versions": package_versions(["secure-fedfm", "torch", "transformers"]),
        }

    # ---------------------------------------------------------------- rows

    def _sample(self, seed: int) -> tuple[Dataset, Dataset]:
        random = generator("robustness rows", seed)
        parts = []
        for rows, wanted in (
            (self._data.train, self.setting.rows),
            (self._data.test, self.setting.test_rows),
        ):
            chosen = random.choice(len(rows), min(wanted, len(rows)), replace=False)
            parts.append(rows.rows(sorted(chosen.tolist())))
        return parts[0], parts[1]

    def _players(self, case: Case, attack: Attack, train: Dataset, labels: Labels) -> list[Player]:
        """Honest clients with the same rows whatever the attack; attackers have parts beyond."""
        most = self.setting.honest + 2
        parts = dirichlet_split(train, most, case.alpha, case.seed)
        players = [
            Player(f"honest-{i + 1}", self._rows(part))
            for i, part in enumerate(parts[: self.setting.honest])
        ]
        for member in range(attack.malicious):
            clean = parts[self.setting.honest + member]
            random = generator("poison", case.seed, case.attack, member)
            poisoned = attack.rows(clean, labels, member, random)
            players.append(
                Player(f"malicious-{member + 1}", self._rows(clean), self._rows(poisoned), member)
            )
        return players

    def _rows(self, data: Dataset) -> PreparedRows:
        key = data.digest()
        if key not in self._prepared:
            self._model.load(self._initial)
            self._prepared[key] = prepare_rows(self._model, data, self._labels, MAX_TOKENS)
        return self._prepared[key]

    # ---------------------------------------------------------------- a round

    def _updates(
        self,
        case: Case,
        attack: Attack,
        players: Sequence[Player],
        adapter: Adapter,
        last: Vector,
        number: int,
    ) -> dict[str, Vector]:
        """What everybody sends in this round."""
        updates: dict[str, Vector] = {}
        for player in players:
            order = f"{player.name}/{case.seed}"
            dose = attack.dose * attack.strength(number)
            if player.poisoned is None or number not in self.setting.attacked or dose == 0:
                updates[player.name] = self._trained(player.clean, adapter, number, order)
                continue
            if attack.clones and player.member:
                updates[player.name] = updates["malicious-1"]
                continue
            honest = tuple(
                self._trained(player.clean, adapter, number, f"{order}/{sample}")
                for sample in range(attack.honest_samples)
            )
            anchor = honest[0] if attack.anchored else None
            poisoned = self._trained(player.poisoned, adapter, number, order, anchor)
            view = View(poisoned, honest, last, number, len(players), attack.malicious)
            updates[player.name] = attack.craft(view, dose)
        return updates

    def _trained(
        self,
        rows: PreparedRows,
        adapter: Adapter,
        number: int,
        order: str,
        anchor: Vector | None = None,
    ) -> Vector:
        model, plan = self._model, self.setting.plan
        model.load(adapter)
        if anchor is None:
            train_round(model, rows, plan, number, order)
        else:
            goal = adapter.moved(model.layout, anchor.astype(np.float32))
            _train_anchored(model, rows, plan, number, order, goal)
        return delta(model.layout, adapter, model.state()).astype(np.float64)

    def _judge(
        self,
        case: Case,
        rule: Rule | None,
        updates: Mapping[str, Vector],
        memory: Memory,
        number: int,
    ) -> tuple[tuple[str, ...], Row, Memory]:
        names = tuple(sorted(updates))
        if rule is None:
            return names, {}, memory
        beacon = generator("beacon", case.seed, number).bytes(32)
        integers = [
            np.rint(np.clip(updates[name], -CLIP, CLIP) * SCALE).astype(np.int64) for name in names
        ]
        scores = self._scorings[case.scoring](names, integers, beacon, self.layout)
        verdict = rule.judge(scores, memory)
        reasons = {n: why for n, why in zip(names, verdict.reasons, strict=True) if why}
        return verdict.accepted_names, reasons, verdict.memory

    # ---------------------------------------------------------------- measures

    def _accuracy(self, adapter: Adapter, test: Dataset) -> float:
        self._model.load(adapter)
        return evaluate_rows(self._model, self._rows(test)).accuracy

    def _success(self, adapter: Adapter, probe: Probe | None) -> float | None:
        """The share of the probe's texts that get the attacker's label."""
        if probe is None:
            return None
        self._model.load(adapter)
        wanted = Dataset(probe.texts.texts, (probe.target,) * len(probe.texts))
        return evaluate_rows(self._model, self._rows(wanted)).accuracy


def _train_anchored(
    model: AdaptedModel,
    rows: PreparedRows,
    plan: TrainingPlan,
    number: int,
    order: str,
    goal: Adapter,
) -> None:
    """`train_round` with a pull towards ``goal`` in the loss (Bagdasaryan et al. 2020, the
    anomaly term of constrain and scale)."""
    optimiser = new_optimiser(model, plan)
    random = generator("anchored order", plan.seed, order, number)
    batches = rows.encoded.shuffled(plan.batch_size, random)
    anchors = {name: torch.from_numpy(np.array(goal[name])) for name in model.trained()}
    with ready(model, rows) as make:
        for step, chosen in enumerate(batches):
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * plan.learning_rate_factor(number, step / len(batches))
            batch = make(chosen)
            loss = model.scorer.row_losses(batch, model.scorer.scores(batch)).mean()
            for name, parameter in model.trained().items():
                loss = loss + ANCHOR_PULL * (parameter - anchors[name]).square().sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()


def _chosen_labels(train: Dataset, seed: int) -> Labels:
    """The attacker's label, and the one that label flips are about: drawn by the seed."""
    random = generator("attacked labels", seed)
    target, source = random.choice(np.array(train.label_names()), size=2, replace=False)
    return Labels(str(target), str(source))


def _asr_while(rounds: Sequence[Row], attacked: range) -> list[float]:
    return [float(entry["asr"]) for entry in rounds if entry["round"] in attacked]
