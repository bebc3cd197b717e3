"""SIGKILL at random moments: real processes, coordinator and clients alike, many runs.

Each run is a federation of four institutions that finishes six rounds although three to eight of
its processes are killed and started again, at moments drawn from the run's seed.  Then: no journal
opened a round twice, no key pair was offered twice, nobody sent two uploads or votes in a round,
everyone holds the same adapter, and the evidence verifies.

``make soak`` does :data:`RUNS` runs and goes on where it stopped (``.soak/kill-processes.jsonl``);
``SOAK_CASES`` sets another number.  None of it is in ``make test``: tests/integration kills at
every step there, one by one.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedfm_audit.verify import verify_bundle
from fedfm_crypto.envelope import Envelope
from fedfm_protocols.messages import KeyOffer, read_body
from secure_fedfm.learning.specs import ModelSpec
from tests.integration.federation_processes import (
    COORDINATOR,
    Exited,
    Launcher,
    TestFederation,
    build_federation,
)
from tests.soak.engine import FOLDER, generator, source_digest, wanted_cases

RUNS = 200
CLIENTS = 4
ROUNDS = 6
PROGRESS = FOLDER / "kill-processes.jsonl"
TIMEOUTS = {"connect": 5.0, "rejoin": 3.0, "cosignatures": 3.0}


@dataclass
class Killings:
    """Who is killed when: ``(seconds after the last death, party, seconds until it is back)``."""

    federation: TestFederation
    plan: list[tuple[float, str, float]]
    lives: Counter[str] = field(default_factory=Counter)
    back: list[tuple[float, str]] = field(default_factory=list)
    deaths: int = 0

    def start(self, party: str) -> None:
        """A (new) life; a coordinator's life records its traffic in a folder of its own."""
        self.lives[party] += 1
        faults = {}
        if party == COORDINATOR:
            folder = self.federation.sites[party].root / f"traffic-{self.lives[party]}"
            folder.mkdir()
            faults = {"record_traffic": str(folder)}
        self.federation.start(party, faults=faults)

    def run(self) -> None:
        """To the end of the federation."""
        for party in (COORDINATOR, *self.federation.clients):
            self.start(party)
        self.federation.wait_for(COORDINATOR, '"round-opened"')  # killing those who load is dull
        self.last = time.monotonic()
        self.federation.run_until(self._proceed, self._ended, seconds=90.0)

    def _proceed(self) -> bool:
        now, processes = time.monotonic(), self.federation.processes
        for entry in [e for e in self.back if e[0] <= now]:
            self.back.remove(entry)
            self.start(entry[1])
        if '"concluded"' in self.federation.log_of(COORDINATOR):
            self.plan.clear()
        if self.plan and now - self.last >= self.plan[0][0]:
            _, party, pause = self.plan.pop(0)
            self.last = now
            if processes[party].code is None and processes[party].poll() is None:
                processes[party].kill()
                self.deaths += 1
                self.back.append((now + pause, party))
        waiting = [name for name in self.federation.clients if processes[name].code != 0]
        if waiting and processes[COORDINATOR].code == 0:  # some were down when it concluded
            self.start(COORDINATOR)
        return not self.back and not waiting and processes[COORDINATOR].code == 0

    def _ended(self, ended: Exited) -> None:
        """By itself, for want of the others: an operator would start it again."""
        assert ended.code > 0, f"{ended}{self.federation.tail()}"
        assert self.lives[ended.party] < 12, self.federation.tail()
        now = time.monotonic()
        self.back.append((now + 0.5, ended.party))
        if "have cosigned the conclusion" in self.federation.log_of(ended.party):
            # Killed with cosignatures under way, whose signers are content and gone: it says to
            # start them again, and so we do.
            for name in self.federation.clients:
                if self.federation.processes[name].code == 0:
                    self.back.append((now, name))


def draw_plan(rng: random.Random, clients: tuple[str, ...]) -> list[tuple[float, str, float]]:
    """Three to eight deaths, the coordinator's one time in four.  A round takes a quarter of a
    second, a restart one or two."""
    plan = []
    for _ in range(rng.randrange(3, 9)):
        party = COORDINATOR if rng.random() < 0.25 else rng.choice(clients)
        plan.append((rng.uniform(0.0, 0.8), party, rng.uniform(0.0, 0.4)))
    return plan


