"""The institutions of a demo: everyone's site folder, made as real institutions would make it.

Keys, enrolments and signatures are made by the same functions that the command line uses; only
that one process plays everybody's part here.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedfm_protocols.charter import Charter
from fedfm_protocols.enrolment import Enrolment, Role
from secure_fedfm.demo.attack import poisoned, target_label
from secure_fedfm.demo.marks import DemoMarks, collect_leaves
from secure_fedfm.demo.options import DemoOptions
from secure_fedfm.enrolling import enrol, make_keys
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.founding import draft_charter, sign_by_founders
from secure_fedfm.learning.corpus import demo_corpus
from secure_fedfm.learning.data import load_data
from secure_fedfm.learning.dataset import Dataset, TrainTest
from secure_fedfm.learning.recipes import (
    Recipe,
    private_recipe,
    recipe_for,
    shared_noise_recipe,
    sketchable,
    votes_for,
)
from secure_fedfm.learning.server_optimiser import OptimiserSpec
from secure_fedfm.learning.specs import TaskSpec
from secure_fedfm.learning.splits import dirichlet_split, iid_split
from secure_fedfm.learning.weights import DEFAULT_MODEL
from secure_fedfm.privacy.recipe import (
    PrivacySections,
    SharedNoiseRequest,
    client_privacy,
    local_privacy,
)
from secure_fedfm.robust.drafting import RobustRequest
from secure_fedfm.storage.site import Site

FEDERATION = "demo"
COORDINATOR = "coordinator"
VALIDATOR = "validator"
MARKER = ".secure-fedfm-demo"

# L2 norm that an institution's whole update keeps in mode client.
CLIENT_CLIP = 1.0


@dataclass(frozen=True, slots=True)
class Workspace:
    """A prepared demo: folders, data, recipe and signed charter."""

    root: Path
    sites: dict[str, Site]
    data: TrainTest
    recipe: Recipe
    charter: Charter
    attackers: tuple[str, ...] = ()

    @property
    def validator(self) -> Site | None:
        """The validator's site, in a robust federation."""
        return self.sites.get(VALIDATOR)

    @property
    def clients(self) -> tuple[str, ...]:
        """Names of the clients."""
        return self.charter.clients

    @property
    def coordinator(self) -> Site:
        """The coordinator's site."""
        return self.sites[COORDINATOR]


def client_names(count: int) -> list[str]:
    """Names of the demo's institutions."""
    return [f"institution-{number:02d}" for number in range(1, count + 1)]


def prepare(options: DemoOptions) -> Workspace:
    """Make every party's site folder under ``options.out``; what an earlier demo left is removed.

    Raises
    ------
    ConfigurationError
        if the folder holds something that no demo wrote.
    FedFMError
        if data or options are unusable.
    """
    root = options.out
    _clear(root)
    data = _load(options)
    recipe = _recipe(options, len(data.train))
    recipe = replace(
        recipe,
        adapter=replace(recipe.adapter, seed=options.seed),
        plan=replace(recipe.plan, seed=options.seed),
    )
    privacy = _privacy(options, recipe, len(data.train))
    names = client_names(options.clients)
    parts = _split(data.train, options)
    attackers = tuple(names[len(names) - options.attackers :])
    others = (COORDINATOR, VALIDATOR) if options.robust else (COORDINATOR,)
    sites = {name: Site(root / "sites" / name) for name in (*names, *others)}
    enrolments = {}
    for name, site in sites.items():
        make_keys(site, _role(name))
        enrolments[name] = enrol(site, _role(name), name)
    task = TaskSpec("classification", tuple(sorted(set(data.train.labels))))
    private = options.privacy != "none"
    marks = DemoMarks(sites, names, FEDERATION, DEFAULT_MODEL.sha256, private)
    charter = draft_charter(
        federation=FEDERATION,
        coordinator=enrolments[COORDINATOR],
        clients=[enrolments[name] for name in names],
        log_public=sites[COORDINATOR].log_key().public,
        model=DEFAULT_MODEL,
        adapter=recipe.adapter,
        task=task,
        plan=recipe.plan,
        server_optimiser=_optimiser(options, recipe, privacy),
        rounds=recipe.rounds,
        suite=options.suite,
        privacy=privacy,
        clip=CLIENT_CLIP if options.privacy == "client" else None,
        colluding=1,
        dropouts=1 if options.clients > 3 else 0,
        robust=RobustRequest(enrolments[VALIDATOR]) if options.robust else None,
        marks=marks if options.marks else None,
    )
    signed = sign_by_founders(charter, sites)
    for name, site in sites.items():
        site.write(site.charter_file, signed)
        if name == COORDINATOR:
            _write_coordinator(site, enrolments, options)
            collect_leaves(charter, sites, site)
        elif name == VALIDATOR:
            _write_validator(site, options, charter)
        else:
            rows = parts[names.index(name)]
            if name in attackers:
                rows = poisoned(rows, target_label(task.labels))
            _write_client(site, name, rows, options, charter)
    return Workspace(root, sites, data, recipe, charter, attackers)


