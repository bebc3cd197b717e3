"""Attacks over the network on a running federation of processes: refused, and it goes on.

The attacker sits in the test's own process with real sockets.  It has no key at all, or holds the
keys of an institution (clinic-4) whose own process is down.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import zmq
import zmq.asyncio
from zmq.utils import z85

from fedfm_audit.verify import verify_bundle
from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import CheckpointSeen, Envelope, seal_envelope
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import system_random
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import Body, Cosignature, Hello, type_name
from fedfm_protocols.witness import NOTHING_SEEN
from secure_fedfm.learning.specs import ModelSpec
from secure_fedfm.services.limits import limits_for
from secure_fedfm.storage.site import Site
from secure_fedfm.transport.client import ClientTransport
from secure_fedfm.transport.curve import CurveKeyPair
from secure_fedfm.transport.errors import (
    HandshakeRefusedError,
    NotConnectedError,
    TransportError,
)
from secure_fedfm.transport.limits import LARGEST_FRAME_BYTES, TransportLimits
from tests.integration.federation_processes import COORDINATOR, TestFederation, build_federation
from tests.integration.forked_processes import Exited, Launcher

KILLED, NETWORK = -9, 5
INSIDER, COPIED = "clinic-4", "clinic-3"
ATTACKED, DUPLICATED = 2, 3

pytestmark = pytest.mark.slow


class Insider:
    """Holds the keys of an enrolled institution and signs what it likes."""

    def __init__(self, federation: TestFederation) -> None:
        self.federation = federation
        self.protocol = Federation.of(federation.charter)
        site = federation.sites[INSIDER]
        self.key = site.identity()
        self.transport_keys = CurveKeyPair.from_secret(site.transport())
        self.server = bytes.fromhex(federation.charter.coordinator.transport)

    def transport(self, keys: CurveKeyPair | None = None) -> ClientTransport:
        limits = TransportLimits()  # its own, far beyond what the coordinator takes
        return ClientTransport(
            self.federation.endpoint, self.server, keys or self.transport_keys, limits
        )

    def sealed(
        self,
        body: Body,
        *,
        sender: str = INSIDER,
        key: IdentityKey | None = None,
        checkpoint: CheckpointSeen = NOTHING_SEEN,
        context: bytes | None = None,
    ) -> bytes:
        return seal_envelope(
            key or self.key,
            context=context or self.protocol.link_context,
            type=type_name(type(body)),
            sender=sender,
            step=0,
            sequence=1,
            checkpoint=checkpoint,
            body=encode(body),
        ).encode()

    def recorded(self, sender: str, kind: str) -> bytes:
        """The first message of that kind that the coordinator took from ``sender``."""
        folder = self.federation.sites[COORDINATOR].root / "traffic"
        return sorted(folder.glob(f"*.from.{sender}.{kind}"))[0].read_bytes()

    def messages(self) -> list[tuple[bytes, str]]:
        """(payload, what the coordinator's log must say about it)."""
        hello = Hello(0, bytes(32), 0, 0, 0, 0, bytes(32))
        stranger = IdentityKey.generate(system_random)
        genuine = self.recorded("clinic-1", "KeyOffer")
        flipped = bytearray(self.recorded(INSIDER, "KeyOffer"))
        flipped[-1] ^= 1
        return [
            (b"\x00" * 50, f"a message from {INSIDER} does not decode"),
            (os.urandom(5000), f"a message from {INSIDER} does not decode"),
            (self.sealed(hello, sender="clinic-1"), f"{INSIDER} sent a message signed as clinic-1"),
            (genuine, f"{INSIDER} sent a message signed as clinic-1; dropped"),
            (self.sealed(hello, key=stranger), f"is not signed by the key enrolled for {INSIDER}"),
            (self.recorded(INSIDER, "KeyOffer"), f"KeyOffer from {INSIDER}, who was not invited"),
            (self.recorded(INSIDER, "Upload"), f"Upload from {INSIDER}, who was not invited"),
            (bytes(flipped), f"KeyOffer that claims to be from {INSIDER} is not signed"),
            (self.sealed(hello, context=bytes(32)), f"Hello from {INSIDER} was signed for context"),
            (self.sealed(Cosignature(b"\xe2\x80\x94 nobody AAAA\n")), "refused: "),
            (
                self.sealed(hello, checkpoint=CheckpointSeen(1_000_000, bytes(32))),
                f"{INSIDER} greets with a log of size 0",
            ),
            (
                self.sealed(
                    replace(hello, log_size=1_000_000),
                    checkpoint=CheckpointSeen(1_000_000, bytes(32)),
                ),
                f"{INSIDER} is not admitted to rounds",
            ),
        ]


async def unknown_key(insider: Insider) -> None:
    transport = insider.transport(CurveKeyPair.generate())
    await transport.start()
    try:
        with pytest.raises(HandshakeRefusedError, match="not enrolled"):
            await transport.wait_connected(2.0)
    finally:
        await transport.stop()


async def hostile_messages(insider: Insider) -> None:
    transport = insider.transport()
    await transport.start()
    try:
        await transport.wait_connected(10.0)
        for payload, answer in insider.messages():
            before = insider.federation.log_of(COORDINATOR).count(answer)
            await transport.send(payload)
            await logged(insider.federation, answer, before + 1)
    finally:
        await transport.stop()


async def oversized_message(insider: Insider) -> None:
    transport = insider.transport()
    await transport.start()
    try:
        await transport.wait_connected(10.0)
        await transport.send(bytes(limits_for(insider.protocol).max_message_bytes + 1))
        await logged(insider.federation, f"malformed peer={INSIDER}: ")
    finally:
        await transport.stop()


async def oversized_frame(insider: Insider) -> None:
    """libzmq drops the connection of whoever sends one."""
    context = zmq.asyncio.Context()
    try:
        raw = context.socket(zmq.DEALER)
        raw.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(insider.server))
        raw.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(insider.transport_keys.public))
        raw.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(insider.transport_keys.secret.reveal()))
        monitor = raw.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        raw.connect(insider.federation.endpoint)
        await raw.send(bytes(LARGEST_FRAME_BYTES + 1))
        async with asyncio.timeout(20):
            await monitor.recv_multipart()
    finally:
        context.destroy(linger=0)


