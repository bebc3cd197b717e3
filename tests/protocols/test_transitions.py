"""Every state against every message: the one that is waited for, and a named error for the rest."""

from __future__ import annotations

from functools import cache

import pytest

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.client import client_step, leave_round
from fedfm_protocols.client_states import (
    Acked,
    Applying,
    ClientState,
    Committed,
    Idle,
    Offered,
    Shared,
    Training,
    Unmasked,
    Uploaded,
    Voted,
)
from fedfm_protocols.coordinator import coordinator_step
from fedfm_protocols.coordinator_states import (
    PHASES,
    CoordinatorState,
    Finished,
    RunningRound,
)
from fedfm_protocols.effects import (
    AdapterComputed,
    Deadline,
    Event,
    Persist,
    Received,
    RoundEnded,
    Send,
    UpdateReady,
)
from fedfm_protocols.errors import (
    MessageRefused,
    OutOfOrder,
    ProtocolError,
    ReplayedMessage,
    RoundRefused,
    UnknownSender,
    WrongContext,
)
from tests.protocols.federations import seeded_update
from tests.protocols.scripted import (
    CLIENT_MESSAGES,
    COORDINATOR_MESSAGES,
    START,
    RecordingSimulation,
    exact_simulation,
)

NAME = "client-01"
CLIENT_STATES: tuple[type[ClientState], ...] = (
    Idle,
    Offered,
    Shared,
    Training,
    Committed,
    Uploaded,
    Voted,
    Unmasked,
    Applying,
    Acked,
)
# What each state waits for; nothing else moves it forward.
AWAITED: dict[type[ClientState], str] = {
    Idle: "RoundOpen",
    Offered: "KeyRoster",
    Shared: "ShareDelivery",
    Committed: "UploadSet",
    Uploaded: "Cohort",
    Voted: "CohortProof",
    Unmasked: "Aggregate",
    Acked: "RoundClose",
}
TAKEN_BEFORE: dict[type[ClientState], int] = {
    Idle: 0,
    Offered: 1,
    Shared: 2,
    Training: 3,
    Committed: 3,
    Uploaded: 4,
    Voted: 5,
    Unmasked: 6,
    Applying: 7,
    Acked: 7,
}


@cache
def _recorded() -> RecordingSimulation:
    simulation = exact_simulation(5)
    simulation.run_round(1)
    simulation.run_round(2)
    return simulation


def _client_states(number: int) -> dict[type[ClientState], ClientState]:
    """The client's states in one of the recorded rounds."""
    found: dict[type[ClientState], ClientState] = {}
    for name, state, _ in _recorded().client_tape:
        if name != NAME:
            continue
        in_round = not isinstance(state, Idle) and state.session.identity.round == number
        if in_round or (isinstance(state, Idle) and state.memory.last_opened == number - 1):
            found.setdefault(type(state), state)
    return found


def _messages_to_client(number: int) -> dict[str, Envelope]:
    mine = [
        event.envelope
        for name, _, event in _recorded().client_tape
        if name == NAME and isinstance(event, Received)
    ]
    return {envelope.header.type: envelope for envelope in mine[8 * (number - 1) : 8 * number]}


def _expected(state: type[ClientState], kind: str) -> type[ProtocolError] | None:
    """The protocol's own table; None where the message is taken."""
    if AWAITED.get(state) == kind:
        return None
    if state is Idle:
        return OutOfOrder
    if kind == "RoundClose":
        # Completed without this site: it leaves.  Applying only waits for its own computation,
        # and Offered cannot know the context that the roster fixed.
        return {Applying: OutOfOrder, Offered: WrongContext}.get(state, RoundRefused)
    if kind in COORDINATOR_MESSAGES[: TAKEN_BEFORE[state]]:
        return ReplayedMessage
    if state is Training and kind == "UploadSet":
        return RoundRefused  # the others went on before this site had finished training
    return OutOfOrder


@pytest.mark.parametrize("kind", COORDINATOR_MESSAGES)
@pytest.mark.parametrize("state", CLIENT_STATES)
def test_client_state_against_message(state: type[ClientState], kind: str) -> None:
    at = _client_states(1)[state]
    event = Received(_messages_to_client(1)[kind])
    context = _recorded().clients[NAME].context
    expected = _expected(state, kind)
    if expected is None:
        assert client_step(context, at, event).state is not at
        return
    before = repr(at)
    with pytest.raises(ProtocolError) as caught:
        client_step(context, at, event)
    assert type(caught.value) is expected
    assert repr(at) == before
    if not issubclass(expected, MessageRefused):
        left = leave_round(at, str(caught.value))
        assert isinstance(left.state, Idle)
        assert left.state.memory.adapter_hash == START
        assert not [effect for effect in left.effects if isinstance(effect, Send)]


