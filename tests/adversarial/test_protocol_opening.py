"""A malicious coordinator in steps 0 to 4: openings, rosters, deliveries, upload sets.

Each test names the lie; the honest side's answer is a named error, and nothing that could unmask
an update leaves a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.envelope import CheckpointSeen, Envelope
from fedfm_crypto.mask import expand_mask
from fedfm_crypto.merkle import leaf_hash, tree_root
from fedfm_crypto.note import Checkpoint, sign_checkpoint
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols import masking
from fedfm_protocols.client import client_step
from fedfm_protocols.client_states import Idle, Offered
from fedfm_protocols.context import NO_HASH, RoundIdentity, context1
from fedfm_protocols.coordinator import RoundOpening, open_round
from fedfm_protocols.coordinator_states import CoordinatorContext, CoordinatorSite
from fedfm_protocols.effects import Received, Send
from fedfm_protocols.errors import (
    BelowThreshold,
    EquivocationError,
    MalformedMessage,
    ProtocolError,
    ReplayedMessage,
    RoundRefused,
    UnknownSender,
    WrongContext,
)
from fedfm_protocols.messages import (
    KeyOffer,
    KeyRoster,
    RoundOpen,
    ShareDelivery,
    StepOffer,
    UploadHash,
    UploadSet,
    body_hash,
)
from fedfm_protocols.simulation import Delivery, Intercept
from fedfm_protocols.witness import NOTHING_SEEN
from tests.protocols.federations import make_federation, make_keys
from tests.protocols.scripted import (
    START,
    Change,
    Crash,
    Forger,
    RecordingSimulation,
    all_idle_at,
    body_of,
    exact_simulation,
    first_problem,
    forge,
    forging,
    key_of,
    revealed,
    sent_types,
)

VICTIM = "client-03"
KEYS = make_keys(5)


def _opening(simulation: RecordingSimulation, number: int = 1, **changes: Any) -> Envelope:
    """The RoundOpen that the coordinator signs for these claims, whether true or not."""
    fields: dict[str, Any] = {
        "round": number,
        "kind": "train",
        "invited": simulation.federation.clients,
        "adapter_hash": START,
        "checkpoint": NOTHING_SEEN,
        "checkpoint_note": b"",
        "consistency": (),
    }
    transition = open_round(simulation.coordinator, RoundOpening(**{**fields, **changes}))
    send = transition.effects[0]
    assert isinstance(send, Send)
    return send.envelope


def _deliver(simulation: RecordingSimulation, name: str, envelope: Envelope) -> ProtocolError:
    """Hand an envelope to a client that must refuse it; returns the error."""
    client = simulation.clients[name]
    with pytest.raises(ProtocolError) as caught:
        client_step(client.context, client.state, Received(envelope))
    return caught.value


def _forged_opening(simulation: RecordingSimulation, **fields: Any) -> Envelope:
    """A RoundOpen with fields that open_round would not even produce, context to match."""
    honest = _opening(simulation)
    body = replace(body_of(honest, RoundOpen), **fields)
    context = RoundIdentity(
        charter_hash=simulation.federation.charter_hash,
        key_epoch=body.key_epoch,
        round=body.round,
        steps=body.steps,
        kind=body.kind,
        invited=body.invited,
        adapter_hash=body.adapter_hash,
        config_hash=body.config_hash,
    ).context0()
    return forge(simulation.coordinator.site.key, honest, body, context=context)


# ---------------------------------------------------------------- step 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"steps": 2}, "2 steps, the charter says 1"),
        ({"steps": 0}, "0 steps, the charter says 1"),
        ({"kind": "unlearn"}, "unknown kind 'unlearn'"),
        ({"kind": ""}, "unknown kind ''"),
        ({"key_epoch": 1}, "key epoch 1"),
        ({"invited": ("client-01", "client-02", "client-03")}, "below the quorum of 4"),
        ({"invited": ("client-01", "client-02", "client-04", "client-05")}, "does not invite"),
        ({"invited": (*KEYS.clients, "eve")}, "not on the roster"),
        ({"invited": ("client-01", "client-01", *sorted(KEYS.clients)[1:])}, "repeated"),
        ({"invited": tuple(sorted(KEYS.clients, reverse=True))}, "unsorted"),
        ({"invited": ()}, "does not invite"),
        ({"adapter_hash": b"\x22" * 32}, "catch up first"),
        ({"config_hash": b"\x22" * 32}, "not the charter's"),
        ({"round": 0}, "opened before"),
    ],
)
def test_a_round_that_must_not_be_joined(fields: dict[str, Any], reason: str) -> None:
    simulation = exact_simulation(5)
    error = _deliver(simulation, VICTIM, _forged_opening(simulation, **fields))
    assert isinstance(error, RoundRefused)
    assert reason in str(error)


def test_lowered_thresholds_change_the_context_and_are_refused() -> None:
    """The coordinator runs the same federation under a charter with weaker limits."""
    strict = make_federation(KEYS, limits={"colluding": 3, "dropouts": 0})
    weak = make_federation(KEYS, limits={"colluding": 1, "dropouts": 1})
    assert weak.thresholds.share_threshold < strict.thresholds.share_threshold
    simulation = exact_simulation(5, limits={"colluding": 3, "dropouts": 0})
    simulation.coordinator = CoordinatorContext(
        CoordinatorSite(KEYS.coordinator, weak), SeededRandom(1)
    )
    finished = simulation.run_round(1)
    assert finished.outcome == "aborted"
    for client in simulation.clients.values():
        assert isinstance(client.refused[0], WrongContext)
        assert not client.sent


def test_a_smaller_roster_is_another_charter() -> None:
    simulation = exact_simulation(5)
    fewer = make_federation(make_keys(4))
    simulation.coordinator = CoordinatorContext(
        CoordinatorSite(KEYS.coordinator, fewer), SeededRandom(1)
    )
    assert simulation.run_round(1, invited=fewer.clients).outcome == "aborted"
    assert not any(client.sent for client in simulation.clients.values())


@pytest.mark.parametrize("in_round", [False, True])
def test_the_same_round_again_with_one_client_less(in_round: bool) -> None:
    """Differencing: two sums that differ by one update would show that update."""
    simulation = exact_simulation(5)
    again = _opening(simulation, 1, invited=tuple(n for n in KEYS.clients if n != "client-05"))
    if in_round:
        client = simulation.clients[VICTIM]
        client.state = client_step(
            client.context, client.state, Received(_opening(simulation))
        ).state
        assert isinstance(client.state, Offered)
        assert isinstance(_deliver(simulation, VICTIM, again), EquivocationError)
    else:
        assert simulation.run_round(1).outcome == "completed"
        error = _deliver(simulation, VICTIM, again)
        assert isinstance(error, RoundRefused)
        assert "must have a new number" in str(error)


def test_a_round_number_is_never_used_twice_even_after_a_restart() -> None:
    simulation = exact_simulation(5, intercept=Crash({VICTIM: "ShareBundle"}))
    simulation.run_round(1)
    simulation.restart_client(VICTIM)
    assert isinstance(_deliver(simulation, VICTIM, _opening(simulation)), RoundRefused)


def test_an_old_opening_does_not_end_the_round_at_hand() -> None:
    simulation = exact_simulation(5)
    client = simulation.clients[VICTIM]
    for number in (1, 2):
        envelope = _opening(simulation, number)
        client.state = client_step(client.context, client.state, Received(envelope)).state
    assert isinstance(client.state, Offered)
    assert client.state.session.identity.round == 2
    assert isinstance(_deliver(simulation, VICTIM, _opening(simulation, 1)), ReplayedMessage)
    assert isinstance(_deliver(simulation, VICTIM, _opening(simulation, 2)), ReplayedMessage)


def test_another_adapter_for_one_client_keeps_it_out() -> None:
    """Pasquini et al. 2111.07380: the one with the poisoned model is recognisable in the sum."""
    simulation = exact_simulation(5)
    poisoned = b"\x66" * 32

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if envelope.header.type == "RoundOpen" and recipient == VICTIM:
            return ((recipient, _opening(simulation, adapter_hash=poisoned)),)
        return ((recipient, envelope),)

    simulation.intercept = network
    finished = simulation.run_round(1)
    assert "catch up first" in str(simulation.clients[VICTIM].violations[0])
    assert not simulation.clients[VICTIM].sent
    assert VICTIM not in finished.accepted


def test_a_client_that_holds_the_other_adapter_signs_under_another_context() -> None:
    """Even if the poisoned adapter got in some other way, its offer fits nobody else's round."""
    simulation = exact_simulation(5)
    client = simulation.clients[VICTIM]
    poisoned = b"\x66" * 32
    client.state = Idle(replace(client.state.memory, adapter_hash=poisoned))

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if envelope.header.type == "RoundOpen" and recipient == VICTIM:
            return ((recipient, _opening(simulation, adapter_hash=poisoned)),)
        return ((recipient, envelope),)

    simulation.intercept = network
    assert VICTIM not in simulation.run_round(1).accepted
    (error,) = [e for e in simulation.refused if isinstance(e, WrongContext)]
    assert VICTIM in str(error)

    # Forwarded all the same, it makes every other client refuse the roster.
    offer = client.sent[0]
    second = exact_simulation(5)

    def splice(roster: KeyRoster) -> KeyRoster:
        offers = [offer.encode() if _sender(o) == VICTIM else o for o in roster.offers]
        return KeyRoster(tuple(offers))

    forger = forging(second, "coordinator", "KeyRoster", splice)
    assert second.run_round(1).outcome == "aborted"
    assert forger.done == 5
    assert sent_types(second)["client-01"] == ["KeyOffer"]


