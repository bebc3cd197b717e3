"""Charter sections: there and back, and nothing unknown accepted."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.recipes import recipe_for
from secure_fedfm.learning.server_optimiser import ServerOptimiserSpec
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec

SECTIONS: list[Any] = [
    ModelSpec("owner/name", "0" * 64),
    TaskSpec("classification", ("b", "a")),
    TaskSpec("causal-lm", ()),
    AdapterSpec(),
    AdapterSpec(targets=("query", "value"), last_layers=0, train="a-and-b", pooling="native"),
    TrainingPlan(),
    TrainingPlan(schedule="cosine", weight_decay=0.01, warmup_steps=4),
    ServerOptimiserSpec("fedadam", tau=1e-4),
]


@pytest.mark.parametrize("section", SECTIONS, ids=repr)
def test_json_there_and_back(section: Any) -> None:
    assert type(section).from_json(json.loads(json.dumps(section.to_json()))) == section


@pytest.mark.parametrize("section", SECTIONS, ids=repr)
def test_an_unknown_key_and_a_missing_key_are_named(section: Any) -> None:
    data = section.to_json()
    with pytest.raises(ConfigurationError, match="unknown keys learning_rte"):
        type(section).from_json({**data, "learning_rte": 1})
    first = next(iter(data))
    with pytest.raises(ConfigurationError, match=f"lacks {first}"):
        type(section).from_json({k: v for k, v in data.items() if k != first})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 1.5),
        ("epochs", True),
        ("epochs", 0),
        ("batch_size", "32"),
        ("head_learning_rate", "fast"),
        ("head_learning_rate", float("nan")),
        ("adapter_learning_rate", -1.0),
        ("schedule", "stepwise"),
        ("beta2", 1.0),
    ],
)
def test_wrong_plan_values_are_named(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"training.{field}"):
        TrainingPlan.from_json({**TrainingPlan().to_json(), field: value})


def test_whole_numbers_pass_for_floats_since_canonical_json_drops_the_point() -> None:
    plan = TrainingPlan.from_json({**TrainingPlan().to_json(), "weight_decay": 0})
    assert isinstance(plan.weight_decay, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"targets": "everything"}, "all-linear"),
        ({"targets": []}, "at least one"),
        ({"targets": [3]}, "list of strings"),
        ({"rank": 0}, "adapter.rank"),
        ({"train": "b"}, "'b-only', 'a-and-b'"),
        ({"pooling": "max"}, "adapter.pooling"),
    ],
)
def test_wrong_adapter_values_are_named(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        AdapterSpec.from_json({**AdapterSpec().to_json(), **data})


def test_task_and_model_refuse_what_cannot_be() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        TaskSpec("classification", ("a", "a"))
    with pytest.raises(ConfigurationError, match="at least 2"):
        TaskSpec("classification", ("a",))
    with pytest.raises(ConfigurationError, match="must be empty"):
        TaskSpec("causal-lm", ("a",))
    with pytest.raises(ConfigurationError, match="64 lowercase hex"):
        ModelSpec("name", "AB")
    with pytest.raises(ConfigurationError, match="expected a JSON object"):
        ModelSpec.from_json([])


def test_learning_rate_falls_over_the_rounds_and_stays() -> None:
    plan = TrainingPlan(schedule="linear", schedule_rounds=4, final_factor=0.2)
    assert plan.learning_rate_factor(1, 0.0) == 1.0
    assert plan.learning_rate_factor(3, 0.0) == pytest.approx(0.6)
    assert plan.learning_rate_factor(2, 1.0) == plan.learning_rate_factor(3, 0.0)
    assert plan.learning_rate_factor(9, 0.5) == pytest.approx(0.2)
    cosine = TrainingPlan(schedule="cosine", schedule_rounds=4, final_factor=0.0)
    assert cosine.learning_rate_factor(3, 0.0) == pytest.approx(0.5)
    constant = TrainingPlan(schedule="constant")
    assert constant.learning_rate_factor(8, 0.3) == 1.0


def test_what_a_charter_reader_imports_is_free_of_torch() -> None:
    modules = [
        "data",
        "dataset",
        "corpus",
        "splits",
        "specs",
        "plan",
        "recipes",
        "weights",
        "payload",
        "adapter_state",
        "server_optimiser",
        "strict_json",
        "seeds",
    ]
    program = "".join(f"import secure_fedfm.learning.{name}\n" for name in modules)
    program += "import sys; print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_recipes_follow_size_and_rounds() -> None:
    assert recipe_for(1200).rounds == 3
    large = recipe_for(10_003)
    assert large.passes <= 10
    assert large.plan.schedule_rounds == large.rounds
    assert recipe_for(10_003, rounds=2).plan.schedule_rounds == 2
