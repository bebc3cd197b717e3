"""Federations of real processes on loopback: built, started, killed, restarted and cleaned up.

::

    federation = build_federation(root, launcher, clients=5, rounds=3)
    with federation:
        federation.start_all()
        federation.run_to_end(on_exit=lambda party, code: federation.start(party))

Every wait is bounded, processes are ended by their pid only, and nothing outlives the launcher.
"""

from __future__ import annotations

import csv
import json
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from fedfm_audit.log import Log
from fedfm_audit.privacy.entries import PrivacyPredicate
from fedfm_audit.statements import RoundPredicate, open_leaf
from fedfm_crypto.codec import decode
from fedfm_protocols.charter import Charter
from fedfm_protocols.enrolment import Role
from fedfm_protocols.key_ring import KeyRing
from secure_fedfm.demo.marks import collect_leaves
from secure_fedfm.enrolling import enrol, make_keys
from secure_fedfm.founding import draft_charter, sign_by_founders
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.server_optimiser import OptimiserSpec, ServerOptimiserSpec
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.weights import pin_model
from secure_fedfm.privacy.recipe import PrivacySections, SharedNoiseRequest
from secure_fedfm.robust.drafting import RobustRequest
from secure_fedfm.storage.ledger import read_ledger_leaves
from secure_fedfm.storage.site import Site
from secure_fedfm.watermark.planning import MarksOffer
from tests.integration.forked_processes import WAIT_SECONDS, Exited, Faults, Launcher, Process
from tests.secure_fedfm.learning.conftest import WORDS, _save_tokenizer

COORDINATOR = "coordinator"
VALIDATOR = "validator"
LABELS = ("balance-inquiry-label", "lost-card-label", "late-payment-label")