def test_masks_under_another_context_do_not_cancel() -> None:
    """With every check switched off, the sum with a client of another context is noise."""
    random = SeededRandom(3)
    keys = {name: AgreementKey.generate(random) for name in ("a", "b")}
    public = {name: key.public for name, key in keys.items()}
    total = np.zeros(4096, np.uint32)
    for name, context in (("a", b"1" * 32), ("b", b"2" * 32)):
        other = "b" if name == "a" else "a"
        key = masking.pairwise_mask_key(context, name, keys[name], other, public[other], 0)
        sign = np.uint32(1 if masking.pair_sign(name, other) == 1 else 0xFFFFFFFF)
        total += expand_mask(key, 4096, 32) * sign
    counts = np.bincount(total.view(np.uint8), minlength=256)
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert 150 < chi_square < 370  # 255 degrees of freedom, standard deviation 22.6


# ---------------------------------------------------------------- the log's checkpoint


def _note(leaves: int, key: Any = KEYS.log, fork: bytes = b"") -> tuple[bytes, CheckpointSeen]:
    hashes = [leaf_hash(b"%d%b" % (i, fork)) for i in range(leaves)]
    root = tree_root(hashes)
    return (
        sign_checkpoint(Checkpoint("test/log", leaves, root), "test/log", key),
        CheckpointSeen(leaves, root),
    )


