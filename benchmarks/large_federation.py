"""A federation of site folders for one round with a very long update, ready to be started.

The adapter is LoRA of high rank on all linear layers of the packaged base model; the rows are few,
so that what a round costs is the update and not the training.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.site_folders import COORDINATOR, EnrolledSites, SitesOnDisk
from secure_fedfm.founding import draft_charter
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.server_optimiser import ServerOptimiserSpec
from secure_fedfm.learning.specs import AdapterSpec, TaskSpec
from secure_fedfm.learning.weights import DEFAULT_MODEL

TASK = TaskSpec("classification", ("bill", "card", "loan"))
ROWS = 6


def rank_for(values: int) -> int:
    """The LoRA rank whose update is nearest to `values` values; at least 1."""
    one, two = (_size(rank) for rank in (1, 2))
    return max(1, round((values - one) / (two - one)) + 1)


def _adapter(rank: int) -> AdapterSpec:
    return AdapterSpec(rank=rank, alpha=rank, last_layers=0, train="b-only")


def _size(rank: int) -> int:
    return load_adapted(DEFAULT_MODEL, _adapter(rank), TASK).layout.size


def make_large_federation(root: Path, *, clients: int, rank: int, suite: str) -> SitesOnDisk:
    """Make every party's folder under `root`: keys, enrolments, charter of one round, rows."""
    enrolled = EnrolledSites.make(root, clients)
    charter = draft_charter(
        federation="large-round",
        coordinator=enrolled.enrolments[COORDINATOR],
        clients=[enrolled.enrolments[name] for name in enrolled.clients],
        log_public=enrolled.sites[COORDINATOR].log_key().public,
        model=DEFAULT_MODEL,
        adapter=_adapter(rank),
        task=TASK,
        plan=TrainingPlan(batch_size=ROWS, max_tokens=16),
        server_optimiser=ServerOptimiserSpec(),
        rounds=1,
        suite=suite,
    )
    return enrolled.found(charter, {name: _rows(name) for name in enrolled.clients})


def _rows(client: str) -> Iterator[tuple[str, str]]:
    for number in range(ROWS):
        label = TASK.labels[number % len(TASK.labels)]
        yield f"question {number} of {client} about my {label}", label
