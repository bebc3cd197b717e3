"""What must hold of every federation in privacy mode ``shared-noise``, whatever died in it."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable

from fedfm_audit.bundle import read_bundle
from fedfm_audit.privacy.entries import PrivacyPredicate
from fedfm_audit.privacy.events import (
    AbortedRound,
    CompletedSession,
    DiscreteGaussianSteps,
    SkellamSteps,
)
from fedfm_audit.privacy.shared_noise import SharedSteps
from fedfm_audit.report import Status
from fedfm_audit.verify import verify_bundle
from fedfm_crypto.codec import decode
from fedfm_protocols.messages import Cohort
from tests.integration.federation_processes import TestFederation


def charges_of(entries: Iterable[PrivacyPredicate]) -> dict[int, SharedSteps]:
    """Round -> what was charged for it; each round once."""
    charged: dict[int, SharedSteps] = {}
    for entry in entries:
        if isinstance(entry.event, DiscreteGaussianSteps | SkellamSteps):
            assert entry.round not in charged, f"round {entry.round} was charged twice"
            charged[entry.round] = entry.event
    return charged


def settlements_of(
    entries: Iterable[PrivacyPredicate],
) -> dict[int, AbortedRound | CompletedSession]:
    """Round -> what came of its charge."""
    listed = tuple(entries)
    rounds = {entry.sequence: entry.round for entry in listed}
    return {
        rounds[entry.event.charge]: entry.event
        for entry in listed
        if isinstance(entry.event, AbortedRound | CompletedSession)
    }


def check_spending(federation: TestFederation, name: str) -> list[tuple[int, int]]:
    """The charge of a session was on disk before its first training, and no step was trained
    twice, over all lives of a client (``record_spending``); returns what was trained."""
    trained: list[tuple[int, int]] = []
    charged: set[int] = set()
    for line in (federation.sites[name].root / "spending").read_text("ascii").splitlines():
        what, *numbers = line.split()
        if what == "charged":
            charged.add(int(numbers[0]))
        else:
            assert int(numbers[0]) in charged, f"{name} trained in round {numbers[0]} unpaid"
            trained.append((int(numbers[0]), int(numbers[1])))
    assert len(set(trained)) == len(trained), f"{name} trained a step twice"
    return trained


def check_secrets(federation: TestFederation, name: str) -> tuple[Counter[str], int]:
    """No secret was drawn twice, and no key or mask hides two vectors, over all lives of a client
    (``record_drawn``, ``record_protected``); returns how many of each kind were drawn, and how many
    keys and masks were used."""
    root = federation.sites[name].root
    drawn = (root / "drawn").read_text("ascii").splitlines()
    assert len(set(drawn)) == len(drawn), f"{name} drew a secret twice"
    used: list[str] = []
    if (root / "protected").exists():  # it has lived to see an upload
        used = [line.split()[1] for line in (root / "protected").read_text("ascii").splitlines()]
    assert len(set(used)) == len(used), f"{name} used a key or a mask twice"
    return Counter(line.split()[0] for line in drawn), len(used)


def check_evidence(federation: TestFederation) -> None:
    """The bundle verifies, with every institution's ledger, and ends in the clients' adapter."""
    assert len(federation.adapters()) == 1
    report = verify_bundle(federation.bundle, adapter=federation.sites["clinic-2"].export_folder)
    assert report.ok, report.to_text()
    assert report.steps[6].status is Status.VERIFIED
    assert f"{len(federation.clients)} institutions" in report.to_text()


def check_journals(federation: TestFederation) -> None:
    """Nobody opened a round twice, or journalled the same thing twice in a step."""
    for party in federation.sites:
        entries = federation.journal_of_steps(party)
        opened = [number for number, _, record in entries if record == "opened"]
        assert opened == sorted(set(opened)), party
        again = [entry for entry, times in Counter(entries).items() if times > 1]
        assert not again, (party, again)


def cohorts(federation: TestFederation, number: int) -> list[tuple[str, ...]]:
    """Whose updates are in the sum of each step of a round that came so far, as logged."""
    document = json.loads(read_bundle(federation.bundle)[f"transcripts/{number:06d}.json"])
    found = []
    for step in document["steps"]:
        bodies = [entry["body"] for entry in step if entry["type"] == "Cohort"]
        found += [decode(Cohort, base64.b64decode(body)).accepted for body in bodies]
    return found
