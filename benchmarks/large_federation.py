"""A federation of site folders for one round with a very long update, ready to be started.

The adapter is LoRA of high rank on all linear layers of the packaged base model; the rows are few,
so that what a round costs is the update and not the training.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedfm_protocols.charter import Charter, add_charter_signature, sign_charter
from fedfm_protocols.enrolment import Enrolment, Role
from secure_fedfm.config import Timeouts
from secure_fedfm.enrolling import enrol, make_keys
from secure_fedfm.founding import draft_charter
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.server_optimiser import ServerOptimiserSpec
from secure_fedfm.learning.specs import AdapterSpec, TaskSpec
from secure_fedfm.learning.weights import DEFAULT_MODEL
from secure_fedfm.storage.site import Site

COORDINATOR = "coordinator"
TASK = TaskSpec("classification", ("bill", "card", "loan"))
ROWS = 6
# Enough for every phase on a loaded machine: a deadline would change what is measured.
PHASE_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class LargeFederation:
    """Site folders by party, and the charter that all have signed."""

    charter: Charter
    sites: Mapping[str, Site]

    @property
    def values(self) -> int:
        """How many values an update has."""
        return self.charter.quantiser.values


def rank_for(values: int) -> int:
    """The LoRA rank whose update is nearest to `values` values; at least 1."""
    one, two = (_size(rank) for rank in (1, 2))
    return max(1, round((values - one) / (two - one)) + 1)


def _adapter(rank: int) -> AdapterSpec:
    return AdapterSpec(rank=rank, alpha=rank, last_layers=0, train="b-only")


def _size(rank: int) -> int:
    return load_adapted(DEFAULT_MODEL, _adapter(rank), TASK).layout.size


def make_large_federation(root: Path, *, clients: int, rank: int, suite: str) -> LargeFederation:
    """Make every party's folder under `root`: keys, enrolments, charter of one round, rows."""
    names = [f"client-{number:02d}" for number in range(1, clients + 1)]
    sites = {name: Site(root / name) for name in (COORDINATOR, *names)}
    enrolments = {name: _enrol(site, name) for name, site in sites.items()}
    charter = draft_charter(
        federation="large-round",
        coordinator=enrolments[COORDINATOR],
        clients=[enrolments[name] for name in names],
        log_public=sites[COORDINATOR].log_key().public,
        model=DEFAULT_MODEL,
        adapter=_adapter(rank),
        task=TASK,
        plan=TrainingPlan(batch_size=ROWS, max_tokens=16),
        server_optimiser=ServerOptimiserSpec(),
        rounds=1,
        suite=suite,
    )
    signed = _sign(charter, sites)
    for name, site in sites.items():
        site.write(site.charter_file, signed)
        if name == COORDINATOR:
            for other, enrolment in enrolments.items():
                site.write(site.enrolments_folder / f"{other}.json", enrolment.statement)
        else:
            _write_rows(site.root / "data.csv", name)
        site.write(site.config_file, _config(name, suite).encode())
    return LargeFederation(charter, sites)


def _enrol(site: Site, name: str) -> Enrolment:
    role: Role = "coordinator" if name == COORDINATOR else "client"
    make_keys(site, role)
    return enrol(site, role, name)


def _sign(charter: Charter, sites: Mapping[str, Site]) -> bytes:
    first, *others = charter.founders.names
    envelope = sign_charter(charter, first, sites[first].identity())
    for name in others:
        envelope = add_charter_signature(envelope, name, sites[name].identity())
    return envelope


def _write_rows(file: Path, client: str) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label"))
        for number in range(ROWS):
            label = TASK.labels[number % len(TASK.labels)]
            writer.writerow((f"question {number} of {client} about my {label}", label))


def _config(name: str, suite: str) -> str:
    lines = [f'name = "{name}"', 'log_format = "json"']
    if name == COORDINATOR:
        lines += ['role = "coordinator"', 'bind = "tcp://127.0.0.1:0"', "[timeouts]"]
        lines += [f"{phase} = {PHASE_SECONDS}" for phase in Timeouts.model_fields]
    else:
        lines += ['role = "client"', 'data = "data.csv"', "threads = 1"]
        lines += [f"connect_timeout = {PHASE_SECONDS}"]
    return "\n".join([*lines, "[policy]", f'suites = ["{suite}"]']) + "\n"