@dataclass
class TestFederation:
    """Site folders, and the processes that run on them.  A context manager: it ends them all."""

    __test__ = False
    root: Path
    launcher: Launcher
    charter: Charter
    sites: dict[str, Site]
    endpoint: str
    processes: dict[str, Process] = field(default_factory=dict)

    def __enter__(self) -> TestFederation:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()

    @property
    def clients(self) -> tuple[str, ...]:
        """Names of the clients."""
        return self.charter.clients

    @property
    def bundle(self) -> Path:
        """The evidence bundle, once the federation is concluded."""
        return self.sites[COORDINATOR].bundle_folder

    def start(
        self, party: str, *, faults: Faults | None = None, flags: tuple[str, ...] = ()
    ) -> None:
        """Start (or restart) one party with the command that an institution would type."""
        verb = party if party in (COORDINATOR, VALIDATOR) else "client"
        arguments = [verb, "--site", str(self.sites[party].root), *flags]
        log = self.sites[party].root / "log.jsonl"
        self.processes[party] = self.launcher.start(party, arguments, log, faults or {})

    def start_all(self, faults: Mapping[str, Faults] | None = None) -> None:
        """The coordinator, the validator if there is one, then every client."""
        judges = [name for name in self.sites if name == VALIDATOR]
        for party in (COORDINATOR, *judges, *self.clients):
            self.start(party, faults=(faults or {}).get(party))

    def exits(self) -> Iterator[Exited]:
        """Processes that have ended since the last look."""
        for party, process in list(self.processes.items()):
            if process.code is None and process.poll() is not None:
                assert process.code is not None
                yield Exited(party, process.code)

    def run_to_end(
        self, on_exit: Callable[[Exited], None] | None = None, seconds: float = 2 * WAIT_SECONDS
    ) -> None:
        """Until every process has ended with code 0; other exits go to ``on_exit`` first, which
        may start the party again.  ``seconds`` bounds the silence between two log lines."""
        self.run_until(
            lambda: all(process.code == 0 for process in self.processes.values()), on_exit, seconds
        )

    def run_until(
        self,
        done: Callable[[], bool],
        on_exit: Callable[[Exited], None] | None = None,
        seconds: float = WAIT_SECONDS,
    ) -> None:
        """Until ``done()``, or fail once nothing was logged for ``seconds``."""
        last, size = time.monotonic(), -1
        while True:
            for ended in self.exits():
                if ended.code == 0:
                    continue
                if on_exit is None:
                    raise AssertionError(f"{ended.party} ended with {ended.code}{self.tail()}")
                on_exit(ended)
            if done():
                return
            found = sum(path.stat().st_size for path in self.root.glob("*/log.jsonl"))
            if found != size:
                last, size = time.monotonic(), found
            if time.monotonic() - last > seconds:
                raise AssertionError(f"nothing happened for {seconds} s{self.tail()}")
            time.sleep(0.02)

    def log_of(self, party: str) -> str:
        """All that a party has logged, over all its lives."""
        path = self.sites[party].root / "log.jsonl"
        return path.read_text("utf-8") if path.exists() else ""

    def events(self, party: str, kind: str | None = None) -> list[dict[str, Any]]:
        """A party's log, parsed; only lines of one ``kind`` if given."""
        found = []
        for line in self.log_of(party).splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # the line that an error ends a process with is for people
            if kind is None or event.get("kind") == kind:
                found.append(event)
        return found

    def outcomes(self) -> dict[int, str]:
        """Round -> outcome, as the coordinator logged it."""
        return {
            event["round"]: event["outcome"] for event in self.events(COORDINATOR, "round-ended")
        }

    def wait_for(self, party: str, text: str, seconds: float = WAIT_SECONDS) -> None:
        """Until a party has logged ``text``."""
        self.run_until(lambda: text in self.log_of(party), lambda _: None, seconds)

    def tail(self) -> str:
        """The end of every log, for a failure's message."""
        return "".join(
            f"\n--- {party}\n" + "\n".join(self.log_of(party).splitlines()[-12:])
            for party in self.sites
        )

    def journal(self, party: str) -> list[tuple[int, str, bytes]]:
        """Rows (round, record, value) of a stopped party's journal, in the order written."""
        file = self.sites[party].root / "state.sqlite"
        connection = sqlite3.connect(file)
        try:
            rows = connection.execute("SELECT round, record, value FROM journal ORDER BY id")
            return [(number, record, bytes(value)) for number, record, value in rows]
        finally:
            connection.close()

    def journal_of_steps(self, party: str) -> list[tuple[int, int, str]]:
        """Rows (round, step, record) of a stopped party's journal, in the order written."""
        connection = sqlite3.connect(self.sites[party].root / "state.sqlite")
        try:
            return list(connection.execute("SELECT round, step, record FROM journal ORDER BY id"))
        finally:
            connection.close()

    def ledger(self, party: str) -> list[PrivacyPredicate]:
        """Entries of a stopped client's privacy ledger; every signature is checked."""
        state = self.sites[party].root / "state.sqlite"
        key = self.charter.identities()[party]
        found = []
        for leaf in read_ledger_leaves(f"{state.as_uri()}?mode=ro"):
            predicate = open_leaf(leaf, {key.hex: key}).statement.predicate
            assert isinstance(predicate, PrivacyPredicate)
            found.append(predicate)
        return found

    def statements(self) -> dict[int, RoundPredicate]:
        """Round -> what the log says about it; each round once."""
        keys = {key.hex: key for key in self.charter.identities().values()}
        log = Log.open(self.sites[COORDINATOR].log_folder, self.charter.log.origin)
        try:
            predicates = [open_leaf(leaf, keys).statement.predicate for leaf in log.leaves]
        finally:
            log.close()
        rounds = [found for found in predicates if isinstance(found, RoundPredicate)]
        assert len({found.round for found in rounds}) == len(rounds)
        return {found.round: found for found in rounds}

    def adapters(self) -> set[bytes]:
        """The exported adapter of every client: tensors of adapter and head."""
        return {
            b"".join(
                path.read_bytes()
                for path in sorted(self.sites[name].export_folder.glob("*.safetensors"))
            )
            for name in self.clients
        }


def key_ring(federation: TestFederation, name: str) -> KeyRing:
    """The collective keys on a stopped client's disk."""
    database = federation.sites[name].database()
    try:
        return decode(KeyRing, database.recall("key-ring") or b"")
    finally:
        database.close()


def forget(site: Site) -> None:
    """What is left of a client whose disk was lost: keys, configuration, charter and rows, as an
    institution backs them up."""
    for path in site.root.glob("state.sqlite*"):
        path.unlink()
    shutil.rmtree(site.adapter_folder, ignore_errors=True)


# ---------------------------------------------------------------- building


