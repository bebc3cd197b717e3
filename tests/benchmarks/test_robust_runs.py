"""The robustness benchmark's federation, on a made-up model in which poison is one direction.

A training moves the adapter by what all honest clients have in common and noise of the client's
own; poisoned rows add the poison's direction. Success is how far the adapter went that way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("tenseal")

from benchmarks.attacks.crafting import Vector
from benchmarks.attacks.poison import TRIGGER
from benchmarks.robust_runs import SCALE, Arena, Case, Setting
from benchmarks.robust_scoring import encrypted_scoring, plain_scoring
from benchmarks.robust_training import Trainer, Training
from benchmarks.robustness import VOTING, cases, rules
from fedfm_crypto.sketch import SketchLayout
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.dataset import Dataset, TrainTest
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.payload import TensorLayout, delta
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.training import prepare_rows, train_round
from secure_fedfm.learning.votes import VoteSpec
from secure_fedfm.robust.drafting import two_groups
from tests.secure_fedfm.learning.conftest import one_thread, plan, task, tickets, tiny_encoder

__all__ = ["one_thread", "plan", "task", "tickets", "tiny_encoder"]

WIDTH = 65_536
ROWS = Dataset(tuple(f"number {i}" for i in range(120)), ("a", "b", "c") * 40)
SETTING = Setting(rows=120, test_rows=30, probe_rows=5, rounds=6, attacked=range(3, 5))


def direction(*name: object) -> Vector:
    seed = hashlib.sha256(repr(name).encode()).digest()
    found: Vector = np.random.default_rng(list(seed)).normal(size=WIDTH) / np.sqrt(WIDTH)
    return found


COMMON, POISON = direction("common"), direction("poison")


class MadeUp:
    """Trains nothing and moves as the module says."""

    def __init__(self) -> None:
        self.initial = Adapter({"head.weight": np.zeros((WIDTH,), np.float32)})
        self.layout = TensorLayout.of(self.initial)
        self.trainings: list[Training] = []

    def delta(self, training: Training, adapter: Adapter) -> Vector:
        self.trainings.append(training)
        moved = COMMON + direction(training.order, training.number)
        return moved + 3 * POISON * any(TRIGGER[0] in text for text in training.rows.texts)

    def accuracy(self, data: Dataset, adapter: Adapter) -> float:
        towards = POISON if TRIGGER[0] in data.texts[0] else COMMON
        return float(np.clip(adapter["head.weight"] @ towards, 0, 1))


@pytest.fixture(scope="module")
def arena() -> Arena:
    layout = SketchLayout(WIDTH, two_groups(WIDTH))
    scorings = {"plain": plain_scoring(layout), "encrypted": encrypted_scoring(layout, SCALE)}
    votes = VoteSpec(head_step=1 / np.sqrt(WIDTH), schedule_rounds=100)
    return Arena(
        TrainTest(ROWS, ROWS, "made up"), SETTING, MadeUp(), rules(), scorings, layout,
        dict.fromkeys(VOTING, votes),
    )  # fmt: skip


def test_without_a_rule_the_poison_gets_in(arena: Arena) -> None:
    row = arena.run(Case("replacement", 2.0, "none", 1.0, 1))
    success = [entry["asr"] for entry in row["per_round"]]
    # A fifth of 2 * 3 |poison|^2 in each of two rounds; nothing before, nothing after.
    assert success[0] is None
    assert success[1] == pytest.approx(0, abs=0.05)
    assert success[2:] == pytest.approx([1.0] * 4, abs=0.05)
    assert row["asr"] == max(success[2:4])
    assert row["attacked"] == [3, 4]
    assert row["malicious"] == 1


@pytest.mark.parametrize("attack", ["replacement", "adaptive"])
def test_votes_hold_poison_down_that_nobody_excludes(arena: Arena, attack: str) -> None:
    by_size = arena.run(Case("replacement", 1.0, "none", 1.0, 1))
    row = arena.run(Case(attack, 1.0, "votes", 1.0, 1))
    assert all(len(entry["accepted"]) == 5 for entry in row["per_round"])
    assert row["asr"] < by_size["asr"] / 2
    # What all have in common is learnt all the same.
    assert row["accuracy"] > 0.5


def test_who_is_shown_all_ballots_gets_more_in(arena: Arena) -> None:
    """Otherwise the attacks on votes would be none."""
    found = {
        attack: arena.run(Case(attack, 1.0, "votes", 1.0, 1))["asr"]
        for attack in ("replacement", "stuffing", "veto")
    }
    assert found["stuffing"] > 2 * found["replacement"]
    assert found["veto"] > 0


@pytest.mark.parametrize("scoring", ["plain", "encrypted"])
def test_the_default_rule_keeps_it_out(arena: Arena, scoring: str) -> None:
    row = arena.run(Case("replacement", 2.0, "cosine-memory", 1.0, 1, scoring))
    honest = [f"honest-{i}" for i in range(1, 5)]
    accepted = [entry["accepted"] for entry in row["per_round"]]
    assert accepted == [[*honest, "malicious-1"]] * 2 + [honest] * 2 + accepted[4:]
    assert row["asr"] == pytest.approx(0, abs=0.05)
    reasons = row["per_round"][2]["reasons"]
    assert set(reasons) == {"malicious-1"}
    assert reasons["malicious-1"].startswith("norm: ")
    errors = [entry.get("largest_error", 0.0) for entry in row["per_round"]]
    assert max(errors) < 1e-4
    assert all(("coordinator_s" in e) == (scoring == "encrypted") for e in row["per_round"])


def test_honest_clients_do_the_same_whatever_the_attack(arena: Arena) -> None:
    """Otherwise rows of one seed could not be compared."""
    ran: list[set[tuple[bytes, int, str]]] = []
    for attack in ("none", "replacement", "dba"):
        trainer = MadeUp()
        other = Arena(
            TrainTest(ROWS, ROWS, "made up"),
            SETTING,
            trainer,
            rules(),
            {},
            SketchLayout(WIDTH, two_groups(WIDTH)),
        )
        other.run(Case(attack, 1.0, "none", 1.0, 1))
        honest = [t for t in trainer.trainings if t.order.startswith("honest")]
        ran.append({(t.rows.digest(), t.number, t.order) for t in honest})
        assert all(t.epochs == 1 for t in honest)
    assert ran[0] == ran[1] == ran[2]
    assert len(ran[0]) == 4 * SETTING.rounds


def test_every_case_has_a_key_of_its_own() -> None:
    wanted = list(cases(["none", "dba", "alie"], ["none", "cosine-memory"], (1.0, 0.3), 2, "plain"))
    assert len({repr(case.key(SETTING)) for case in wanted}) == len(wanted) == (1 + 4 + 1) * 8


def test_rules_that_judge_no_round_of_so_few_are_left_out() -> None:
    assert not list(cases(["none"], ["multi-krum"], (1.0,), 1, "plain"))
    assert [c.attack for c in cases(["none", "alie"], ["multi-krum"], (1.0,), 1, "plain")] == [
        "alie"
    ]


def test_a_rule_with_a_root_compares_with_an_honest_client(arena: Arena) -> None:
    row = arena.run(Case("inner-product", 1.0, "fltrust", 1.0, 1))
    for entry in row["per_round"]:
        attacked = entry["round"] in row["attacked"]
        assert ("malicious-1" not in entry["accepted"]) is attacked
        assert "honest-1" in entry["accepted"]
    assert row["per_round"][2]["reasons"]["malicious-1"].startswith("root: ")


def plans() -> TrainingPlan:
    return TrainingPlan(epochs=1, batch_size=4)


def trainer_of(model: ModelSpec, task: TaskSpec, folder: Path | None = None) -> Trainer:
    adapted = load_adapted(model, AdapterSpec(last_layers=1, rank=2, alpha=4), task)
    return Trainer(adapted, task.labels, plans(), folder)


def test_a_training_is_the_library_s_own_and_is_kept(
    tiny_encoder: ModelSpec, task: TaskSpec, tickets: Dataset, tmp_path: Path
) -> None:
    trainer = trainer_of(tiny_encoder, task, tmp_path)
    training = Training(tickets, 1, "me")
    found = trainer.delta(training, trainer.initial)
    model = trainer.model
    model.load(trainer.initial)
    train_round(model, prepare_rows(model, tickets, task.labels, 48), plans(), 1, "me")
    assert found == pytest.approx(delta(model.layout, trainer.initial, model.state()), abs=1e-6)
    (file,) = tmp_path.iterdir()
    assert np.load(file).any()
    np.save(file, np.ones(model.layout.size, np.float32))
    assert (trainer.delta(training, trainer.initial) == 1).all()
    share = trainer.accuracy(tickets, trainer.initial)
    (measured,) = tmp_path.glob("*.share")
    measured.write_text("0.125")
    assert trainer.accuracy(tickets, trainer.initial) == share, "measured once in a process"
    assert trainer_of(tiny_encoder, task, tmp_path).accuracy(tickets, trainer.initial) == 0.125
    moved = trainer.initial.moved(model.layout, found.astype(np.float32))
    others: Iterable[tuple[Training, Adapter]] = (
        (Training(tickets, 2, "me"), trainer.initial),
        (Training(tickets, 1, "you"), trainer.initial),
        (Training(tickets, 1, "me", 2), trainer.initial),
        (Training(tickets, 1, "me", 1, found), trainer.initial),
        (training, moved),
    )
    names = {training.digest(trainer.initial), *(t.digest(adapter) for t, adapter in others)}
    assert len(names) == 6


def test_an_anchor_pulls_and_measuring_leaves_no_trace(
    tiny_encoder: ModelSpec, task: TaskSpec, tickets: Dataset
) -> None:
    trainer = trainer_of(tiny_encoder, task)
    free = trainer.delta(Training(tickets, 1, "me"), trainer.initial)
    anchor = np.full(free.size, 3.0)
    held = trainer.delta(Training(tickets, 1, "me", 1, anchor), trainer.initial)
    assert np.linalg.norm(held - anchor) < np.linalg.norm(free - anchor)
    # Rows that were never prepared before are measured under the adapter that was asked for.
    adapter = trainer.initial.moved(trainer.layout, free.astype(np.float32))
    new = Dataset(tuple(f"{text} please" for text in tickets.texts), tickets.labels)
    fresh = trainer.accuracy(new, adapter)
    other = trainer_of(tiny_encoder, task)
    other.accuracy(new, other.initial)
    assert other.accuracy(new, adapter) == fresh
