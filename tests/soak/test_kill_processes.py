"""SIGKILL at random moments: real processes, coordinator and clients alike, many runs.

Of rounds: a federation of four institutions finishes six although three to eight of its processes
are killed and started again, at moments drawn from the run's seed.  Then: no journal opened a round
twice, no key pair was offered twice, nobody sent two uploads or votes in a round, everyone holds
the same adapter, and the evidence verifies.

Of sessions (privacy mode ``shared-noise``): the same federation finishes two of six steps each,
while one to four processes die, most of them right before or after a random effect of a random
step.  Then also: no mask, seed or encryption key hid two vectors; every step that left a client is
covered by a charge in its ledger.

``make soak`` does :data:`RUNS` and :data:`SESSION_RUNS` runs and goes on where it stopped
(``.soak/kill-processes.jsonl``, ``.soak/kill-sessions.jsonl``); ``SOAK_CASES`` sets another number,
``SOAK_ONLY=17`` repeats one run.  ``make test`` does the first :data:`SESSION_SAMPLE` runs of
sessions; tests/integration kills at every step, one by one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedfm_audit.privacy.accountant import spent
from fedfm_audit.verify import verify_bundle
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError
from fedfm_protocols.messages import KeyOffer, RoundOpen, read_body
from secure_fedfm.learning.specs import ModelSpec
from tests.integration.federation_processes import COORDINATOR, TestFederation, build_federation
from tests.integration.forked_processes import Launcher
from tests.integration.session_checks import (
    charges_of,
    check_evidence,
    check_journals,
    check_secrets,
    check_spending,
)
from tests.integration.session_terms import CLIENTS, SOAKED, STEPS
from tests.soak.engine import FOLDER, generator, source_digest, wanted_cases
from tests.soak.killings import Killings, draw_places, draw_times

RUNS = 200
ROUNDS = 6
SESSION_RUNS = 50  # of two sessions that are completed, and those that are not
SESSION_SAMPLE = 1
DEATH_ROUNDS = range(2, 5)  # the first makes the collective key
PROGRESS = FOLDER / "kill-processes.jsonl"
SESSION_PROGRESS = FOLDER / "kill-sessions.jsonl"
TIMEOUTS = {"connect": 5.0, "rejoin": 3.0, "cosignatures": 3.0}
SAID_ONCE = (
    *("KeyOffer", "ShareBundle", "UploadHash", "WrappedKey", "Upload", "CohortVote", "Unmask"),
    "RoundAck",
)


def received(federation: TestFederation, kind: str) -> Iterator[Envelope]:
    """Every message of one type that any life of the coordinator received."""
    root = federation.sites[COORDINATOR].root
    for folder in sorted(root.glob("traffic-*")):
        files = sorted(folder.iterdir())
        for path in files:
            if not path.match(f"*.from.*.{kind}"):
                continue
            try:
                yield Envelope.decode(path.read_bytes())
            except CodecError:
                assert path == files[-1], path  # it died while it wrote this down


def check_keys(federation: TestFederation) -> int:
    """No ephemeral key or commitment twice, in another offer or for another step; returns how many
    offers there were."""
    owners: dict[bytes, tuple[bytes, int]] = {}
    offers: set[bytes] = set()
    for envelope in received(federation, "KeyOffer"):
        offer, data = read_body(envelope, KeyOffer), envelope.encode()
        offers.add(data)
        keys = [offer.share_key, offer.nonce_commitment]
        keys += [key for step in offer.steps for key in (step.mask_key, step.seed_commitment)]
        for place, key in enumerate(keys):
            owner = (data, place)
            assert owners.setdefault(key, owner) == owner, "a key pair was offered twice"
    return len(offers)


def check_said_once(federation: TestFederation) -> int:
    """One upload, one vote, one offer and so on for each sender, context and step: resends are
    identical.  And no protected update or wrapped key in two places: what hides them is fresh.
    Returns how many uploads there were."""
    places: dict[bytes, tuple[str, bytes, int]] = {}
    uploads = 0
    for kind in SAID_ONCE:
        said: dict[tuple[str, bytes, int], bytes] = {}
        for envelope in received(federation, kind):
            header = envelope.header
            place = (header.sender, header.context, header.step)
            assert said.setdefault(place, envelope.encode()) == envelope.encode(), (kind, place)
            if kind in ("WrappedKey", "Upload"):
                assert places.setdefault(header.body_hash, place) == place, (kind, place)
        uploads = len(said) if kind == "Upload" else uploads
    return uploads


def rounds_by_context(federation: TestFederation) -> dict[bytes, int]:
    """Context that a roster of keys fixed -> number of its round, from what any life of the
    coordinator sent."""
    found: dict[bytes, int] = {}
    for folder in sorted(federation.sites[COORDINATOR].root.glob("traffic-*")):
        number = 0
        for path in sorted(folder.glob("*.to.*")):
            kind = path.name.rpartition(".")[2]
            if kind in ("RoundOpen", "KeyRoster"):
                envelope = Envelope.decode(path.read_bytes())
                if kind == "RoundOpen":
                    number = read_body(envelope, RoundOpen).round
                else:
                    assert found.setdefault(envelope.header.context, number) == number
    return found


def check_ledgers(federation: TestFederation) -> int:
    """Every step that left a client is covered by one of its charges, and its cost is not less than
    that of the sessions it sent anything in; returns how many sessions were charged in all."""
    rounds, charged = rounds_by_context(federation), 0
    uploaded: dict[str, set[tuple[int, int]]] = {name: set() for name in federation.clients}
    for envelope in received(federation, "Upload"):
        header = envelope.header
        uploaded[header.sender].add((rounds[header.context], header.step))
    privacy = federation.charter.privacy
    assert privacy.mode == "shared-noise"
    for name, steps in uploaded.items():
        charges = charges_of(federation.ledger(name))
        trained = check_spending(federation, name)
        assert steps <= set(trained), f"{name} sent a step that it did not train"
        for number, step in trained:
            assert step < charges[number].steps == STEPS, (name, number, step)
        spending = spent([charges[number] for number in {n for n, _ in steps}], privacy.delta)
        total = spent(charges.values(), privacy.delta)
        assert spending.epsilon <= total.epsilon <= privacy.epsilon
        charged += len(charges)
    return charged


# ---------------------------------------------------------------- one run


def one_run(number: int, root: Path, launcher: Launcher, model: ModelSpec) -> dict[str, object]:
    """A federation, its deaths, and all checks."""
    rng = generator(os.environ.get("SOAK_SEED", "1"), "kill-processes", number)
    with build_federation(
        root, launcher, model, clients=CLIENTS, rounds=ROUNDS, timeouts=TIMEOUTS
    ) as federation:
        # A round takes a quarter of a second, a restart one or two.
        plan = draw_times(rng, federation.clients, count=rng.randrange(3, 9), within=0.8)
        killings = Killings(federation, plan)
        killings.run()
        check_journals(federation)
        offers = check_keys(federation)
        assert offers >= ROUNDS * (CLIENTS - 1)
        check_said_once(federation)
        assert len(federation.adapters()) == 1
        report = verify_bundle(federation.bundle)
        assert report.ok, report.to_text()
        return {
            "deaths": killings.deaths.total(),
            "outcomes": dict(Counter(federation.outcomes().values())),
            "offers": offers,
        }


def one_run_of_sessions(
    number: int, root: Path, launcher: Launcher, model: ModelSpec
) -> dict[str, object]:
    """The same of sessions in privacy mode ``shared-noise``."""
    rng = generator(os.environ.get("SOAK_SEED", "1"), "kill-sessions", number)
    with build_federation(
        root,
        launcher,
        model,
        clients=CLIENTS,
        rounds=SOAKED.request.rounds,
        adapter=SOAKED.adapter,
        privacy=SOAKED.request,
        timeouts=TIMEOUTS,
    ) as federation:
        plan = draw_places(rng, federation.clients, rounds=DEATH_ROUNDS, steps=STEPS)
        killings = Killings(federation, plan, recorded=True)
        killings.run()
        check_journals(federation)
        offers, uploads = check_keys(federation), check_said_once(federation)
        used = sum(check_secrets(federation, name)[1] for name in federation.clients)
        assert used >= uploads * CLIENTS, "an upload without a key and masks of its own"
        charged = check_ledgers(federation)
        check_evidence(federation)
        sessions = [s for s in federation.statements().values() if s.kind == "train"]
        return {
            "deaths": dict(killings.deaths),
            "sessions": dict(Counter(s.outcome for s in sessions)),
            "good": sorted(s.steps.good for s in sessions),
            "offers": offers,
            "uploads": uploads,
            "keys and masks": used,
            "reused": 0,
            "charged": charged,
        }


def done_before(progress: Path) -> set[int]:
    """Runs that were done before with this seed and this source."""
    if not progress.exists():
        return set()
    entries = [json.loads(line) for line in progress.read_text("utf-8").splitlines()]
    wanted = (os.environ.get("SOAK_SEED", "1"), source_digest())
    return {entry["run"] for entry in entries if (entry["seed"], entry["source"]) == wanted}


def run_missing(
    runs: int, progress: Path, root: Path, one: Callable[[int, Path], dict[str, object]]
) -> None:
    """All runs that were not done before, as the environment says."""
    until = time.monotonic() + float(os.environ.get("SOAK_SECONDS", "inf"))
    only = os.environ.get("SOAK_ONLY")
    done = set() if only else done_before(progress)
    for number in [int(only)] if only else range(wanted_cases(runs)):
        if number in done or time.monotonic() > until:
            continue
        started, folder = time.monotonic(), root / f"run-{number}"
        found = one(number, folder)
        shutil.rmtree(folder)  # half of a million bytes a step
        entry = {
            "run": number,
            "source": source_digest(),
            "seed": os.environ.get("SOAK_SEED", "1"),
            **found,
            "seconds": round(time.monotonic() - started, 1),
        }
        FOLDER.mkdir(exist_ok=True)
        with progress.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
@pytest.mark.xdist_group("kill-processes")
def test_killed_at_random_moments(
    tmp_path: Path, launcher: Launcher, tiny_model: ModelSpec
) -> None:
    run_missing(RUNS, PROGRESS, tmp_path, lambda n, root: one_run(n, root, launcher, tiny_model))


@pytest.fixture
def session_launcher(launcher: Launcher) -> Launcher:
    """Parties of it find what sessions cost already computed."""
    launcher.load("tests.integration.session_terms", "SOAKED.warm_up")
    return launcher


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
@pytest.mark.xdist_group("kill-processes")
def test_killed_in_sessions(
    tmp_path: Path, session_launcher: Launcher, tiny_model: ModelSpec
) -> None:
    run_missing(
        SESSION_RUNS,
        SESSION_PROGRESS,
        tmp_path,
        lambda n, root: one_run_of_sessions(n, root, session_launcher, tiny_model),
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("kill-processes")
def test_a_sample_of_killings_in_sessions(
    tmp_path: Path, session_launcher: Launcher, tiny_model: ModelSpec
) -> None:
    for number in range(SESSION_SAMPLE):
        one_run_of_sessions(number, tmp_path / str(number), session_launcher, tiny_model)
