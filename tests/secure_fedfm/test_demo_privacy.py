"""What a demo says was spent is what the ledgers in its bundle say."""

from __future__ import annotations

import json
import math
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fedfm_audit.privacy.entries import figure_value
from fedfm_audit.privacy.shared_noise import Collusion
from secure_fedfm.config import PRIVACY_MODES, PolicySection
from secure_fedfm.demo.options import DemoOptions
from secure_fedfm.demo.privacy import UNITS, Spent, spent_in
from secure_fedfm.demo.progress import DemoProgress
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.recipes import private_recipe, shared_noise_recipe
from secure_fedfm.privacy.recipe import DEFAULT_RATE, DEFAULT_STEPS, local_privacy
from tests.audit.privacy_ledgers import LOCAL, PrivateFederation
from tests.audit.synthetic import play_federation


def _write(files: dict[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_spent_is_the_last_charge_of_who_spent_most(tmp_path: Path) -> None:
    federation = PrivateFederation(LOCAL)
    federation.play()
    federation.settle()
    federation.play()
    spent = spent_in(_write(federation.files(), tmp_path))
    assert spent is not None
    entries = [ledger.state.entries for ledger in federation.ledgers.values()]
    figures = [figure_value(listed[-1].cumulative.epsilon_rdp) for listed in entries]
    assert spent.epsilon_rdp == max(figures)
    assert spent.epsilon <= spent.budget
    # Two rounds were charged; what settled the first one cost nothing.
    assert len(spent.per_round) == 2
    assert spent.per_round[0] < spent.per_round[1] == spent.epsilon
    assert f"epsilon {spent.epsilon:.2f} of {spent.budget:g}" in spent.to_text()
    assert spent.to_json()["delta"] == spent.delta


def test_no_ledger_no_spending(tmp_path: Path) -> None:
    assert spent_in(_write(play_federation().files(), tmp_path)) is None


def test_the_demo_promises_privacy_unless_told_otherwise() -> None:
    assert (DemoOptions().privacy, DemoOptions().epsilon) == ("local", 8.0)
    assert set(UNITS) >= set(PRIVACY_MODES)


def test_the_noise_of_the_default_rounds_keeps_within_the_budget() -> None:
    privacy = local_privacy(epsilon=8, rounds=private_recipe().rounds, expected_rows=840).privacy
    assert privacy["sampling_rate"] * privacy["steps_per_round"] == DEFAULT_RATE * DEFAULT_STEPS
    assert privacy["noise_multiplier"] > 0.5


def test_a_policy_that_says_nothing_of_privacy_takes_every_mode() -> None:
    assert set(PolicySection().privacy_modes) >= {"none", "local", "client"}
    strict = PolicySection.model_validate({"privacy_modes": ["local"]})
    assert strict.site_policy().privacy_modes == ("local",)


@pytest.mark.parametrize("rounds", [None, 2])
def test_the_private_recipe_adapts_little(rounds: int | None) -> None:
    recipe = private_recipe(rounds)
    assert recipe.rounds == recipe.plan.schedule_rounds == (rounds or 3)
    assert (recipe.adapter.last_layers, recipe.adapter.train) == (1, "b-only")


def test_the_head_is_trained_alone_in_all_rounds_but_one() -> None:
    sections = local_privacy(epsilon=8, rounds=2, expected_rows=840, head_rounds=1)
    assert sections.private is not None
    assert sections.private["head_rounds"] == 1
    with pytest.raises(ConfigurationError, match="fewer than all"):
        local_privacy(epsilon=8, rounds=2, expected_rows=840, head_rounds=2)


def test_shared_noise_says_who_must_not_collude() -> None:
    rows = (Collusion(1, 7.5), Collusion(2, 9.25), Collusion(3, math.inf))
    spent = Spent("shared-noise", "a", 7.5, 7.5, 7.9, 1e-5, 8.0, (5.0, 7.5), rows)
    first, second = spent.to_text().splitlines()
    assert "after each session 5.00, 7.50" in first
    assert "coordinator and 1 colluding institution;" in second
    assert "2: epsilon 9.25, 3: no protection" in second
    assert json.loads(json.dumps(spent.to_json(), allow_nan=False))["collusion"] == [
        {"colluding": 1, "epsilon": 7.5},
        {"colluding": 2, "epsilon": 9.25},
        {"colluding": 3, "epsilon": None},
    ]
    assert DemoOptions(privacy="shared-noise").rounds is None
    recipe = shared_noise_recipe()
    assert (recipe.rounds, recipe.adapter.head_only) == (2, True)


def test_a_session_is_told_in_a_few_lines() -> None:
    shown = StringIO()
    console = Console(file=shown, width=200)
    with DemoProgress(console, ("a", "b"), 2, encrypted=True, steps=50) as progress:
        opened = {"kind": "round-opened", "round": 1, "makes_key": True, "completed": 0}
        progress.show("coordinator", opened)
        progress.show("coordinator", {**opened, "round": 2, "makes_key": False})
        for done in range(1, 51):
            progress.show("coordinator", {"kind": "phase", "phase": "votes"})
            progress.show("coordinator", {"kind": "step", "round": 2, "done": done, "of": 50})
            progress.show("a", {"kind": "training", "round": 2, "done": done, "of": 50})
        progress.show("coordinator", {"kind": "round-ended", "round": 2, "outcome": "completed"})
    lines = shown.getvalue().splitlines()
    assert lines == [
        "coordinator: collective key begins",
        "coordinator: session 1 of 2 begins",
        *(f"coordinator: session 1 of 2: step {done} of 50" for done in (10, 20, 30, 40, 50)),
        "coordinator: session 1 of 2 completed",
    ]