def _seen(simulation: RecordingSimulation, seen: CheckpointSeen) -> None:
    client = simulation.clients[VICTIM]
    client.state = Idle(replace(client.state.memory, checkpoint=seen))


def test_a_checkpoint_once_seen_cannot_be_withheld() -> None:
    simulation = exact_simulation(5)
    _seen(simulation, _note(3)[1])
    error = _deliver(simulation, VICTIM, _opening(simulation))
    assert isinstance(error, RoundRefused)
    assert "no checkpoint" in str(error)


def test_the_checkpoint_already_seen_needs_no_proof_and_is_kept() -> None:
    """RoundOpen is one message for all: its proof starts at what the others saw last."""
    simulation = exact_simulation(5)
    note, seen = _note(3)
    _seen(simulation, seen)
    opening = _opening(
        simulation, checkpoint=seen, checkpoint_note=note, consistency=(b"\x01" * 32,)
    )
    client = simulation.clients[VICTIM]
    state = client_step(client.context, client.state, Received(opening)).state
    assert state.memory.checkpoint == seen


@pytest.mark.parametrize("lie", ["rolled back", "forked", "other log", "no note"])
def test_a_log_that_does_not_extend_what_was_seen(lie: str) -> None:
    simulation = exact_simulation(5)
    _seen(simulation, _note(3)[1])
    note = {
        "rolled back": _note(2)[0],
        "forked": _note(3, fork=b"x")[0],
        "other log": _note(4, key=KEYS.coordinator)[0],
        "no note": b"hello",
    }[lie]
    error = _deliver(simulation, VICTIM, _opening(simulation, checkpoint_note=note))
    assert isinstance(error, EquivocationError)