@pytest.mark.parametrize("kind", COORDINATOR_MESSAGES)
@pytest.mark.parametrize("state", CLIENT_STATES)
@pytest.mark.parametrize("direction", ["stale", "future"])
def test_client_state_against_message_of_another_round(
    direction: str, state: type[ClientState], kind: str
) -> None:
    """A message of round 1 in round 2, and of round 2 in round 1: dropped, the round goes on."""
    here, there = (2, 1) if direction == "stale" else (1, 2)
    at = _client_states(here)[state]
    context = _recorded().clients[NAME].context
    before = repr(at)
    with pytest.raises(ProtocolError) as caught:
        client_step(context, at, Received(_messages_to_client(there)[kind]))
    assert repr(at) == before
    if kind == "RoundOpen" and (direction == "future" or state is Idle):
        # An opening is judged as one: this one starts from an adapter that the site lacks, or
        # repeats a number while the site is in no round that could suffer.
        assert type(caught.value) is RoundRefused
    else:
        assert isinstance(caught.value, WrongContext | OutOfOrder | ReplayedMessage)


@pytest.mark.parametrize("state", CLIENT_STATES)
def test_client_state_against_its_own_events(state: type[ClientState]) -> None:
    at = _client_states(1)[state]
    context = _recorded().clients[NAME].context
    events: tuple[tuple[Event, type[ClientState] | None], ...] = (
        (UpdateReady(1, 0, seeded_update(NAME, 1)), Training),
        (AdapterComputed(1, bytes(32)), Applying),
        (Deadline("training"), None),
    )
    for event, wanted in events:
        if state is wanted:
            assert client_step(context, at, event).effects
        else:
            with pytest.raises(OutOfOrder):
                client_step(context, at, event)


@pytest.mark.parametrize("state", [s for s in CLIENT_STATES if s is not Idle])
def test_leaving_a_round_drops_everything_but_the_memory(state: type[ClientState]) -> None:
    left = leave_round(_client_states(1)[state], "because")
    assert isinstance(left.state, Idle)
    assert {type(effect) for effect in left.effects} == {Persist, RoundEnded}
    assert left.state.memory.last_opened == 1
    assert left.state.memory.last_applied == 0


def test_leaving_no_round_is_nothing() -> None:
    idle = _client_states(1)[Idle]
    assert leave_round(idle, "because").state is idle


def test_secrets_are_gone_with_the_state_that_held_them() -> None:
    """From step 4a on a client cannot regrow its own masks, from step 11 on it holds no share."""
    states = _client_states(1)
    assert {s for s in states if hasattr(states[s], "secrets")} == {Offered, Shared, Training}
    assert {s for s in states if hasattr(states[s], "held")} == {
        Training,
        Committed,
        Uploaded,
        Voted,
    }
    assert {s for s in states if hasattr(states[s], "upload")} == {Committed}


def test_what_must_survive_a_crash_is_persisted_before_it_is_said() -> None:
    for kind, record in (("RoundOpen", "opened"), ("Cohort", "voted"), ("CohortProof", "unmasked")):
        state = next(s for s, awaited in AWAITED.items() if awaited == kind)
        context = _recorded().clients[NAME].context
        effects = client_step(
            context, _client_states(1)[state], Received(_messages_to_client(1)[kind])
        ).effects
        kinds = [type(effect) for effect in effects]
        assert kinds == [Persist, Send]
        assert isinstance(effects[0], Persist)
        assert (effects[0].round, effects[0].record) == (1, record)


def test_a_transition_is_repeatable() -> None:
    """Same state, same message: the same public result (the functional core has no memory)."""
    context = _recorded().clients[NAME].context
    state, event = _client_states(1)[Uploaded], Received(_messages_to_client(1)["Cohort"])
    first, second = (client_step(context, state, event) for _ in range(2))
    assert first.effects == second.effects


# ---------------------------------------------------------------- the coordinator

COORDINATOR_PHASES = tuple(PHASES)


def _coordinator_states(number: int) -> dict[type[CoordinatorState], CoordinatorState]:
    """The first state of each phase of one recorded round."""
    found: dict[type[CoordinatorState], CoordinatorState] = {}
    for state, _ in _recorded().coordinator_tape:
        if state.round.identity.round == number:
            found.setdefault(type(state), state)
    return found


def _messages_from_client(number: int) -> dict[str, Envelope]:
    sent = _recorded().clients[NAME].sent
    per_round = len(CLIENT_MESSAGES)
    return {e.header.type: e for e in sent[per_round * (number - 1) : per_round * number]}


