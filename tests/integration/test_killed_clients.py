"""SIGKILL at every step of the protocol: the round goes on without the dead, who come back.

One federation, one round per step; in each round another client dies, is restarted at once,
catches up and takes part again.  The first rounds make the collective key, as often as somebody
dies before it has it.  ``make test`` takes a sample of the steps, ``make soak`` all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedfm_audit.bundle import read_bundle
from fedfm_audit.verify import verify_bundle
from secure_fedfm.learning.specs import ModelSpec
from tests.conftest import REPOSITORY
from tests.integration.federation_processes import (
    COORDINATOR,
    TestFederation,
    build_federation,
    forget,
    key_ring,
)
from tests.integration.forked_processes import Exited, Launcher

CLIENTS = 5
KILLED = -9
ASKED = "whoever is asked first"


@dataclass(frozen=True)
class Death:
    """Who dies where in a round."""

    victim: str
    effect: str
    when: str


def clinic(number: int) -> str:
    return f"clinic-{(number - 1) % CLIENTS + 1}"


# One entry a round, in the order in which they are opened.  The point after a record is the point
# before the message that follows it, and is there once.
KEY_ROUNDS = (
    Death(clinic(1), "KeyDealing", "before"),
    Death(clinic(2), "KeyDealing", "after"),  # round 2 is there because of clinic 1, and so on
    Death(clinic(3), "Persist keyed", "before"),
    Death(clinic(4), "RoundAck", "before"),  # has stored the key, which is in force without it
)
ALL_EFFECTS = (
    ("Persist opened", "before"),
    ("KeyOffer", "before"),
    ("KeyOffer", "after"),
    ("ShareBundle", "before"),
    ("ShareBundle", "after"),
    ("UploadHash", "before"),
    ("UploadHash", "after"),
    ("WrappedKey", "before"),
    ("WrappedKey", "after"),
    ("Upload", "after"),
    ("CohortVote", "before"),
    ("CohortVote", "after"),
    ("Unmask", "before"),
    ("Unmask", "after"),
    ("Persist decrypting", "before"),
    ("KeyOpening", "before"),
    ("KeyOpening", "after"),
    ("RoundAck", "before"),
    ("RoundAck", "after"),
)
SAMPLE = (0, 4, 7, 9, 13, 14, 15, 18)
ALL_DEATHS = "SOAK_ALL_DEATHS"  # an environment variable: not the sample, all of them
EFFECTS = ALL_EFFECTS if os.environ.get(ALL_DEATHS) else tuple(ALL_EFFECTS[i] for i in SAMPLE)
OPENING = ("Persist decrypting", "KeyOpening")
FIRST_SUM = len(KEY_ROUNDS) + 1
DEATHS = {
    **dict(enumerate(KEY_ROUNDS, start=1)),
    **{
        number: Death(ASKED if effect in OPENING else clinic(number), effect, when)
        for number, (effect, when) in enumerate(EFFECTS, start=FIRST_SUM)
    },
}
# After the steps: one that forgets all, and is in the last sum because a key is made for it, in
# whose round another one dies; one that is back while its round still runs; two dead in one round.
FORGETS = FIRST_SUM + len(EFFECTS)
DEATHS[FORGETS] = Death(clinic(5), "Upload", "after")
FOR_THE_FORGETFUL = FORGETS + 1
DEATHS[FOR_THE_FORGETFUL] = Death(clinic(4), "RoundAck", "after")
BACK_EARLY = FOR_THE_FORGETFUL + 1
DEATHS[BACK_EARLY] = Death(clinic(1), "ShareBundle", "after")
SLOW = clinic(2)  # in that round
TWO_DEAD = BACK_EARLY + 1
LAST = TWO_DEAD + 1
MAKE_KEYS = {*range(1, FIRST_SUM), FOR_THE_FORGETFUL}
SUMS = set(range(1, LAST + 1)) - MAKE_KEYS - {TWO_DEAD}


def planned_deaths(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Client -> its deaths."""
    plan: dict[str, list[dict[str, Any]]] = {clinic(n): [] for n in range(1, CLIENTS + 1)}
    for number, death in DEATHS.items():
        place = {"round": number, "effect": death.effect, "when": death.when}
        if death.victim == ASKED:
            for deaths in plan.values():
                deaths.append({**place, "once": str(root / f"died-in-{number}")})
        else:
            plan[death.victim].append(place)
    plan[clinic(1)].append({"round": TWO_DEAD, "effect": "ShareBundle", "when": "after"})
    plan[clinic(2)].append({"round": TWO_DEAD, "effect": "UploadHash", "when": "before"})
    return plan