async def logged(federation: TestFederation, text: str, times: int = 1) -> None:
    async with asyncio.timeout(20):
        while federation.log_of(COORDINATOR).count(text) < times:
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def attacked(
    tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, tiny_model: ModelSpec
) -> TestFederation:
    """Round 1 in peace; round 2 under attack; in round 3 a second process takes clinic-3's place;
    round 4 with the true clinic-4 back."""
    root = tmp_path_factory.mktemp("attacked")
    federation = build_federation(
        root / "sites",
        launcher,
        tiny_model,
        clients=4,
        rounds=3,
        suite="masked",  # the network is what is attacked here, and round 1 is then a sum
        timeouts={"connect": 60.0, "rejoin": 0.3},
    )
    traffic = federation.sites[COORDINATOR].root / "traffic"
    traffic.mkdir()
    backup = Site(root / "backup")
    shutil.copytree(federation.sites[COPIED].root, backup.root)
    gates = {number: root / f"gate-{number}" for number in (ATTACKED, DUPLICATED)}
    death = {"round": 1, "effect": "RoundAck", "when": "after"}

    def expected_death(ended: Exited) -> None:
        assert (ended.party, ended.code) in {(INSIDER, KILLED), (COPIED, NETWORK)}

    def in_round(number: int) -> Callable[[], bool]:
        return lambda: f"round {number}: shares done" in federation.log_of(COORDINATOR)

    with federation:
        federation.start_all(
            {
                COORDINATOR: {"record_traffic": str(traffic)},
                "clinic-1": {"train_until": {str(n): str(g) for n, g in gates.items()}},
                "clinic-2": {"send_twice": True},
                INSIDER: {"client_dies": [death]},
            }
        )
        federation.run_until(in_round(ATTACKED), expected_death)
        insider = Insider(federation)
        for attack in (unknown_key, hostile_messages, oversized_message, oversized_frame):
            asyncio.run(attack(insider))
        assert federation.processes[COORDINATOR].poll() is None
        gates[ATTACKED].touch()
        federation.run_until(in_round(DUPLICATED), expected_death)
        first = federation.processes[COPIED]
        federation.sites[COPIED] = backup  # the same keys on another machine, say
        federation.start(COPIED)
        assert first.wait() == NETWORK
        federation.start(INSIDER)
        ready = f"{INSIDER} is ready"
        federation.run_until(
            lambda: federation.log_of(COORDINATOR).count(ready) >= 2, expected_death
        )
        gates[DUPLICATED].touch()
        federation.run_to_end(expected_death)
    federation.sites["first"] = Site(root / "sites" / COPIED)
    return federation