def _role(name: str) -> Role:
    if name == COORDINATOR:
        return "coordinator"
    return "validator" if name == VALIDATOR else "client"


def _clear(root: Path) -> None:
    if root.exists():
        if not (root / MARKER).is_file() and any(root.iterdir()):
            raise ConfigurationError(
                f"{root} exists and was not made by a demo; choose another folder with --out"
            )
        shutil.rmtree(root)
    root.mkdir(parents=True)
    (root / MARKER).write_text("made by `secure-fedfm demo`; the next demo replaces it\n")


def _load(options: DemoOptions) -> TrainTest:
    if options.data is None:
        return demo_corpus()
    return load_data(
        options.data, text_column=options.text_column, label_column=options.label_column
    )


def _recipe(options: DemoOptions, rows: int) -> Recipe:
    if options.privacy == "local":
        return private_recipe(options.rounds)
    if options.privacy == "shared-noise":
        return shared_noise_recipe(options.rounds)
    recipe = recipe_for(rows, options.rounds)
    if options.robust or options.attackers:
        return replace(recipe, adapter=sketchable(recipe.adapter))
    return recipe


def _privacy(
    options: DemoOptions, recipe: Recipe, rows: int
) -> PrivacySections | SharedNoiseRequest:
    # What anybody may know: so many rows were split among so many institutions.
    each = max(1, rows // options.clients)
    if options.privacy == "local":
        return local_privacy(
            epsilon=options.epsilon,
            rounds=recipe.rounds,
            expected_rows=each,
            head_rounds=recipe.rounds - 1,
        )
    if options.privacy == "shared-noise":
        return SharedNoiseRequest(epsilon=options.epsilon, rounds=recipe.rounds, expected_rows=each)
    if options.privacy == "client":
        return client_privacy(epsilon=options.epsilon, rounds=recipe.rounds, clip=CLIENT_CLIP)
    return PrivacySections()


def _split(train: Dataset, options: DemoOptions) -> Sequence[Dataset]:
    if options.split == "dirichlet":
        return dirichlet_split(train, options.clients, options.alpha, options.seed)
    return iid_split(train, options.clients, options.seed)


def _optimiser(
    options: DemoOptions, recipe: Recipe, privacy: PrivacySections | SharedNoiseRequest | None
) -> OptimiserSpec:
    """As `charter new` drafts it: votes where a validator judges and nobody adds noise."""
    if isinstance(privacy, SharedNoiseRequest):
        return privacy.optimiser(options.clients)
    if options.robust and options.privacy == "none":
        return votes_for(recipe.plan, recipe.rounds)
    return recipe.server


def _write_coordinator(site: Site, enrolments: dict[str, Enrolment], options: DemoOptions) -> None:
    for name, enrolment in enrolments.items():
        site.write(site.enrolments_folder / f"{name}.json", enrolment.statement)
    site.write(
        site.config_file,
        _toml(
            {
                "role": "coordinator",
                "name": COORDINATOR,
                "bind": "tcp://127.0.0.1:0",
                "log_format": "json",
            },
            options,
        )
        + (b"\n[archive]\nenabled = true\n" if options.archive else b""),
    )


def _write_validator(site: Site, options: DemoOptions, charter: Charter) -> None:
    fields: dict[str, str | int | float] = {
        "role": "validator",
        "name": VALIDATOR,
        "connect_timeout": 300.0,
        "log_format": "json",
    }
    site.write(site.config_file, _toml(fields, options, charter_hash=charter.hash.hex()))


def _write_client(
    site: Site, name: str, rows: Dataset, options: DemoOptions, charter: Charter
) -> None:
    data = site.root / "data.csv"
    with data.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label"))
        writer.writerows(zip(rows.texts, rows.labels, strict=True))
    site.write(
        site.config_file,
        _toml(
            {
                "role": "client",
                "name": name,
                "data": "data.csv",
                "threads": 1,
                "connect_timeout": 300.0,
                "log_format": "json",
            },
            options,
            charter_hash=charter.hash.hex(),
        ),
    )


def _toml(fields: dict[str, str | int | float], options: DemoOptions, **policy: str) -> bytes:
    """A site.toml of plain keys and a policy table; values here need no escaping."""

    def line(key: str, value: str | float) -> str:
        return f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}"

    lines = [line(key, value) for key, value in fields.items()]
    lines += ["", "[policy]", f'suites = ["{options.suite}"]']
    lines += [f'privacy_modes = ["{options.privacy}"]']
    lines += [line(key, value) for key, value in policy.items()]
    return ("\n".join(lines) + "\n").encode()