# ---------------------------------------------------------------- step 2: the key roster


def _sender(encoded: bytes) -> str:
    return Envelope.decode(encoded).header.sender


def _offer_by(simulation: RecordingSimulation, name: str, encoded: bytes, **fields: Any) -> bytes:
    envelope = Envelope.decode(encoded)
    body = replace(body_of(envelope, KeyOffer), **fields)
    return forge(key_of(simulation, name), envelope, body).encode()


def _roster_lies(simulation: RecordingSimulation) -> dict[str, Any]:
    """Lie -> (change of the roster, error that a client answers with, part of its message)."""

    def unknown(roster: KeyRoster) -> KeyRoster:
        eve = forge(KEYS.log, Envelope.decode(roster.offers[0]), sender="eve").encode()
        return KeyRoster((*roster.offers, eve))

    def swapped(roster: KeyRoster) -> KeyRoster:
        """The coordinator answers for client-05 with a key of its own."""
        envelope = Envelope.decode(roster.offers[-1])
        mine = forge(KEYS.coordinator, envelope, body_of(envelope, KeyOffer))
        return KeyRoster((*roster.offers[:-1], mine.encode()))

    def repeated_key(roster: KeyRoster) -> KeyRoster:
        stolen = body_of(Envelope.decode(roster.offers[0]), KeyOffer)
        last = _offer_by(simulation, "client-05", roster.offers[-1], steps=stolen.steps)
        return KeyRoster((*roster.offers[:-1], last))

    def same_key_twice(roster: KeyRoster) -> KeyRoster:
        own = body_of(Envelope.decode(roster.offers[-1]), KeyOffer)
        step = StepOffer(own.share_key, own.steps[0].seed_commitment)
        last = _offer_by(simulation, "client-05", roster.offers[-1], steps=(step,))
        return KeyRoster((*roster.offers[:-1], last))

    def low_order(roster: KeyRoster) -> KeyRoster:
        last = _offer_by(simulation, "client-05", roster.offers[-1], share_key=bytes(32))
        return KeyRoster((*roster.offers[:-1], last))

    def too_many_steps(roster: KeyRoster) -> KeyRoster:
        own = body_of(Envelope.decode(roster.offers[-1]), KeyOffer)
        last = _offer_by(simulation, "client-05", roster.offers[-1], steps=own.steps * 2)
        return KeyRoster((*roster.offers[:-1], last))

    return {
        "unknown identity": (unknown, UnknownSender, "eve"),
        "offer signed by another": (swapped, UnknownSender, "not signed by the key enrolled"),
        "repeated key": (repeated_key, EquivocationError, "client-01 offered too"),
        "one key for two purposes": (same_key_twice, EquivocationError, "offered too"),
        "low-order key": (low_order, EquivocationError, "no valid point"),
        "more steps": (too_many_steps, EquivocationError, "keys for 2 steps"),
        "below the threshold": (
            lambda r: KeyRoster(r.offers[:3]),
            BelowThreshold,
            "3 clients offered keys, 4 are needed",
        ),
        "listed twice": (
            lambda r: KeyRoster((r.offers[0], *r.offers)),
            MalformedMessage,
            "each sender once",
        ),
        "unsorted": (
            lambda r: KeyRoster(tuple(reversed(r.offers))),
            MalformedMessage,
            "must be sorted",
        ),
        "not an envelope": (
            lambda r: KeyRoster((*r.offers[:-1], b"junk")),
            MalformedMessage,
            "does not decode",
        ),
        "without the receiver": (
            lambda r: KeyRoster(r.offers[1:]),
            RoundRefused,
            "left out",
        ),
    }


