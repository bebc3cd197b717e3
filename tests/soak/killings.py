"""Who is killed when in a federation of real processes, and back when."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.integration.federation_processes import COORDINATOR, TestFederation
from tests.integration.forked_processes import Exited

KILLED = -9
LIVES = 12  # more, and something is wrong that is no killing

# What a client may be about to do, or may just have done: once in a session, and in every step.
IN_SETUP = ("Persist opened", "KeyOffer", "ShareBundle", "Charge")
IN_STEPS = (
    *("Train", "UploadHash", "WrappedKey", "Upload", "CohortVote", "Unmask"),
    *("Persist decrypting", "KeyOpening", "ApplySum", "RoundAck"),
)
AT_THE_END = ("RoundEnded", "Persist closed")
# Where the coordinator may be.
PHASES = ("training", "uploads", "votes", "unmasking", "decryption")
MOMENTS = ("opened", "offers", "shares", "before-log", "logged")


@dataclass(frozen=True, slots=True)
class Plan:
    """Deaths by time, ``(seconds after the last one, party)``, and by place (tests/integration/
    faults.py), party -> places; whoever has died is back after one of ``pauses`` seconds."""

    by_time: list[tuple[float, str]]
    by_place: dict[str, list[dict[str, Any]]]
    pauses: list[float]


def draw_times(rng: random.Random, clients: tuple[str, ...], *, count: int, within: float) -> Plan:
    """``count`` deaths by time, the coordinator's one time in four."""
    by_time = []
    for _ in range(count):
        party = COORDINATOR if rng.random() < 0.25 else rng.choice(clients)
        by_time.append((rng.uniform(0.0, within), party))
    return Plan(by_time, {}, [rng.uniform(0.0, 0.4) for _ in range(64)])


def draw_places(rng: random.Random, clients: tuple[str, ...], *, rounds: range, steps: int) -> Plan:
    """One to four deaths, two of three at a random effect of a random step in one of ``rounds``."""
    by_time: list[tuple[float, str]] = []
    by_place: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rng.randrange(1, 5)):
        party = COORDINATOR if rng.random() < 0.25 else rng.choice(clients)
        if rng.random() < 1 / 3:
            by_time.append((rng.uniform(0.0, 3.0), party))
            continue
        # The first rounds are those that there will be whatever happens.
        place: dict[str, Any] = {"round": min(rng.choice(rounds), rng.choice(rounds))}
        if party == COORDINATOR:
            place |= _moment(rng, steps)
        else:
            place |= _effect(rng, steps)
        by_place.setdefault(party, []).append(place)
    return Plan(by_time, by_place, [rng.uniform(0.0, 3.0) for _ in range(64)])


def _effect(rng: random.Random, steps: int) -> dict[str, Any]:
    step = rng.randrange(steps)
    kinds: tuple[str, ...] = IN_STEPS if rng.random() < 0.8 else IN_SETUP
    if step == steps - 1 and rng.random() < 0.3:
        kinds = AT_THE_END
    effect = rng.choice(kinds)
    when = rng.choice(("before", "after"))
    if effect in (*IN_SETUP, "RoundEnded"):  # these are the round's
        step = 0
    return {"step": step, "effect": effect, "when": when}


def _moment(rng: random.Random, steps: int) -> dict[str, Any]:
    if rng.random() < 0.3:
        return {"at": rng.choice(MOMENTS), "step": 0}
    step = rng.randrange(steps)
    last = ("acknowledgements",) if step == steps - 1 else ()
    return {"at": rng.choice(PHASES + last), "step": step}


@dataclass
class Killings:
    """A federation that is run to its end although its processes are killed.

    ``recorded``: clients also write what they draw, protect and spend (tests/integration/
    session_checks.py reads it).
    """

    federation: TestFederation
    plan: Plan
    recorded: bool = False
    lives: Counter[str] = field(default_factory=Counter)
    back: list[tuple[float, str]] = field(default_factory=list)
    deaths: Counter[str] = field(default_factory=Counter)

    def start(self, party: str) -> None:
        """A (new) life; a coordinator's life records its traffic in a folder of its own."""
        self.lives[party] += 1
        root = self.federation.sites[party].root
        faults: dict[str, Any] = {}
        due = self._due(party)
        if party == COORDINATOR:
            folder = root / f"traffic-{self.lives[party]}"
            folder.mkdir()
            faults = {"record_traffic": str(folder)}
            if due:
                faults["coordinator_dies"] = due[0]
        else:
            if due:
                faults["client_dies"] = due
            if self.recorded:
                for what in ("drawn", "protected", "spending"):
                    faults[f"record_{what}"] = str(root / what)
        self.federation.start(party, faults=faults)

    def _due(self, party: str) -> list[dict[str, Any]]:
        """Places where a party has not been: rounds only go up, and nobody comes back into one."""
        root = self.federation.sites[party].root
        planned = [
            {**place, "once": str(root / f"death-{number}")}
            for number, place in enumerate(self.plan.by_place.get(party, []))
        ]
        if not planned or not (root / "state.sqlite").exists():
            return planned
        opened = [n for n, _, what in self.federation.journal_of_steps(party) if what == "opened"]
        past = max(opened, default=0)
        return sorted((d for d in planned if d["round"] > past), key=lambda d: int(d["round"]))

    def run(self) -> None:
        """To the end of the federation."""
        for party in (COORDINATOR, *self.federation.clients):
            self.start(party)
        self.federation.wait_for(COORDINATOR, '"round-opened"')  # killing those who load is dull
        self.last = time.monotonic()
        self.federation.run_until(self._proceed, self._ended, seconds=120.0)

    def _proceed(self) -> bool:
        now, processes = time.monotonic(), self.federation.processes
        for entry in [e for e in self.back if e[0] <= now]:
            self.back.remove(entry)
            self.start(entry[1])
        by_time = self.plan.by_time
        if '"concluded"' in self.federation.log_of(COORDINATOR):
            by_time.clear()
        if by_time and now - self.last >= by_time[0][0]:
            _, party = by_time.pop(0)
            self.last = now
            process = processes[party]
            if process.code is None and process.poll() is None:
                process.kill()
                self._bury(party)
            elif process.code and party not in {name for _, name in self.back}:
                self._ended(Exited(party, process.code))  # in this very moment
        waiting = [name for name in self.federation.clients if processes[name].code != 0]
        if waiting and processes[COORDINATOR].code == 0:  # some were down when it concluded
            self.start(COORDINATOR)
        return not self.back and not waiting and processes[COORDINATOR].code == 0

    def _bury(self, party: str) -> None:
        pause = self.plan.pauses[self.deaths.total() % len(self.plan.pauses)]
        self.deaths[party] += 1
        self.back.append((time.monotonic() + pause, party))

    def _ended(self, ended: Exited) -> None:
        """At a planned place; or by itself, for want of the others: an operator would start it
        again."""
        assert self.lives[ended.party] < LIVES, self.federation.tail()
        if ended.code == KILLED:
            self._bury(ended.party)
            return
        assert ended.code > 0, f"{ended}{self.federation.tail()}"
        now = time.monotonic()
        self.back.append((now + 0.5, ended.party))
        if "have cosigned the conclusion" in self.federation.log_of(ended.party):
            # Killed with cosignatures under way, whose signers are content and gone: it says to
            # start them again, and so we do.
            for name in self.federation.clients:
                if self.federation.processes[name].code == 0:
                    self.back.append((now, name))
