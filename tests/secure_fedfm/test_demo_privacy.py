"""What a demo says was spent is what the ledgers in its bundle say."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfm_audit.privacy.entries import figure_value
from secure_fedfm.config import PRIVACY_MODES, PolicySection
from secure_fedfm.demo.options import DemoOptions
from secure_fedfm.demo.privacy import UNITS, spent_in
from secure_fedfm.learning.recipes import private_recipe
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
    # More rounds on the same budget need more noise.
    more = local_privacy(epsilon=8, rounds=6, expected_rows=840).privacy
    assert more["noise_multiplier"] > privacy["noise_multiplier"] > 0.5


def test_a_policy_that_says_nothing_of_privacy_takes_every_mode() -> None:
    assert set(PolicySection().privacy_modes) >= {"none", "local", "client"}
    strict = PolicySection.model_validate({"privacy_modes": ["local"]})
    assert strict.site_policy().privacy_modes == ("local",)


@pytest.mark.parametrize("rounds", [None, 2])
def test_the_private_recipe_adapts_little(rounds: int | None) -> None:
    recipe = private_recipe(rounds)
    assert recipe.rounds == recipe.plan.schedule_rounds == (rounds or 3)
    assert (recipe.adapter.last_layers, recipe.adapter.train) == (1, "b-only")