LIES = tuple(_roster_lies(exact_simulation(5)))


@pytest.mark.parametrize("lie", LIES)
def test_a_key_roster_that_lies(lie: str) -> None:
    simulation = exact_simulation(5)
    change, expected, text = _roster_lies(simulation)[lie]
    # The liar also signs under the context that its roster leads to.
    simulation.intercept = _with_context(simulation, change)
    assert simulation.run_round(1).outcome == "aborted"
    client = simulation.clients["client-01"]
    error = first_problem(client, expected)
    assert isinstance(error, expected)
    assert text in str(error)
    assert sent_types(simulation)["client-01"] == ["KeyOffer"]


def test_an_own_offer_that_came_back_changed() -> None:
    """Same keys, another signature by the same client: still not the bytes that it sent."""
    simulation = exact_simulation(5)

    def change(roster: KeyRoster) -> KeyRoster:
        own = forge(key_of(simulation, "client-01"), Envelope.decode(roster.offers[0]), sequence=7)
        return KeyRoster((own.encode(), *roster.offers[1:]))

    simulation.intercept = _with_context(simulation, change)
    simulation.run_round(1)
    (error,) = simulation.clients["client-01"].violations
    assert isinstance(error, EquivocationError)
    assert "own offer unchanged" in str(error)


def _with_context(simulation: RecordingSimulation, change: Change) -> Intercept:
    """Rewrites KeyRoster for everyone, under the context that fits the rewritten body."""

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if envelope.header.type != "KeyRoster":
            return ((recipient, envelope),)
        body = change(body_of(envelope, KeyRoster))
        assert isinstance(body, KeyRoster)
        state = simulation.clients[recipient].state
        assert isinstance(state, Offered)
        context = context1(state.session.context0, body_hash(body))
        return ((recipient, forge(key_of(simulation, sender), envelope, body, context=context)),)

    return network


def test_two_rosters_make_two_rounds_neither_of_which_has_a_quorum() -> None:
    """One half gets a roster without client-05, the other one without client-01."""
    simulation = exact_simulation(5)
    first = ("client-01", "client-02")

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if envelope.header.type != "KeyRoster":
            return ((recipient, envelope),)
        return _with_context(
            simulation,
            lambda r: KeyRoster(r.offers[:4] if recipient in first else r.offers[1:]),
        )(sender, recipient, envelope)

    simulation.intercept = network
    assert simulation.run_round(1).outcome == "aborted"
    contexts = {c.sent[-1].header.context for c in simulation.clients.values()}
    assert len(contexts) == 2
    assert revealed(simulation) == 0


# ---------------------------------------------------------------- step 3: the shares


@pytest.mark.parametrize(
    ("change", "expected", "text"),
    [
        (
            lambda d: ShareDelivery(d.dealers[:-1], d.shares[:-1]),
            None,  # one dealer less is nothing a single client can tell from a dropout
            "",
        ),
        (
            lambda d: ShareDelivery(d.dealers[:3], d.shares[:3]),
            BelowThreshold,
            "3 clients dealt shares, 4 are needed",
        ),
        (lambda d: ShareDelivery(d.dealers[1:], d.shares[1:]), RoundRefused, "left out"),
        (
            lambda d: ShareDelivery((*d.dealers, "eve"), (*d.shares, d.shares[0])),
            EquivocationError,
            "taking part in the round",
        ),
        (
            lambda d: ShareDelivery((d.dealers[0], *d.dealers), (d.shares[0], *d.shares)),
            EquivocationError,
            "distinct",
        ),
        (
            lambda d: ShareDelivery(d.dealers, d.shares[:-1]),
            EquivocationError,
            "one sealed entry per dealer",
        ),
        (
            lambda d: ShareDelivery(d.dealers, tuple(reversed(d.shares))),
            EquivocationError,
            "one sealed entry per dealer",
        ),
        (
            lambda d: ShareDelivery(
                d.dealers, (replace(d.shares[0], sealed=d.shares[1].sealed), *d.shares[1:])
            ),
            EquivocationError,
            "sealed for itself came back changed",
        ),
    ],
)
def test_a_share_delivery_that_lies(change: Any, expected: Any, text: str) -> None:
    simulation = exact_simulation(5)
    forging(simulation, "coordinator", "ShareDelivery", change, to=("client-01",))
    finished = simulation.run_round(1)
    client = simulation.clients["client-01"]
    if expected is None:
        # ... but its upload hash then names other dealers, and it is left out of the sum.
        assert any("another set of dealers" in str(error) for error in simulation.refused)
    else:
        assert isinstance(client.violations[0], expected)
        assert text in str(client.violations[0])
    assert "client-01" not in finished.accepted
    assert sent_types(simulation)["client-01"].count("Upload") == 0