def test_the_attacked_round_completes(attacked: TestFederation) -> None:
    assert attacked.outcomes()[1] == attacked.outcomes()[ATTACKED] == "completed"
    assert attacked.outcomes()[4] == "completed"


def test_two_processes_with_one_identity_get_one_clear_error(attacked: TestFederation) -> None:
    """The newest is served; the older ends and says why; the round it was in goes on without."""
    last = attacked.log_of("first").splitlines()[-1]
    assert last.startswith("error: another process connected with this site's transport key")
    assert "give each its own key" in last
    assert f"duplicate-identity peer={COPIED}" in attacked.log_of(COORDINATOR)
    assert attacked.outcomes()[DUPLICATED] == "aborted"  # three of four, and one lost its keys


def test_an_unknown_key_is_refused_by_name(attacked: TestFederation) -> None:
    assert "unknown-key peer=-: refused transport key" in attacked.log_of(COORDINATOR)


def test_replays_within_the_round_are_refused(attacked: TestFederation) -> None:
    log = attacked.log_of(COORDINATOR)
    # (The second copy of a round's last acknowledgement finds no round.)
    for kind in ("KeyOffer", "ShareBundle", "UploadHash", "Upload"):
        replays = log.count(f"refused: {kind} from clinic-2 was taken already")
        late = log.count(f"refused: {kind} from clinic-2 was signed for context")
        assert replays + late >= 1, kind


def test_everyone_ends_with_one_adapter_and_the_evidence_verifies(
    attacked: TestFederation,
) -> None:
    assert len(attacked.adapters()) == 1
    report = verify_bundle(attacked.bundle)
    assert report.ok, report.to_text()


def test_nothing_hostile_is_in_the_log(attacked: TestFederation) -> None:
    for party in attacked.sites:
        assert "Traceback" not in attacked.log_of(party)
        assert "internal error" not in attacked.log_of(party)


def test_with_a_dead_authenticator_nobody_new_gets_in(
    tmp_path: Path, launcher: Launcher, tiny_model: ModelSpec
) -> None:
    """The coordinator stops at once and says so; started again, it goes on."""
    gate = tmp_path / "gate"
    with build_federation(
        tmp_path / "sites", launcher, tiny_model, clients=3, rounds=1, suite="masked"
    ) as federation:
        federation.start_all(
            {
                COORDINATOR: {"authenticator_dies": 1},
                **{name: {"train_until": {"1": str(gate)}} for name in federation.clients},
            }
        )
        assert federation.processes[COORDINATOR].wait() == NETWORK
        last = federation.log_of(COORDINATOR).splitlines()[-1]
        assert last.startswith("error: the transport's authenticator ended")
        assert "admits nobody" in last

        async def knock() -> None:
            keys = CurveKeyPair.from_secret(federation.sites["clinic-1"].transport())
            server = bytes.fromhex(federation.charter.coordinator.transport)
            transport = ClientTransport(federation.endpoint, server, keys)
            await transport.start()
            try:
                with pytest.raises(TransportError) as refused:
                    await transport.wait_connected(1.0)
                assert isinstance(refused.value, NotConnectedError | HandshakeRefusedError)
            finally:
                await transport.stop()

        asyncio.run(knock())
        gate.touch()
        federation.start(COORDINATOR)
        federation.run_to_end()
        assert federation.outcomes() == {2: "completed"}
        assert verify_bundle(federation.bundle).ok


def test_recorded_messages_are_what_they_are_taken_for(attacked: TestFederation) -> None:
    """The replays above were genuine: they verify under the key of their true sender."""
    insider = Insider(attacked)
    for sender in ("clinic-1", INSIDER):
        envelope = Envelope.decode(insider.recorded(sender, "KeyOffer"))
        envelope.verify(insider.protocol.identities[sender])