class Killed:
    """The federation's whole run, and who died when."""

    def __init__(self, federation: TestFederation) -> None:
        self.federation = federation
        self.plan = planned_deaths(federation.root)
        self.deaths: Counter[str] = Counter()

    def faults(self, party: str) -> dict[str, Any]:
        site = self.federation.sites[party].root
        if party == COORDINATOR:
            return {"record_received": str(site / "received")}
        # Rounds only go up, and nobody dies twice in one.
        past = max((n for n, record, _ in self.journal(party) if record == "opened"), default=0)
        due = [death for death in self.plan[party] if death["round"] > past]
        slow = {str(BACK_EARLY): 6.0} if party == SLOW else {}
        return {"client_dies": due, "train_slowly": slow, "record_drawn": str(site / "drawn")}

    def journal(self, party: str) -> list[tuple[int, str, bytes]]:
        file = self.federation.sites[party].root / "state.sqlite"
        return self.federation.journal(party) if file.exists() else []

    def bury(self, ended: Exited) -> None:
        assert ended.code == KILLED, f"{ended}{self.federation.tail()}"
        self.deaths[ended.party] += 1
        faults = self.faults(ended.party)
        opened = [n for n, record, _ in self.journal(ended.party) if record == "opened"]
        if opened and opened[-1] == FORGETS and ended.party == DEATHS[FORGETS].victim:
            forget(self.federation.sites[ended.party])
        self.federation.start(ended.party, faults=faults)

    def run(self) -> None:
        for party in (COORDINATOR, *self.federation.clients):
            self.federation.start(party, faults=self.faults(party))
        self.federation.run_to_end(self.bury)


@pytest.fixture(scope="module")
def killed(
    tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, tiny_model: ModelSpec
) -> Killed:
    root = tmp_path_factory.mktemp("killed")
    federation = build_federation(
        root, launcher, tiny_model, clients=CLIENTS, rounds=len(SUMS), timeouts={"rejoin": 60.0}
    )
    with federation:
        run = Killed(federation)
        run.run()
        return run


pytestmark = pytest.mark.slow


def test_everyone_planned_died(killed: Killed) -> None:
    assert sum(killed.deaths.values()) == len(DEATHS) + 2
    for name in killed.federation.clients:
        own = [death for death in killed.plan[name] if "once" not in death]
        assert len(own) <= killed.deaths[name] <= len(killed.plan[name])


def test_each_round_completes_without_the_dead(killed: Killed) -> None:
    outcomes = killed.federation.outcomes()
    assert outcomes == {
        **dict.fromkeys(range(1, LAST + 1), "completed"),
        TWO_DEAD: "aborted",
    }


def test_a_key_is_made_for_whoever_missed_it_or_lost_it_and_for_nobody_else(killed: Killed) -> None:
    events = killed.federation.events(COORDINATOR, "round-ended")
    assert {event["round"] for event in events if event["makes_key"]} == MAKE_KEYS


def test_a_death_before_the_upload_costs_the_update_and_a_later_one_does_not(
    killed: Killed,
) -> None:
    accepted = {
        event["round"]: int(event["event"].split(" with ")[1].split()[0])
        for event in killed.federation.events(COORDINATOR, "round-ended")
    }
    for number, (effect, when) in enumerate(EFFECTS, start=FIRST_SUM):
        lost = EFFECTS.index((effect, when)) < EFFECTS.index(("Upload", "after"))
        assert accepted[number] == (CLIENTS - 1 if lost else CLIENTS), (effect, when)
    assert accepted[FORGETS] == accepted[LAST] == CLIENTS


def test_who_is_killed_when_asked_is_replaced_once(killed: Killed) -> None:
    """Two of five open a sum; if one of them dies before it answers, two others do."""
    transcripts = read_bundle(killed.federation.bundle)
    for number, (effect, when) in enumerate(EFFECTS, start=FIRST_SUM):
        text = transcripts[f"transcripts/{number:06d}.json"].decode()
        requests, openings = (
            text.count(f'"type":"{kind}"') for kind in ("KeyRequest", "KeyOpening")
        )
        if (effect, when) in (("Persist decrypting", "before"), ("KeyOpening", "before")):
            assert (requests, openings) == (2, 3), (effect, when)
        elif EFFECTS.index((effect, when)) < EFFECTS.index(("Unmask", "after")):
            assert (requests, openings) == (1, 2), (effect, when)


