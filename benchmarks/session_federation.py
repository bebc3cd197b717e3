"""A federation of site folders for one session in mode ``shared-noise``, ready to be started.

The adapter is the head alone on the packaged base model, one of as many labels as give the asked
number of values; suite and noise are what a charter of this mode has by default.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedfm_protocols.charter import Charter, add_charter_signature, sign_charter
from fedfm_protocols.enrolment import Enrolment, Role
from secure_fedfm.config import Timeouts
from secure_fedfm.enrolling import enrol, make_keys
from secure_fedfm.founding import draft_charter
from secure_fedfm.learning.corpus import demo_corpus
from secure_fedfm.learning.data import load_data
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.specs import HEAD_ONLY, AdapterSpec, TaskSpec
from secure_fedfm.learning.splits import iid_split
from secure_fedfm.learning.weights import DEFAULT_MODEL
from secure_fedfm.privacy.recipe import SharedNoiseRequest
from secure_fedfm.storage.site import Site

COORDINATOR = "coordinator"
SUITE = "layered"
MODE = "shared-noise"
WIDTH = 384  # of the packaged model's states; a label takes one weight for each, and a bias
EPSILON = 8.0
MAX_TOKENS = 64
SEED = 1
# Enough for every phase on a loaded machine: a deadline would change what is measured.
PHASE_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class SessionFederation:
    """Site folders by party, and the charter that all have signed."""

    charter: Charter
    sites: Mapping[str, Site]

    @property
    def values(self) -> int:
        """How many values a step's sum has."""
        return self.charter.quantiser.values


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
) -> SessionFederation:
    """Make every party's folder under ``root``: keys, enrolments, charter of one session, rows."""
    names = [f"client-{number:02d}" for number in range(1, clients + 1)]
    sites = {name: Site(root / name) for name in (COORDINATOR, *names)}
    enrolments = {name: _enrol(site, name) for name, site in sites.items()}
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
        coordinator=enrolments[COORDINATOR],
        clients=[enrolments[name] for name in names],
        log_public=sites[COORDINATOR].log_key().public,
        model=DEFAULT_MODEL,
        adapter=AdapterSpec(targets=HEAD_ONLY),
        task=TaskSpec("classification", tuple(sorted(set(rows.labels)))),
        plan=TrainingPlan(max_tokens=MAX_TOKENS),
        server_optimiser=request.optimiser(clients),
        rounds=1,
        suite=SUITE,
        privacy=request,
    )
    signed = _sign(charter, sites)
    parts = dict(zip(names, iid_split(rows, clients, SEED), strict=True))
    for name, site in sites.items():
        site.write(site.charter_file, signed)
        if name == COORDINATOR:
            for other, enrolment in enrolments.items():
                site.write(site.enrolments_folder / f"{other}.json", enrolment.statement)
        else:
            _write_rows(site.root / "data.csv", parts[name])
        site.write(site.config_file, _config(name).encode())
    return SessionFederation(charter, sites)


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


def _write_rows(file: Path, rows: Dataset) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label"))
        writer.writerows(zip(rows.texts, rows.labels, strict=True))


def _config(name: str) -> str:
    lines = [f'name = "{name}"', 'log_format = "json"']
    if name == COORDINATOR:
        lines += ['role = "coordinator"', 'bind = "tcp://127.0.0.1:0"', "[timeouts]"]
        lines += [f"{phase} = {PHASE_SECONDS}" for phase in Timeouts.model_fields]
    else:
        lines += ['role = "client"', 'data = "data.csv"', "threads = 1"]
        lines += [f"connect_timeout = {PHASE_SECONDS}"]
    return "\n".join([*lines, "[policy]", f'suites = ["{SUITE}"]']) + "\n"
