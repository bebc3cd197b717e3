"""A federation of site folders for one session in mode ``shared-noise``, ready to be started.

The adapter is the head alone on the packaged base model, one of as many labels as give the asked
number of values; suite and noise are what a charter of this mode has by default.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.site_folders import COORDINATOR, EnrolledSites, SitesOnDisk
from secure_fedfm.founding import draft_charter
from secure_fedfm.learning.corpus import demo_corpus
from secure_fedfm.learning.data import load_data
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.specs import HEAD_ONLY, AdapterSpec, TaskSpec
from secure_fedfm.learning.splits import iid_split
from secure_fedfm.learning.weights import DEFAULT_MODEL
from secure_fedfm.privacy.recipe import SharedNoiseRequest

SUITE = "layered"
MODE = "shared-noise"
WIDTH = 384  # of the packaged model's states; a label takes one weight for each, and a bias
EPSILON = 8.0
MAX_TOKENS = 64
SEED = 1


def labels_for(values: int) -> int:
    """How many labels give the head whose number of values is nearest to ``values``; at least 2."""
    return max(2, round(values / (WIDTH + 1)))


def training_rows(data: Path | None, labels: int) -> Dataset:
    """Rows of ``data`` (a file or folder), or generated ones.  They keep their labels where they
    have as many as ``labels`` or one more or less, else they get exactly so many in turn: what a
    step costs depends on how many there are, not on which row has which."""
    rows = demo_corpus().train if data is None else load_data(data).train
    if abs(len(rows.label_names()) - labels) <= 1:
        return rows
    names = [f"label-{number:04d}" for number in range(labels)]
    return replace(rows, labels=tuple(names[n % labels] for n in range(len(rows))))


def make_session_federation(
    root: Path, *, clients: int, values: int, steps: int, rate: float, data: Path | None
) -> SitesOnDisk:
    """Make every party's folder under ``root``: keys, enrolments, charter of one session, rows."""
    enrolled = EnrolledSites.make(root, clients)
    rows = training_rows(data, labels_for(values))
    request = SharedNoiseRequest(
        epsilon=EPSILON,
        rounds=1,
        expected_rows=max(1, len(rows) // clients),
        sampling_rate=rate,
        steps_per_round=steps,
    )
    charter = draft_charter(
        federation="session-steps",
        coordinator=enrolled.enrolments[COORDINATOR],
        clients=[enrolled.enrolments[name] for name in enrolled.clients],
        log_public=enrolled.sites[COORDINATOR].log_key().public,
        model=DEFAULT_MODEL,
        adapter=AdapterSpec(targets=HEAD_ONLY),
        task=TaskSpec("classification", tuple(sorted(set(rows.labels)))),
        plan=TrainingPlan(max_tokens=MAX_TOKENS),
        server_optimiser=request.optimiser(clients),
        rounds=1,
        suite=SUITE,
        privacy=request,
    )
    parts = zip(enrolled.clients, iid_split(rows, clients, SEED), strict=True)
    return enrolled.found(
        charter, {name: zip(part.texts, part.labels, strict=True) for name, part in parts}
    )