@pytest.mark.parametrize("kind", CLIENT_MESSAGES)
@pytest.mark.parametrize("phase", COORDINATOR_PHASES)
def test_coordinator_phase_against_message(phase: type[RunningRound], kind: str) -> None:
    at = _coordinator_states(1)[phase]
    index = COORDINATOR_PHASES.index(phase)
    event = Received(_messages_from_client(1)[kind])
    context = _recorded().coordinator
    if CLIENT_MESSAGES[index] == kind:
        assert coordinator_step(context, at, event).state is not at
        return
    before = repr(at)
    with pytest.raises(MessageRefused) as caught:
        coordinator_step(context, at, event)
    assert repr(at) == before
    if kind in CLIENT_MESSAGES[:index]:
        assert type(caught.value) is ReplayedMessage
    elif index == 0:
        assert type(caught.value) is WrongContext  # signed under keys that are not fixed yet
    else:
        assert type(caught.value) is OutOfOrder


@pytest.mark.parametrize("kind", CLIENT_MESSAGES)
@pytest.mark.parametrize("phase", COORDINATOR_PHASES)
def test_coordinator_phase_against_message_of_another_round(
    phase: type[RunningRound], kind: str
) -> None:
    same = ("CohortVote",) if PHASES[phase] in ("unmasking", "acknowledgements") else ()
    for here, there in ((1, 2), (2, 1)):
        at = _coordinator_states(here)[phase]
        # Votes of two rounds for cohorts of the same people have the same body.
        with pytest.raises(ReplayedMessage if kind in same else WrongContext):
            coordinator_step(
                _recorded().coordinator, at, Received(_messages_from_client(there)[kind])
            )


@pytest.mark.parametrize("kind", COORDINATOR_MESSAGES)
@pytest.mark.parametrize("phase", COORDINATOR_PHASES)
def test_coordinator_refuses_its_own_messages(phase: type[RunningRound], kind: str) -> None:
    with pytest.raises(UnknownSender):
        coordinator_step(
            _recorded().coordinator,
            _coordinator_states(1)[phase],
            Received(_messages_to_client(1)[kind]),
        )


@pytest.mark.parametrize("phase", COORDINATOR_PHASES)
def test_deadlines_end_only_their_own_phase(phase: type[RunningRound]) -> None:
    at = _coordinator_states(1)[phase]
    context = _recorded().coordinator
    for name in PHASES.values():
        after = coordinator_step(context, at, Deadline(name)).state
        if name == PHASES[phase]:
            # Nobody has answered in the first state of a phase, so its deadline ends the round.
            assert isinstance(after, Finished)
            assert after.outcome in ("aborted", "void")
        else:
            assert after is at


def test_a_finished_round_takes_nothing() -> None:
    finished = _recorded().state
    assert isinstance(finished, Finished)
    for envelope in _messages_from_client(2).values():
        with pytest.raises(OutOfOrder, match="the round is over"):
            coordinator_step(_recorded().coordinator, finished, Received(envelope))


def test_a_coordinator_has_no_use_for_a_clients_events() -> None:
    at = _coordinator_states(1)[COORDINATOR_PHASES[0]]
    with pytest.raises(OutOfOrder):
        coordinator_step(_recorded().coordinator, at, AdapterComputed(1, bytes(32)))


# ---------------------------------------------------------------- numbering and transcript


def test_clients_number_their_messages_per_context_from_zero() -> None:
    for client in _recorded().clients.values():
        sent = client.sent[: len(CLIENT_MESSAGES)]
        assert [e.header.sequence for e in sent] == [0, 0, 1, 2, 3, 4, 5]
        contexts = [e.header.context for e in sent]
        assert len(set(contexts)) == 2
        assert contexts[0] not in contexts[1:]


def test_the_coordinator_numbers_its_messages_per_context_from_zero() -> None:
    by_context: dict[bytes, dict[int, str]] = {}
    for _, _, event in _recorded().client_tape:
        if isinstance(event, Received) and event.envelope.header.sender == "coordinator":
            header = event.envelope.header
            by_context.setdefault(header.context, {})[header.sequence] = header.type
    for numbered in by_context.values():
        kinds = [numbered[number] for number in range(len(numbered))]
        assert kinds in (
            ["RoundOpen"],
            [
                "KeyRoster",
                *["ShareDelivery"] * 5,
                "UploadSet",
                "Cohort",
                "CohortProof",
                "Aggregate",
                "RoundClose",
            ],
        )


def test_the_transcript_shows_public_bodies_only() -> None:
    finished = _recorded().state
    assert isinstance(finished, Finished)
    shown = {
        entry.signed.header.type for entry in finished.round.transcript if entry.body is not None
    }
    hidden = {entry.signed.header.type for entry in finished.round.transcript if entry.body is None}
    assert shown == {
        "RoundOpen",
        "KeyOffer",
        "UploadHash",
        "Cohort",
        "CohortVote",
        "RoundAck",
        "RoundClose",
    }
    assert {"ShareBundle", "ShareDelivery", "Upload", "Unmask", "Aggregate"} <= hidden
    for entry in finished.round.transcript:
        sender = entry.signed.header.sender
        entry.signed.verify(_recorded().federation.identities[sender])
        if entry.body is not None:
            entry.signed.check_body(entry.body)