def save_tiny_model(folder: Path, *, hidden: int = 32, blocks: int = 2) -> ModelSpec:
    """A random BERT with a tokenizer of twenty words."""
    folder.mkdir(parents=True)
    config = transformers.BertConfig(
        vocab_size=_save_tokenizer(folder),
        hidden_size=hidden,
        num_hidden_layers=blocks,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        transformers.BertModel(config).save_pretrained(folder)
    return pin_model(str(folder))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def build_federation(
    root: Path,
    launcher: Launcher,
    model: ModelSpec,
    *,
    clients: int,
    rounds: int,
    rank: int = 4,
    adapter: AdapterSpec | None = None,
    suite: str = "layered",
    privacy: PrivacySections | SharedNoiseRequest | None = None,
    timeouts: Mapping[str, float] | None = None,
    rule: Mapping[str, Any] | None = None,
    optimiser: OptimiserSpec | None = None,
    marks: Callable[[dict[str, Site], Sequence[str]], MarksOffer] | None = None,
) -> TestFederation:
    """Make every party's site folder, with keys, enrolments and a charter that all have signed.

    Clients hold different numbers of rows, so that a count that leaks would show.  In a suite with
    encryption round 1 makes the collective key, which ``rounds`` does not count.  ``adapter`` goes
    before ``rank``; privacy mode ``shared-noise`` takes a request, calibrated here.  With a
    ``rule`` (arguments of RobustRequest) there is a validator too; ``marks`` has clients commit to
    ownership marks.
    """
    names = [f"clinic-{number}" for number in range(1, clients + 1)]
    others = (COORDINATOR,) if rule is None else (COORDINATOR, VALIDATOR)
    sites = {name: Site(root / name) for name in (*others, *names)}
    enrolments = {}
    for name, site in sites.items():
        role = role_of(name)
        make_keys(site, role)
        enrolments[name] = enrol(site, role, name)
    charter = draft_charter(
        federation="test-federation",
        coordinator=enrolments[COORDINATOR],
        clients=[enrolments[name] for name in names],
        log_public=sites[COORDINATOR].log_key().public,
        model=model,
        adapter=adapter or AdapterSpec(rank=rank, alpha=rank),
        task=TaskSpec("classification", tuple(sorted(LABELS))),
        plan=TrainingPlan(epochs=1, batch_size=8, schedule="constant"),
        server_optimiser=privacy.optimiser(clients)
        if isinstance(privacy, SharedNoiseRequest)
        else optimiser or ServerOptimiserSpec(),
        rounds=rounds,
        suite=suite,
        privacy=privacy,
        robust=None if rule is None else RobustRequest(enrolments[VALIDATOR], **rule),
        marks=None if marks is None else marks(sites, names),
    )
    collect_leaves(charter, sites, sites[COORDINATOR])
    signed = sign_by_founders(charter, sites)
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    for number, (name, site) in enumerate(sites.items()):
        site.write(site.charter_file, signed)
        if name == COORDINATOR:
            for other, made in enrolments.items():
                site.write(site.enrolments_folder / f"{other}.json", made.statement)
        elif name != VALIDATOR:
            write_rows(site.root / "data.csv", rows_of(number))
        # A site's default policy takes no other suite than the default one.
        write_config(
            site,
            name,
            endpoint,
            timeouts or {},
            suites=json.dumps([suite]),
            privacy_modes=json.dumps([charter.privacy.mode]),
        )
    return TestFederation(root, launcher, charter, sites, endpoint)


def role_of(name: str) -> Role:
    """The role of a party of a test federation."""
    if name == COORDINATOR:
        return "coordinator"
    return "validator" if name == VALIDATOR else "client"


def write_config(
    site: Site, name: str, endpoint: str, timeouts: Mapping[str, float], **policy: str
) -> None:
    """A site.toml for a test: JSON logs, one thread."""
    coordinates = name == COORDINATOR
    lines = [
        f'role = "{role_of(name)}"',
        f'name = "{name}"',
        'log_format = "json"',
        *([f'bind = "{endpoint}"'] if coordinates else [f'coordinator = "{endpoint}"']),
    ]
    if not coordinates:
        lines += [f"connect_timeout = {WAIT_SECONDS}"]
    if role_of(name) == "client":
        lines += ['data = "data.csv"', "threads = 1"]
    lines += ["[policy]", *(f"{key} = {value}" for key, value in policy.items())]
    if coordinates:
        lines += ["[timeouts]", *(f"{phase} = {s}" for phase, s in timeouts.items())]
    site.write(site.config_file, ("\n".join(lines) + "\n").encode())


def rows_of(number: int) -> list[tuple[str, str]]:
    """Rows of client ``number``: 6 more than the client before it has."""
    texts = ("my money where", "card lost help me", "bill late pay")
    return [
        (f"{texts[i % 3]} {WORDS[(i * 7 + number) % len(WORDS)]}", LABELS[i % 3])
        for i in range(6 + 6 * number)
    ]


def write_rows(
    file: Path, rows: list[tuple[str, str]], header: tuple[str, ...] = ("text", "label")
) -> None:
    """A CSV file."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