def test_a_client_back_within_its_round_does_not_hold_it_up(killed: Killed) -> None:
    """It is told once what it cannot take, and the round ends when the slowest has trained."""
    federation = killed.federation
    back = federation.log_of(DEATHS[BACK_EARLY].victim)
    assert back.count(f"round {BACK_EARLY} was opened before") <= 1
    assert federation.outcomes()[BACK_EARLY] == "completed"


def test_all_hold_the_same_adapter_and_the_evidence_verifies(killed: Killed) -> None:
    assert len(killed.federation.adapters()) == 1
    report = verify_bundle(
        killed.federation.bundle, adapter=killed.federation.sites["clinic-3"].export_folder
    )
    assert report.ok, report.to_text()


def test_no_client_opened_voted_or_decrypted_twice(killed: Killed) -> None:
    for name in killed.federation.clients:
        journal = killed.federation.journal(name)
        records = Counter((number, record) for number, record, _ in journal)
        assert {"opened", "voted", "unmasked", "keyed"} <= {record for _, record, _ in journal}
        assert max(records.values()) == 1
        opened = [number for number, record, _ in journal if record == "opened"]
        assert opened == sorted(set(opened))


def test_what_was_sent_is_sent_again_byte_for_byte_or_never(killed: Killed) -> None:
    """One story of each client in each place of each round, over all its lives."""
    lines = (killed.federation.sites[COORDINATOR].root / "received").read_text("ascii").splitlines()
    told: dict[str, set[str]] = {}
    for line in lines:
        place, _, digest = line.rpartition(" ")
        told.setdefault(place, set()).add(digest)
    kinds = {place.split()[2] for place in told}
    assert {"KeyDealing", "WrappedKey", "Upload", "KeyOpening", "Unmask"} <= kinds
    assert [place for place, digests in told.items() if len(digests) > 1] == []


def test_no_secret_is_drawn_twice(killed: Killed) -> None:
    """Nothing comes back after a restart: share and mask keys, seeds, nonces, keys of uploads,
    parts of collective keys."""
    drawn = [
        line
        for name in killed.federation.clients
        for line in (killed.federation.sites[name].root / "drawn").read_text("ascii").splitlines()
    ]
    kinds = Counter(line.split()[0] for line in drawn)
    assert set(kinds) == {"share-key", "mask-key", "seed", "nonce", "bulk-key", "contribution"}
    assert kinds["contribution"] == CLIENTS * len(MAKE_KEYS)
    assert kinds["bulk-key"] > (CLIENTS - 1) * len(SUMS)
    assert len(set(drawn)) == len(drawn)


def test_the_restarted_caught_up(killed: Killed) -> None:
    """The one that forgot everything repeats every sum, with group keys that others passed on."""
    for name in killed.federation.clients:
        assert killed.federation.events(name, "caught-up")
    forgetful = killed.federation.events(DEATHS[FORGETS].victim, "caught-up")
    repeated = {event["event"] for event in forgetful[-len(EFFECTS) - 3 :]}
    assert {f"caught up with round {n}" for n in range(FIRST_SUM, FORGETS + 1)} <= repeated


def test_all_end_with_shares_of_one_key(killed: Killed) -> None:
    rings = {name: key_ring(killed.federation, name) for name in killed.federation.clients}
    keys = [ring.current for ring in rings.values() if ring.current is not None]
    assert len(keys) == CLIENTS
    assert {key.epoch for key in keys} == {FOR_THE_FORGETFUL}
    assert len({(key.key_hash, key.public_key, key.group) for key in keys}) == 1
    assert len({key.share for key in keys}) == CLIENTS
    earlier = {ring.group_keys(FIRST_SUM - 1) for ring in rings.values()}
    assert len(earlier) == 1, "the group key of the epoch before is the same for all"


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_at_every_step() -> None:
    """This file again, with all deaths."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "not soak",
            __file__,
        ],
        cwd=REPOSITORY,
        env={**os.environ, ALL_DEATHS: "1"},
        check=True,
    )