def test_another_clients_delivery_is_of_no_use() -> None:
    simulation = exact_simulation(5)
    kept: dict[str, Envelope] = {}

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if envelope.header.type == "ShareDelivery":
            kept[recipient] = envelope
            if recipient == "client-02":
                return ((recipient, kept["client-01"]),)
        return ((recipient, envelope),)

    simulation.intercept = network
    simulation.run_round(1)
    assert "came back changed" in str(simulation.clients["client-02"].violations[0])


# ---------------------------------------------------------------- step 4: the upload set


def _hash_by(simulation: RecordingSimulation, name: str, encoded: bytes, **header: Any) -> bytes:
    return forge(key_of(simulation, name), Envelope.decode(encoded), **header).encode()


@pytest.mark.parametrize(
    ("lie", "expected", "text"),
    [
        ("own hash missing", RoundRefused, "left out"),
        ("own hash changed", EquivocationError, "another hash than this site signed"),
        ("other dealers", EquivocationError, "client-05 masked for another set of dealers"),
        ("copied upload", EquivocationError, "two clients committed to the same upload"),
        ("too few", BelowThreshold, "3 clients committed an update, 4 are needed"),
        ("twice", MalformedMessage, "each sender once"),
        ("unsigned", UnknownSender, "not signed by the key enrolled"),
    ],
)
def test_an_upload_set_that_lies(lie: str, expected: Any, text: str) -> None:
    simulation = exact_simulation(5)

    def change(upload_set: UploadSet) -> UploadSet:
        hashes = upload_set.hashes
        first, last = Envelope.decode(hashes[0]), Envelope.decode(hashes[-1])
        match lie:
            case "own hash missing":
                hashes = hashes[1:]
            case "own hash changed":  # signed by the client itself, as a colluder's would be
                key = key_of(simulation, "client-01")
                hashes = (forge(key, first, UploadHash(bytes(32), NO_HASH)).encode(), *hashes[1:])
            case "other dealers":
                key = key_of(simulation, "client-05")
                hashes = (*hashes[:-1], forge(key, last, refers_to=b"\x01" * 32).encode())
            case "copied upload":
                key = key_of(simulation, "client-05")
                copy = forge(key, last, body_of(first, UploadHash))
                hashes = (*hashes[:-1], copy.encode())
            case "too few":
                hashes = hashes[:3]
            case "twice":
                hashes = (hashes[0], *hashes)
            case "unsigned":
                forged = forge(KEYS.coordinator, last, UploadHash(b"\x01" * 32, NO_HASH))
                hashes = (*hashes[:-1], forged.encode())
        return UploadSet(hashes)

    forging(simulation, "coordinator", "UploadSet", change, to=("client-01",))
    finished = simulation.run_round(1)
    error = first_problem(simulation.clients["client-01"], expected)
    assert isinstance(error, expected)
    assert text in str(error)
    assert sent_types(simulation)["client-01"].count("Upload") == 0
    # With one client deceived the others, still four, finish without it.
    assert (finished.outcome, finished.removed) == ("completed", ("client-01",))


