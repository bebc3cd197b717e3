"""Plays a federation with attackers and a robust rule, round by round, on the real model.

Everything that a robust rule sees is there: updates are quantised as they are sent, sketched along
directions drawn after they are fixed, and scored, in the clear or through the real encryption
(:mod:`benchmarks.robust_scoring`). Masking and summing change nothing but rounding and are left
out. Updates beyond the quantiser's range are not cut off: an attacker need not keep to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from benchmarks.attacks.crafting import Vector
from benchmarks.attacks.poison import Probe
from benchmarks.attacks.zoo import Attack, Labels, Passes, View, attack_at
from benchmarks.results import Row, package_versions
from benchmarks.robust_scoring import Scoring, scores_of_vectors
from benchmarks.robust_training import Training
from fedfm_crypto.sketch import SketchGroup, SketchLayout
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.dataset import Dataset, TrainTest
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.seeds import generator
from secure_fedfm.learning.specs import AdapterSpec
from secure_fedfm.learning.splits import dirichlet_split
from secure_fedfm.learning.votes import VoteSpec, voted_step
from secure_fedfm.robust.memory import NOTHING, Memory
from secure_fedfm.robust.rule import Rule
from secure_fedfm.robust.score_matrix import ScoreMatrix

SCALE = 1 << 16
"""Quantisation: integer steps for 1.0."""
ROOT = "honest-1"
"""With whom a rule that needs a root client compares the others."""
Observer = Callable[[int, Mapping[str, Vector]], None]


@dataclass(frozen=True)
class Setting:
    """What all cases of a table share.

    Args:
        rows, test_rows, probe_rows: drawn from the data set by the seed.
        honest: honest clients; the attackers come on top.
        rounds: of training; attackers act in rounds ``attacked`` and are honest otherwise, but for
            those that never are.
    """

    rows: int = 3000
    test_rows: int = 1000
    probe_rows: int = 200
    honest: int = 4
    rounds: int = 8
    attacked: range = range(3, 7)
    adapter: AdapterSpec = field(
        default_factory=lambda: AdapterSpec(last_layers=1, rank=16, alpha=32)
    )
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

    def attacked_by(self, attack: Attack) -> range:
        """Rounds in which it is on, from the first where it is never honest."""
        return range(1, self.attacked.stop) if attack.never_honest else self.attacked


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
    clean: Dataset
    poisoned: Dataset | None = None


class Trains(Protocol):
    """What an arena needs of :class:`benchmarks.robust_training.Trainer`."""

    initial: Adapter
    layout: TensorLayout

    def delta(self, training: Training, adapter: Adapter) -> Vector:
        """What a training moves, float64 [values]."""
        ...

    def accuracy(self, data: Dataset, adapter: Adapter) -> float:
        """The share of rows that get their label."""
        ...


class Arena:
    """A model and a data set that cases are played on.

    Args:
        data: training and test rows.
        setting: what all cases share.
        trainer: of the model; its labels are those of the training rows.
        rules: by name; None takes everybody.
        scorings: by name.
        sketches: the layout that they measure.
        votes: what clients send instead of updates under the rules of these names.
    """

    def __init__(
        self,
        data: TrainTest,
        setting: Setting,
        trainer: Trains,
        rules: Mapping[str, Rule | None],
        scorings: Mapping[str, Scoring],
        sketches: SketchLayout,
        votes: Mapping[str, VoteSpec] | None = None,
    ) -> None:
        self.setting, self._sketches, self._votes = setting, sketches, votes or {}
        self._data, self._trainer = data, trainer
        self._rules, self._scorings = rules, scorings

    @property
    def layout(self) -> TensorLayout:
        """Of the updates."""
        return self._trainer.layout

    @property
    def groups(self) -> tuple[SketchGroup, ...]:
        """Values that are sketched together."""
        return self._sketches.groups

    def run(self, case: Case, observe: Observer | None = None) -> Row:
        """Play a case; its row, with figures for each round.

        Args:
            case: to play.
            observe: is shown what all clients send in each round.
        """
        started = time.process_time()
        attack = attack_at(case.attack, case.dose)
        train, test = self._sample(case.seed)
        labels = _chosen_labels(train, case.seed)
        probe = self._probe(attack, test, labels)
        players = self._players(case, attack, train, labels)
        judge = partial(self._judge, case, self._rules[case.rule])
        layout, memory, applied = self._trainer.layout, NOTHING, 0
        votes = self._votes.get(case.rule)
        adapter, last = self._trainer.initial, np.zeros(layout.size)
        rounds: list[Row] = []
        for number in range(1, self.setting.rounds + 1):
            honest = self._honest(case, players, adapter, number)
            sent = honest | self._attacks(
                case, attack, players, adapter, last, number, honest, memory
            )
            if observe is not None:
                observe(number, sent)
            entry, accepted, memory = judge(sent, memory, number)
            if accepted:
                total = np.sum([sent[name] for name in accepted], axis=0)
                last = total / len(accepted)
                if votes is not None:
                    step = voted_step(votes, layout, applied, total, len(accepted))
                    last = step.astype(np.float64)
                applied += 1
                adapter = adapter.moved(layout, last.astype(np.float32))
            rounds.append(entry | self._measures(attack, number, adapter, test, probe))
        window = self.setting.attacked_by(attack)
        attacked = [entry["asr"] for entry in rounds if entry["round"] in window]
        return {
            **case.key(self.setting),
            "malicious": attack.malicious,
            "attacked": [n for n in window if self._strength(attack, n) > 0],
            "per_round": rounds,
            "accuracy": rounds[-1]["accuracy"],
            "asr": None if probe is None else max(attacked),
            "values": layout.size,
            "cpu_s": time.process_time() - started,
            "versions": package_versions(["secure-fedfm", "torch", "transformers"]),
        }

    # ---------------------------------------------------------------- rows

    def _sample(self, seed: int) -> tuple[Dataset, Dataset]:
        return (
            _some(self._data.train, self.setting.rows, "robustness rows", seed),
            _some(self._data.test, self.setting.test_rows, "robustness test rows", seed),
        )

    def _probe(self, attack: Attack, test: Dataset, labels: Labels) -> Probe | None:
        found = attack.probe(test, labels)
        if found is None:
            return None
        texts = _some(found.texts, self.setting.probe_rows, "robustness probe")
        return Probe(texts, found.target)

    def _players(self, case: Case, attack: Attack, train: Dataset, labels: Labels) -> list[Player]:
        """Honest clients with the same rows whatever the attack; attackers have parts beyond."""
        parts = dirichlet_split(train, self.setting.honest + 2, case.alpha, case.seed)
        players = [
            Player(f"honest-{i + 1}", part) for i, part in enumerate(parts[: self.setting.honest])
        ]
        for member in range(attack.malicious):
            clean = parts[self.setting.honest + member]
            poisoned = attack.rows(clean, labels, member, generator("poison", case.seed, member))
            players.append(Player(f"malicious-{member + 1}", clean, poisoned))
        return players

    # ---------------------------------------------------------------- a round

    def _strength(self, attack: Attack, number: int) -> float:
        """0 in a round in which the attackers are honest."""
        window = self.setting.attacked_by(attack)
        return attack.strength(number - window.start + 1) if number in window else 0.0

    def _honest(
        self, case: Case, players: Sequence[Player], adapter: Adapter, number: int
    ) -> dict[str, Vector]:
        return {
            player.name: self._honestly(case, player, adapter, number)
            for player in players
            if player.poisoned is None
        }

    def _honestly(self, case: Case, player: Player, adapter: Adapter, number: int) -> Vector:
        """What a client sends that trains on its clean rows."""
        training = Training(player.clean, number, _order(player, case))
        return self._ballot(case, self._trainer.delta(training, adapter))

    def _ballot(self, case: Case, delta: Vector) -> Vector:
        votes = self._votes.get(case.rule)
        if votes is None:
            return delta
        return votes.ballot(delta, self._trainer.layout).astype(np.float64)

    def _attacks(
        self,
        case: Case,
        attack: Attack,
        players: Sequence[Player],
        adapter: Adapter,
        last: Vector,
        number: int,
        honest: Mapping[str, Vector],
        memory: Memory,
    ) -> dict[str, Vector]:
        """What the attackers send in this round."""
        strength = self._strength(attack, number)
        sent: dict[str, Vector] = {}
        for player in players:
            if player.poisoned is None:
                continue
            if strength == 0:
                sent[player.name] = self._honestly(case, player, adapter, number)
                continue
            if attack.clones and sent:
                sent[player.name] = next(iter(sent.values()))
                continue
            order = _order(player, case)
            own = np.zeros(self._trainer.layout.size)
            if attack.honest_too:
                own = self._trainer.delta(Training(player.clean, number, order), adapter)
            anchor = own if attack.anchored else None
            training = Training(player.poisoned, number, order, attack.epochs, anchor)
            poisoned = self._trainer.delta(training, adapter)
            passes = self._passing(case, player.name, honest, memory)
            view = View(
                self._ballot(case, poisoned), self._ballot(case, own), tuple(honest.values()), last,
                number, len(players), attack.malicious, passes,
                tuple(group.spans for group in self._sketches.groups),
                poisoned, self._votes.get(case.rule),
            )  # fmt: skip
            sent[player.name] = attack.craft(view, attack.dose * strength)
        return sent

    def _passing(
        self, case: Case, name: str, honest: Mapping[str, Vector], memory: Memory
    ) -> Passes | None:
        """What the rule would say of a vector of client ``name``, on exact inner products."""
        rule = self._rules[case.rule]
        if rule is None:
            return None

        def passes(vector: Vector) -> bool:
            scores = scores_of_vectors({**honest, name: vector}, self._sketches)
            return name in rule.judge(_rooted(rule, scores), memory).accepted_names

        return passes

    def _judge(
        self, case: Case, rule: Rule | None, sent: Mapping[str, Vector], memory: Memory, number: int
    ) -> tuple[Row, tuple[str, ...], Memory]:
        """(the round's entry, who is accepted, the next memory)."""
        names = tuple(sorted(sent))
        if rule is None:
            return {"round": number, "accepted": list(names)}, names, memory
        beacon = generator("beacon", case.seed, number).bytes(32)
        integers = [np.rint(sent[name] * SCALE).astype(np.int64) for name in names]
        scores, costs = self._scorings[case.scoring](names, integers, beacon)
        verdict = rule.judge(_rooted(rule, scores), memory)
        entry: Row = {
            "round": number,
            "accepted": list(verdict.accepted_names),
            "reasons": {n: why for n, why in zip(names, verdict.reasons, strict=True) if why},
            "norms": [round(float(norm) / SCALE, 4) for norm in scores.norms],
            "cosines": [[round(float(c), 4) for c in row] for row in scores.cosines],
            **costs,
        }
        return entry, verdict.accepted_names, verdict.memory

    # ---------------------------------------------------------------- measures

    def _measures(
        self, attack: Attack, number: int, adapter: Adapter, test: Dataset, probe: Probe | None
    ) -> dict[str, float | None]:
        """Accuracy when the attackers stop and at the end; success from the round before they
        start."""
        attacked = self.setting.attacked_by(attack)
        found: dict[str, float | None] = {"asr": None}
        if number in (attacked.stop - 1, self.setting.rounds):
            found["accuracy"] = self._trainer.accuracy(test, adapter)
        if probe is not None and number >= attacked.start - 1:
            wanted = Dataset(probe.texts.texts, (probe.target,) * len(probe.texts))
            found["asr"] = self._trainer.accuracy(wanted, adapter)
        return found


def _rooted(rule: Rule, scores: ScoreMatrix) -> ScoreMatrix:
    return scores.rooted_at(ROOT) if rule.needs_root else scores


def _order(player: Player, case: Case) -> str:
    return f"{player.name}/{case.seed}"


def _some(data: Dataset, wanted: int, *seed: object) -> Dataset:
    """That many rows, drawn by the seed, in their order."""
    chosen = generator(*seed).choice(len(data), min(wanted, len(data)), replace=False)
    return data.rows(sorted(chosen.tolist()))


def _chosen_labels(train: Dataset, seed: int) -> Labels:
    """The attacker's label, and the one that label flips are about: drawn by the seed."""
    random = generator("attacked labels", seed)
    target, source = random.choice(np.array(train.label_names()), size=2, replace=False)
    return Labels(str(target), str(source))