def received(federation: TestFederation, kind: str) -> Iterator[Envelope]:
    """Every message of one type that any life of the coordinator received."""
    root = federation.sites[COORDINATOR].root
    for path in sorted(root.glob(f"traffic-*/*.from.*.{kind}")):
        yield Envelope.decode(path.read_bytes())


def check_journals(federation: TestFederation) -> None:
    """No round is opened twice, by anybody."""
    for party in federation.sites:
        rows = federation.journal(party)
        opened = [number for number, record, _ in rows if record == "opened"]
        assert opened == sorted(set(opened)), party
        records = Counter((number, record) for number, record, _ in rows)
        assert max(records.values()) == 1, (party, records)


def check_keys(federation: TestFederation) -> int:
    """No ephemeral key or commitment in two offers; returns how many offers there were."""
    owners: dict[bytes, bytes] = {}
    offers: set[bytes] = set()
    for envelope in received(federation, "KeyOffer"):
        offer, data = read_body(envelope, KeyOffer), envelope.encode()
        offers.add(data)
        keys = [offer.share_key, offer.nonce_commitment]
        keys += [key for step in offer.steps for key in (step.mask_key, step.seed_commitment)]
        for key in keys:
            assert owners.setdefault(key, data) == data, "a key pair was offered twice"
    return len(offers)


def check_said_once(federation: TestFederation) -> None:
    """One upload, one vote and one offer for each sender and context: resends are identical."""
    for kind in ("KeyOffer", "ShareBundle", "UploadHash", "Upload", "CohortVote", "RoundAck"):
        said: dict[tuple[str, bytes], bytes] = {}
        for envelope in received(federation, kind):
            place = (envelope.header.sender, envelope.header.context)
            assert said.setdefault(place, envelope.encode()) == envelope.encode(), (kind, place)


def one_run(number: int, root: Path, launcher: Launcher, model: ModelSpec) -> dict[str, object]:
    """A federation, its deaths, and all checks."""
    rng = generator(os.environ.get("SOAK_SEED", "1"), "kill-processes", number)
    started = time.monotonic()
    with build_federation(
        root, launcher, model, clients=CLIENTS, rounds=ROUNDS, timeouts=TIMEOUTS
    ) as federation:
        killings = Killings(federation, draw_plan(rng, federation.clients))
        killings.run()
        check_journals(federation)
        offers = check_keys(federation)
        assert offers >= ROUNDS * (CLIENTS - 1)
        check_said_once(federation)
        assert len(federation.adapters()) == 1
        report = verify_bundle(federation.bundle)
        assert report.ok, report.to_text()
        return {
            "run": number,
            "source": source_digest(),
            "seed": os.environ.get("SOAK_SEED", "1"),
            "deaths": killings.deaths,
            "outcomes": dict(Counter(federation.outcomes().values())),
            "offers": offers,
            "seconds": round(time.monotonic() - started, 1),
        }


def done_before() -> set[int]:
    """Runs that earlier sessions did with this seed and this source."""
    if not PROGRESS.exists():
        return set()
    entries = [json.loads(line) for line in PROGRESS.read_text("utf-8").splitlines()]
    wanted = (os.environ.get("SOAK_SEED", "1"), source_digest())
    return {entry["run"] for entry in entries if (entry["seed"], entry["source"]) == wanted}


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
@pytest.mark.xdist_group("kill-processes")
def test_killed_at_random_moments(
    tmp_path: Path, launcher: Launcher, tiny_model: ModelSpec
) -> None:
    done = done_before()
    until = time.monotonic() + float(os.environ.get("SOAK_SECONDS", "inf"))
    for number in range(wanted_cases(RUNS)):
        if number in done or time.monotonic() > until:
            continue
        entry = one_run(number, tmp_path / f"run-{number}", launcher, tiny_model)
        FOLDER.mkdir(exist_ok=True)
        with PROGRESS.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
