"""A coordinator that keeps two logs under one key, each on disk, and shows each to its own clients.

All five find out at the key roster of the first round that both groups are in; what two of them
keep proves it to somebody who has neither log.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fedfm_audit.bundle import read_bundle, write_bundle
from fedfm_audit.errors import ProofError
from fedfm_audit.log import Log
from fedfm_audit.split_view import SplitViewDocument, Verdict, judge_split_view
from fedfm_audit.statements import FederationPredicate, federation_statement, sign_statement
from fedfm_crypto.envelope import CheckpointSeen, Envelope
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.context import NO_HASH, context1
from fedfm_protocols.errors import SplitView
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import KeyRoster, RoundOpen, body_hash, read_body
from fedfm_protocols.scenario.actors import forge
from fedfm_protocols.simulation import Delivery, Simulation
from secure_fedfm.cli.main import main
from tests.audit.simulated import ORIGIN, Evidence, founded
from tests.protocols.federations import seeded_update

ASIDE = "client-05"


@dataclass
class TwoLogs:
    """The coordinator's two histories: they part at their last leaf."""

    evidence: Evidence
    logs: tuple[Log, Log]

    @classmethod
    def at(cls, root: Path) -> TwoLogs:
        evidence = founded(5)
        logs = (Log.open(root / "one", ORIGIN), Log.open(root / "other", ORIGIN))
        other = FederationPredicate(
            *(evidence.charter.hash.hex(), "x", "1", "3.11", *("00" * 32,) * 3), distributions=()
        )
        last = sign_statement(federation_statement(other), evidence.keys.coordinator)
        for log, leaves in ((logs[0], evidence.leaves), (logs[1], [*evidence.leaves[:-1], last])):
            for leaf in leaves:
                log.append(leaf)
            log.sign_checkpoint(evidence.keys.log)
        return cls(evidence, logs)

    def play(self) -> Simulation:
        """The first round: everybody's offers are put together, as a quorum needs them."""
        honest, aside = self.logs
        head = CheckpointSeen(aside.size, aside.root())
        key, offers = self.evidence.keys.coordinator, {}

        def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            kind = envelope.header.type
            if kind == "KeyOffer":
                offers[sender] = envelope
            echo = {}
            body: object = None
            if recipient == ASIDE:
                echo = {"checkpoint_size": head.size, "checkpoint_root": head.root}
            if kind == "RoundOpen" and recipient == ASIDE:
                body = replace(read_body(envelope, RoundOpen), checkpoint=aside.checkpoint or b"")
            if kind == "KeyRoster":
                body = KeyRoster(tuple(offers[name].encode() for name in sorted(offers)))
                context0 = offers[ASIDE].header.context
                echo["context"] = context1(context0, body_hash(body), NO_HASH)
            if sender == "coordinator":
                envelope = forge(key, envelope, body, **echo)
            return ((recipient, envelope),)

        simulation = Simulation(
            Federation.of(self.evidence.charter),
            self.evidence.keys.clients,
            key,
            SeededRandom(b"two logs"),
            lambda name, number, _: seeded_update(name, number, 50),
            network,
        )
        seen = CheckpointSeen(honest.size, honest.root())
        simulation.run_round(1, checkpoint=seen, note=honest.checkpoint or b"")
        return simulation

    def document(self, error: Exception) -> SplitViewDocument:
        assert isinstance(error, SplitView)
        return SplitViewDocument(self.evidence.envelope, (), error.notes, error.headers)


@pytest.fixture
def two(tmp_path: Path) -> TwoLogs:
    return TwoLogs.at(tmp_path)


@pytest.fixture
def documents(two: TwoLogs) -> dict[str, SplitViewDocument]:
    simulation = two.play()
    return {n: two.document(c.violations[0]) for n, c in simulation.clients.items()}


def test_every_client_refuses_before_it_shares_anything(two: TwoLogs) -> None:
    simulation = two.play()
    for name, client in simulation.clients.items():
        (error,) = client.violations
        assert isinstance(error, SplitView), name
        assert [sent.header.type for sent in client.sent] == ["KeyOffer"], name


def test_one_client_accuses_and_two_prove_it(documents: dict[str, SplitViewDocument]) -> None:
    alone = judge_split_view([documents["client-01"]])
    assert alone.verdict is Verdict.CLAIMED
    assert f"{ASIDE} signed in its KeyOffer" in alone.findings[0]
    both = judge_split_view([documents["client-01"], documents[ASIDE]])
    assert both.verdict is Verdict.PROVEN
    assert "signed two heads of size 7" in both.findings[0]


def test_a_bundle_of_one_history_proves_the_other(
    two: TwoLogs, documents: dict[str, SplitViewDocument], tmp_path: Path
) -> None:
    place = write_bundle(two.logs[0], two.evidence.envelope, {}, tmp_path / "bundle")
    files = read_bundle(place)
    assert judge_split_view([documents[ASIDE]], bundle=files).verdict is Verdict.PROVEN
    same = judge_split_view([documents["client-01"]], bundle=files)
    assert same.verdict is Verdict.CLAIMED


def test_what_is_not_signed_proves_nothing(documents: dict[str, SplitViewDocument]) -> None:
    first, other = documents["client-01"], documents[ASIDE]
    forged = other.notes[0].replace(b"\n7\n", b"\n8\n", 1)
    header = replace(first.headers[0], header=replace(first.headers[0].header, checkpoint_size=9))
    for document in (replace(other, notes=(forged,)), replace(first, headers=(header,))):
        with pytest.raises(ProofError):
            judge_split_view([first, document])
    with pytest.raises(ProofError, match="expected"):
        judge_split_view([first, other], charter_sha256="00" * 32)


def test_the_document_is_read_in_its_one_form(documents: dict[str, SplitViewDocument]) -> None:
    data = documents[ASIDE].encode()
    assert SplitViewDocument.decode(data) == documents[ASIDE]
    for damaged in (data + b"\n", data[:-1], data.replace(b'"version":1', b'"version":2'), b"[]"):
        with pytest.raises(ProofError):
            SplitViewDocument.decode(damaged)


def test_the_command_line_ends_with_0_only_for_a_proof(
    documents: dict[str, SplitViewDocument], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / f"{name}.json" for name in ("client-01", ASIDE)]
    for path in paths:
        path.write_bytes(documents[path.stem].encode())
    assert main(["audit", "split-view", str(paths[0]), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "claimed"
    assert main(["audit", "split-view", *map(str, paths), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "proven"
