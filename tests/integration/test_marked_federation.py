"""Ownership marks in real processes, in privacy mode `local`: committed to before round 1, written
after the last, found by their owners; one of them is killed when it has the sum, and repeats it.

A third owner's claim is so weak that its mark is not found: it complains, as it would of a sum that
was rolled back. The budget has room for the one round of training and for no other, so a round of
marks that cost anything would be refused at every client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from fedfm_audit.report import Report, Status
from fedfm_audit.verify import verify_bundle
from fedfm_audit.watermark.claim import Claim, TargetModule
from fedfm_audit.watermark.commitment import MarkKey, Opening
from fedfm_crypto.random_source import system_random
from secure_fedfm.demo.marks import openings
from secure_fedfm.learning.specs import ModelSpec
from secure_fedfm.storage.site import Site
from secure_fedfm.watermark.owned import save_mark
from secure_fedfm.watermark.planning import MarksOffer
from tests.integration.federation_processes import COORDINATOR, TestFederation, build_federation
from tests.integration.forked_processes import Launcher
from tests.integration.one_death import run_with_one_death
from tests.integration.private_terms import sections

OWNERS = (("clinic-1", "consortium"), ("clinic-2", "own"))
WEAK = ("clinic-3", "own")
VICTIM = "clinic-2"
MARKS = 2  # round 1 trains


def committed(base_model: str, sites: dict[str, Site], _: Sequence[str]) -> MarksOffer:
    """Two clients commit to the smallest marks that there are, a third to one that moves what
    disagrees with its bits to next to nothing: T is about 6.4 then, and 7.69 is needed in both of
    its sub-keys."""

    def one(
        name: str, mark: str, modules: tuple[TargetModule, ...], strength: float, keys: int
    ) -> bytes:
        identity, key = sites[name].identity(), MarkKey.generate(system_random)
        claim = Claim(
            "ownership",
            "test-federation",
            identity.public,
            base_model,
            modules,
            128,
            strength,
            keys,
        )
        return save_mark(sites[name], name, mark, key.commit(claim, identity), key).read_bytes()

    return lambda modules: [
        *(one(*place, modules, 0.6, 1) for place in OWNERS),
        one(*WEAK, modules, 0.01, 2),
    ]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, private_launcher: Launcher, tiny_model: ModelSpec
) -> Iterator[TestFederation]:
    with build_federation(
        tmp_path_factory.mktemp("marked"),
        private_launcher,
        tiny_model,
        clients=4,
        rounds=1,
        rank=16,
        suite="masked",
        privacy=sections(1),
        marks=partial(committed, tiny_model.sha256),
        timeouts={"connect": 10.0, "rejoin": 120.0, "cosignatures": 5.0},
    ) as federation:
        keeper = federation.sites[OWNERS[0][0]].root / "site.toml"
        keeper.write_text("mark_triggers = true\n" + keeper.read_text())
        run_with_one_death(
            federation, VICTIM, {"round": MARKS, "effect": "ApplySum", "when": "before"}
        )
        yield federation


@pytest.fixture(scope="module")
def report(finished: TestFederation) -> Report:
    """The auditor's, with the adapter and with every mark opened that was found."""
    every = openings(finished.charter, dict(finished.sites))
    shown = [one for one in every if Opening.decode(one).claim.keys == 1]
    export = finished.sites["clinic-3"].export_folder
    return verify_bundle(finished.bundle, adapter=export, openings=shown)


def test_marks_are_written_once_and_everybody_has_the_same_adapter(
    finished: TestFederation,
) -> None:
    said = finished.statements()
    assert [(one.kind, one.outcome) for one in said.values()] == [
        ("train", "completed"),
        ("watermark", "completed"),
    ]
    assert said[2].adapter_out != said[2].adapter_in
    assert len(finished.adapters()) == 1


def test_owners_find_their_marks_and_an_auditor_measures_them(report: Report) -> None:
    assert report.ok, report.to_text()
    assert report.step(8).status is Status.VERIFIED
    assert report.marks is not None
    found = [mark for mark in report.marks.marks if (mark.client, mark.mark) in OWNERS]
    assert len(found) == len(OWNERS)
    for mark in found:
        assert mark.present, mark
        assert mark.measured == pytest.approx(mark.said, abs=1e-3)


def test_an_owner_that_does_not_find_its_mark_complains(
    finished: TestFederation, report: Report
) -> None:
    assert report.marks is not None
    assert [(mark.client, mark.mark) for mark in report.marks.complaints] == [WEAK]
    assert "complaints: clinic-3 (own)" in report.step(8).detail
    assert "MISSING; a complaint goes into the log" in finished.log_of(WEAK[0])
    assert "clinic-3 complains: its own mark is missing" in finished.log_of(COORDINATOR)


def test_the_round_of_marks_costs_no_epsilon_and_the_evidence_says_why(
    finished: TestFederation, report: Report
) -> None:
    charged = [{entry.round for entry in finished.ledger(name)} for name in finished.clients]
    assert all(rounds <= {MARKS - 1} for rounds in charged)  # a late client is in no round
    assert sum(map(len, charged)) >= 3
    step = report.step(6)
    assert step.status is Status.VERIFIED
    assert "the round of marks costs nothing: what an owner adds is computed from" in step.detail


def test_the_keepers_triggers_are_in_the_same_sum(finished: TestFederation) -> None:
    """Hits are counted in the adapter that everybody has; how many is for the benchmark to say."""
    assert "consortium mark: hits of 128 triggers, by set: (" in finished.log_of(OWNERS[0][0])
    assert "triggers" not in finished.log_of(OWNERS[1][0])
