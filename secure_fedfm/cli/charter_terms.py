"""What `charter new` reads besides enrolments: the model, the task and the training file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.founding import DEFAULT_CLIP
from secure_fedfm.learning.data import load_training_rows
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.recipes import SMALL_ROWS, recipe_for, votes_for
from secure_fedfm.learning.server_optimiser import (
    OptimiserSpec,
    ServerOptimiserSpec,
    read_optimiser,
)
from secure_fedfm.learning.specs import HEAD_ONLY, AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.step_optimiser import StepOptimiserSpec
from secure_fedfm.learning.votes import KIND as VOTES
from secure_fedfm.learning.weights import pin_model
from secure_fedfm.privacy.recipe import (
    PrivacySections,
    SharedNoiseRequest,
    client_privacy,
    local_privacy,
)
from secure_fedfm.watermark.planning import MarksOffer

TABLES = ("training", "adapter", "server_optimiser")


def read_training_file(
    path: Path | None,
    rounds: int,
    *,
    causal: bool = False,
    steps: StepOptimiserSpec | None = None,
    votes: bool = False,
) -> tuple[TrainingPlan, AdapterSpec, OptimiserSpec]:
    """The measured recipe, overridden by the tables of a file (TABLES).

    The learning-rate schedule spans the federation's ``rounds`` unless the file says otherwise.
    With ``steps``, the optimiser of mode shared-noise, a head that there is is trained alone. With
    ``votes`` clients send votes, unless the file names another kind of ``server_optimiser``.

    Raises
    ------
    ConfigurationError
        unreadable, an unknown table or key, or a value out of range.
    """
    tables = {} if path is None else _read_toml(path)
    unknown = sorted(set(tables) - set(TABLES))
    if unknown:
        raise ConfigurationError(
            f"{path} has unknown tables {', '.join(unknown)}; known are {', '.join(TABLES)}"
        )
    adapter = AdapterSpec(pooling="native" if causal else "mean")
    optimiser: OptimiserSpec = ServerOptimiserSpec()
    if steps is not None:
        adapter = adapter if causal else AdapterSpec(targets=HEAD_ONLY)
        optimiser = steps
    plan = recipe_for(SMALL_ROWS, rounds).plan  # how many rows there are, only the clients know
    try:
        plan = TrainingPlan.from_json(plan.to_json() | _table(tables, "training"))
        if votes and _table(tables, "server_optimiser").get("kind", VOTES) == VOTES:
            optimiser = votes_for(plan, rounds)
        return (
            plan,
            AdapterSpec.from_json(adapter.to_json() | _table(tables, "adapter")),
            read_optimiser(optimiser.to_json() | _table(tables, "server_optimiser")),
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}" if path else str(error)) from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also numbers and nestings without end
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error


def _table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{name} must be a table: write [{name}] above its keys")
    return table


def choose_model(model: str, folder: Path | None) -> tuple[ModelSpec, Path | None]:
    """Pin a base model; a path becomes the name of its last folder, since paths differ by site.

    Raises
    ------
    ModelError
        nowhere to be found, or no safetensors weights.
    """
    location = folder
    if location is None and Path(model).is_dir():
        location = Path(model)
        model = location.resolve().name
    return pin_model(model, location), location


def choose_task(
    kind: str,
    labels: str | None,
    labels_from: str | None,
    text_column: str | None,
    label_column: str | None,
) -> TaskSpec:
    """The task; labels in the order given, or all labels of a data set, sorted.

    Raises
    ------
    ConfigurationError
        both or neither way of naming labels, or labels for a causal-lm task.
    DataError
        the data set cannot be read.
    """
    if kind == "causal-lm":
        if labels or labels_from:
            raise ConfigurationError("a causal-lm task has no labels; leave --labels out")
        return TaskSpec("causal-lm", ())
    if (labels is None) == (labels_from is None):
        raise ConfigurationError(
            "name the labels of the task in one way: --labels a,b,c or --labels-from DATA"
        )
    if labels is not None:
        return TaskSpec("classification", split_names(labels))
    rows = load_training_rows(str(labels_from), text_column=text_column, label_column=label_column)
    return TaskSpec("classification", rows.label_names())


def choose_privacy(
    mode: str,
    epsilon: float,
    delta: float,
    rows: int | None,
    rounds: int,
    clip: float | None,
    shared: Mapping[str, Any] | None = None,
    *,
    head_rounds: int | None = None,
) -> PrivacySections | SharedNoiseRequest:
    """The privacy section, with just the noise that the rounds need within the budget.

    Parameters
    ----------
    shared
        Settings of mode ``shared-noise`` by option name without dashes; None is the default.
    head_rounds
        In mode ``local``: the first so many rounds train the head alone; None is 0.

    Raises
    ------
    ConfigurationError
        a mode of single rows without a number of rows, a number of rows in another mode, or
        settings of mode shared-noise or local in another.
    PrivacySettingError
        a budget that no noise meets.
    """
    given = {name: value for name, value in (shared or {}).items() if value is not None}
    if given and mode != "shared-noise":
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigurationError(f"{named}: only with --privacy shared-noise")
    if head_rounds is not None and mode != "local":
        raise ConfigurationError("--head-rounds: only with --privacy local")
    if (mode in ("local", "shared-noise")) != (rows is not None):
        raise ConfigurationError(
            "--rows-per-institution goes with --privacy local and shared-noise: a public number "
            "near what an institution has, by which the noised sums are divided"
        )
    if rows is not None and mode == "shared-noise":
        if "example_clip" in given:
            given["clip"] = given.pop("example_clip")
        return SharedNoiseRequest(
            epsilon=epsilon, delta=delta, rounds=rounds, expected_rows=rows, **given
        )
    if rows is not None:
        return local_privacy(
            epsilon=epsilon,
            delta=delta,
            rounds=rounds,
            expected_rows=rows,
            head_rounds=head_rounds or 0,
        )
    if mode == "client":
        whole = DEFAULT_CLIP if clip is None else clip
        return client_privacy(epsilon=epsilon, delta=delta, rounds=rounds, clip=whole)
    return PrivacySections()


def split_names(text: str) -> tuple[str, ...]:
    """`a, b,c` -> ("a", "b", "c")"""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def offered(marks: Sequence[Path] | None) -> MarksOffer | None:
    """The commitments to marks in these files; None where no mark is asked for."""
    if not marks:
        return None
    leaves = tuple(path.read_bytes() for path in marks)
    return lambda modules: leaves
