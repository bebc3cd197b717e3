"""A client that is shown two histories keeps the evidence, stops, and never starts again by
itself."""

from __future__ import annotations

import asyncio
import logging
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedfm_audit.split_view import SplitViewDocument, Verdict, judge_split_view
from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import CheckpointSeen, Envelope, seal_envelope
from fedfm_crypto.merkle import consistency_proof, inclusion_proof, leaf_hash, tree_root
from fedfm_crypto.note import Checkpoint, sign_checkpoint
from fedfm_protocols.client_states import ClientMemory
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import CheckpointOffer
from secure_fedfm.cli.main import main
from secure_fedfm.errors import SplitViewFound
from secure_fedfm.services.client import ClientService
from secure_fedfm.services.client_link import MAX_UNPROVEN
from secure_fedfm.services.client_memory import ClientJournal, decode_memory, encode_memory
from secure_fedfm.services.client_setup import ClientSetup, set_up_client
from secure_fedfm.services.split_views import kept_split_views, refuse_after_split_view
from secure_fedfm.storage.database import Database
from secure_fedfm.storage.site import Site
from secure_fedfm.transport.client import ClientTransport
from tests.audit.simulated import ORIGIN, Evidence, founded

NAME = "client-01"


class _Sent:
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        self.types: list[str] = []

    async def send(self, data: bytes) -> None:
        self.types.append(Envelope.decode(data).header.type)


class Bench:
    """One client service between rounds, and a log of leaves that offers what it is told to."""

    def __init__(self, root: Path, known: int = 5) -> None:
        self.evidence: Evidence = founded(5)
        self.site, self.sent = Site(root), _Sent()
        self.site.write(self.site.charter_file, self.evidence.envelope)
        federation = Federation.of(self.evidence.charter)
        self.link = federation.link_context
        head = self.head(self.evidence.leaves[:known])
        adapter = bytes.fromhex(self.evidence.charter.initial_adapter)
        journal = ClientJournal(Database(root / "state.sqlite"), federation.charter_hash.hex())
        setup = SimpleNamespace(
            name=NAME,
            identity=self.evidence.keys.clients[NAME],
            federation=federation,
            memory=ClientMemory(0, 0, 0, adapter, head, note=self.note(head)),
            keeper=None,
            journal=journal,
            ledger=None,
            learner=None,
            marks=None,
        )
        self.service = ClientService(
            self.site, cast(ClientSetup, setup), cast(ClientTransport, self.sent)
        )

    def head(self, leaves: list[bytes]) -> CheckpointSeen:
        return CheckpointSeen(len(leaves), tree_root([leaf_hash(leaf) for leaf in leaves]))

    def note(self, head: CheckpointSeen) -> bytes:
        checkpoint = Checkpoint(ORIGIN, head.size, head.root)
        return sign_checkpoint(checkpoint, ORIGIN, self.evidence.keys.log)

    def offer(self, leaves: list[bytes], known: int) -> None:
        """The coordinator offers the head of ``leaves``, proved from ``known``."""
        hashes, head = [leaf_hash(leaf) for leaf in leaves], self.head(leaves)
        proof = consistency_proof(hashes, known) if 0 < known < len(leaves) else []
        body = CheckpointOffer(
            self.note(head),
            tuple(proof),
            len(leaves) - 1,
            leaves[-1],
            tuple(inclusion_proof(hashes, len(leaves) - 1)),
        )
        envelope = seal_envelope(
            self.evidence.keys.coordinator,
            context=self.link,
            type="CheckpointOffer",
            sender="coordinator",
            step=0,
            sequence=1,
            checkpoint=head,
            body=encode(body),
        )
        asyncio.run(self.service._take_payload(envelope.encode()))

    @property
    def document(self) -> SplitViewDocument:
        (path,) = kept_split_views(self.site)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        return SplitViewDocument.decode(path.read_bytes())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_growth_that_is_proved_is_cosigned(bench: Bench) -> None:
    bench.offer(bench.evidence.leaves, 5)
    assert bench.sent.types == ["Cosignature"]
    assert bench.service._state.memory.checkpoint.size == 7
    assert not kept_split_views(bench.site)


def test_two_heads_of_one_size_prove_it_to_anybody(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    forked = [*bench.evidence.leaves[:4], bench.evidence.leaves[5]]
    with caplog.at_level(logging.ERROR), pytest.raises(SplitViewFound, match="audit split-view"):
        bench.offer(forked, 0)
    assert bench.sent.types == []
    assert judge_split_view([bench.document]).verdict is Verdict.PROVEN
    assert "SPLIT VIEW" in caplog.text


def test_a_larger_fork_is_refused_and_found_out_when_no_proof_comes(bench: Bench) -> None:
    forked = [b"another", *bench.evidence.leaves[1:]]
    for _ in range(MAX_UNPROVEN):
        bench.offer(forked, 5)
    assert bench.sent.types == ["Hello"] * MAX_UNPROVEN  # it says where it stands, and waits
    with pytest.raises(SplitViewFound):
        bench.offer(forked, 5)
    assert judge_split_view([bench.document]).verdict is Verdict.NOT_SHOWN
    assert "Cosignature" not in bench.sent.types


def test_proofs_that_were_under_way_are_no_split_view(bench: Bench) -> None:
    bench.offer(bench.evidence.leaves, 3)
    bench.offer(bench.evidence.leaves, 0)
    bench.offer(bench.evidence.leaves, 5)
    assert bench.sent.types == ["Hello", "Hello", "Cosignature"]


def test_it_does_not_start_again_and_status_says_why(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SplitViewFound):
        bench.offer([*bench.evidence.leaves[:4], bench.evidence.leaves[5]], 0)
    with pytest.raises(SplitViewFound, match="move the file"):
        refuse_after_split_view(bench.site)
    config: Any = SimpleNamespace(
        policy=SimpleNamespace(site_policy=lambda: SimpleNamespace(check_charter=lambda _: None))
    )
    with pytest.raises(SplitViewFound):
        set_up_client(bench.site, config)
    assert main(["status", "--site", str(bench.site.root)]) == 0
    assert "SPLIT VIEW" in capsys.readouterr().err


def test_the_logs_note_survives_a_restart() -> None:
    memory = ClientMemory(
        1, 1, 1, bytes(32), CheckpointSeen(3, bytes(32)), note=b"note\n", log_changes=(b"{}",)
    )
    assert decode_memory(encode_memory(memory)) == memory
    old = encode_memory(memory).replace(b',"log_note":"note\\n","log_changes":["{}"]', b"")
    assert decode_memory(old).note == b""