# ---------------------------------------------------------------- replay and splice


def _everything_sent_to(simulation: RecordingSimulation, name: str) -> list[Envelope]:
    return [
        event.envelope
        for client, _, event in simulation.client_tape
        if client == name and isinstance(event, Received)
    ]


def test_a_whole_round_replayed_into_the_next_one_changes_nothing() -> None:
    simulation = exact_simulation(5)
    simulation.run_round(1)
    old = _everything_sent_to(simulation, VICTIM)
    stale = [e for _, e in simulation.coordinator_tape if isinstance(e, Received)]
    assert len(old) == 8
    assert not simulation.clients[VICTIM].refused

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if recipient == VICTIM:
            return (*((VICTIM, e) for e in old), (recipient, envelope))
        if recipient == "coordinator":
            return (*(("coordinator", e.envelope) for e in stale), (recipient, envelope))
        return ((recipient, envelope),)

    simulation.intercept = network
    finished = simulation.run_round(2)
    assert finished.outcome == "completed"
    assert finished.accepted == simulation.federation.clients
    assert all_idle_at(simulation, finished.adapter_hash)
    # All of it eight times; only the old opening, met in no round, is reported as a violation.
    assert len(simulation.clients[VICTIM].refused) == 8 * 8 - 1
    assert [type(e) for e in simulation.clients[VICTIM].violations] == [RoundRefused]
    assert sent_types(simulation)[VICTIM].count("Unmask") == 2


def test_messages_of_another_federation_are_refused() -> None:
    """Same people, same keys, same round number; only the federation's name differs."""
    other = exact_simulation(5, federation="other")
    other.run_round(1)
    foreign = _everything_sent_to(other, VICTIM)
    simulation = exact_simulation(5)

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if recipient == VICTIM:
            return (*((VICTIM, e) for e in foreign), (recipient, envelope))
        return ((recipient, envelope),)

    simulation.intercept = network
    finished = simulation.run_round(1)
    assert finished.accepted == simulation.federation.clients
    client = simulation.clients[VICTIM]
    assert not client.violations
    assert len(client.refused) == 8 * 8


def test_a_foreign_clients_message_is_refused_by_the_coordinator() -> None:
    other = exact_simulation(5, federation="other")
    other.run_round(1)
    foreign = {e.header.type: e for e in other.clients[VICTIM].sent}
    simulation = exact_simulation(5)

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if sender == VICTIM:
            return ((recipient, foreign[envelope.header.type]), (recipient, envelope))
        return ((recipient, envelope),)

    simulation.intercept = network
    assert simulation.run_round(1).accepted == simulation.federation.clients
    wrong = [e for e in simulation.refused if isinstance(e, WrongContext)]
    assert len(wrong) == 7


def test_nobody_speaks_for_the_coordinator() -> None:
    simulation = exact_simulation(5)
    opening = _opening(simulation)
    colluder = key_of(simulation, "client-05")
    assert isinstance(_deliver(simulation, VICTIM, forge(colluder, opening)), UnknownSender)
    as_itself = forge(colluder, opening, sender="client-05")
    assert isinstance(_deliver(simulation, VICTIM, as_itself), UnknownSender)
    stranger = forge(colluder, opening, sender="eve")
    assert isinstance(_deliver(simulation, VICTIM, stranger), UnknownSender)
    bent = replace(opening, body=opening.body[:-1] + b"\x01")
    assert isinstance(_deliver(simulation, VICTIM, bent), UnknownSender)
    assert isinstance(simulation.clients[VICTIM].state, Idle)


def test_the_forger_of_these_tests_is_believed_when_it_tells_the_truth() -> None:
    """A control: re-signing without a change must not be what makes the other tests pass."""
    simulation = exact_simulation(5)
    for kind in ("ShareDelivery", "UploadSet"):
        simulation.intercept = Forger(simulation, "coordinator", kind)
    assert simulation.run_round(1).outcome == "completed"
    simulation.intercept = _with_context(simulation, lambda roster: roster)
    assert simulation.run_round(2).accepted == simulation.federation.clients
