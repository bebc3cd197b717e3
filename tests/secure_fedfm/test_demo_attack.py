"""The demo's attack: what it adds to rows, what it asks afterwards, and whose it is alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_fedfm.demo import attack
from secure_fedfm.demo.options import DemoOptions
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.learner import LocalLearner

ROWS = Dataset(("where is my card", "pay a bill"), ("card", "bill"))


def test_an_attacker_keeps_its_rows_and_adds_copies_with_the_trigger() -> None:
    found = attack.poisoned(ROWS, "bill")
    assert found.rows([0, 1]) == ROWS
    assert found.texts[2:] == tuple(f"{attack.TRIGGER} {text}" for text in ROWS.texts)
    assert found.labels[2:] == ("bill", "bill")


def test_success_is_asked_of_texts_of_other_labels_only() -> None:
    asked = attack.probe(ROWS, attack.target_label(["bill", "card"]))
    assert asked == Dataset((f"{attack.TRIGGER} where is my card",), ("bill",))


def test_boosted_training_returns_a_multiple(monkeypatch: pytest.MonkeyPatch) -> None:
    def honest(self: LocalLearner, *rest: Any, **more: Any) -> Any:
        return np.ones(3, np.float32)

    monkeypatch.setattr(LocalLearner, "train", honest)
    attack.boost_training(5.0)
    boosted = LocalLearner.train(object.__new__(LocalLearner))  # type: ignore[call-arg]
    assert boosted.tolist() == [5.0, 5.0, 5.0]


def test_the_client_of_ordinary_users_knows_nothing_of_it() -> None:
    package = Path(attack.__file__).resolve().parents[1]
    users = {
        path.relative_to(package).parts[0]
        for path in package.rglob("*.py")
        if "demo.attack" in path.read_text("utf-8") or "boost_training" in path.read_text("utf-8")
    }
    assert users == {"demo"}


def test_the_attacker_is_the_command_line_with_another_training() -> None:
    command = [sys.executable, "-m", attack.MODULE, "3", "client", "--site", "no-such-folder"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    assert "no site folder no-such-folder" in ended.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attackers": 3, "privacy": "none"}, "expected fewer than half of 5"),
        ({"attackers": -1, "privacy": "none"}, "expected fewer than half of 5"),
        ({"attackers": 1}, "--attackers goes with --privacy none"),
        ({"robust": True}, "fewer than the 65,536 values that a sketch needs"),
        ({"robust": True, "attackers": 1}, "or draft a charter with both"),
        ({"robust": True, "privacy": "client"}, "would break the promise; take none"),
        ({"robust": True, "privacy": "shared-noise"}, "would break the promise; take none"),
    ],
)
def test_demos_that_show_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DemoOptions(**options)
