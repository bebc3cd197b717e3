"""Every state against every message: the one that is waited for, and a named error for the rest."""

from __future__ import annotations

from dataclasses import dataclass
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
    Opened,
    Shared,
    Training,
    Unmasked,
    Uploaded,
    Voted,
)
from fedfm_protocols.coordinator import coordinator_step
from fedfm_protocols.coordinator_states import (
    Acking,
    Committing,
    CoordinatorState,
    Drawing,
    Finished,
    Offering,
    RunningRound,
    Sharing,
    Unmasking,
    Uploading,
    Voting,
    phase_of,
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
from fedfm_protocols.messages import GraphNonce, GraphNonces
from tests.protocols.federations import seeded_update
from tests.protocols.scripted import (
    CLIENT_MESSAGES,
    COORDINATOR_MESSAGES,
    SPARSE_CLIENT_MESSAGES,
    SPARSE_COORDINATOR_MESSAGES,
    START,
    RecordingSimulation,
    exact_simulation,
    forge,
)

NAME = "client-01"
# What each state waits for; nothing else moves it forward.
AWAITED: dict[type[ClientState], str] = {
    Idle: "RoundOpen",
    Offered: "KeyRoster",
    Opened: "GraphNonces",
    Shared: "ShareDelivery",
    Committed: "UploadSet",
    Uploaded: "Cohort",
    Voted: "CohortProof",
    Unmasked: "Aggregate",
    Acked: "RoundClose",
}


@dataclass(frozen=True)
class Graph:
    """The protocol's tables on one kind of masking graph; messages, states and phases in order."""

    name: str
    clients: int
    client_messages: tuple[str, ...]
    coordinator_messages: tuple[str, ...]
    states: tuple[type[ClientState], ...]
    phases: tuple[type[RunningRound], ...]

    def __str__(self) -> str:
        return self.name

    def taken_before(self, state: type[ClientState]) -> tuple[str, ...]:
        """The coordinator's messages that a client in this state has taken."""
        earlier = self.states[: self.states.index(state)]
        return self.coordinator_messages[: sum(s in AWAITED for s in earlier)]


COMPLETE = Graph(
    "complete",
    5,
    CLIENT_MESSAGES,
    COORDINATOR_MESSAGES,
    (
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
    ),
    (Offering, Sharing, Committing, Uploading, Voting, Unmasking, Acking),
)
SPARSE = Graph(
    "sparse",
    66,
    SPARSE_CLIENT_MESSAGES,
    SPARSE_COORDINATOR_MESSAGES,
    (Idle, Offered, Opened, *COMPLETE.states[2:]),
    (Offering, Drawing, *COMPLETE.phases[1:]),
)
GRAPHS = (COMPLETE, SPARSE)
ON_GRAPHS = pytest.mark.parametrize("graph", GRAPHS, ids=str)
CLIENT_STATES = pytest.mark.parametrize(
    ("graph", "state"),
    [
        pytest.param(graph, state, id=f"{graph}-{state.__name__}")
        for graph in GRAPHS
        for state in graph.states
    ],
)
STATES_AND_MESSAGES = pytest.mark.parametrize(
    ("graph", "state", "kind"),
    [
        pytest.param(graph, state, kind, id=f"{graph}-{state.__name__}-{kind}")
        for graph in GRAPHS
        for state in graph.states
        for kind in graph.coordinator_messages
    ],
)
COORDINATOR_PHASES = pytest.mark.parametrize(
    ("graph", "phase"),
    [
        pytest.param(graph, phase, id=f"{graph}-{phase.__name__}")
        for graph in GRAPHS
        for phase in graph.phases
    ],
)
PHASES_AND_MESSAGES = pytest.mark.parametrize(
    ("graph", "phase", "kind"),
    [
        pytest.param(graph, phase, kind, id=f"{graph}-{phase.__name__}-{kind}")
        for graph in GRAPHS
        for phase in graph.phases
        for kind in graph.client_messages
    ],
)
PHASES_AND_OWN_MESSAGES = pytest.mark.parametrize(
    ("graph", "phase", "kind"),
    [
        pytest.param(graph, phase, kind, id=f"{graph}-{phase.__name__}-{kind}")
        for graph in GRAPHS
        for phase in graph.phases
        for kind in graph.coordinator_messages
    ],
)


@cache
def _recorded(graph: Graph) -> RecordingSimulation:
    simulation = exact_simulation(graph.clients)
    simulation.run_round(1)
    simulation.run_round(2)
    return simulation


def _client_states(graph: Graph, number: int) -> dict[type[ClientState], ClientState]:
    """The client's states in one of the recorded rounds."""
    found: dict[type[ClientState], ClientState] = {}
    for name, state, _ in _recorded(graph).client_tape:
        if name != NAME:
            continue
        in_round = not isinstance(state, Idle) and state.session.identity.round == number
        if in_round or (isinstance(state, Idle) and state.memory.last_opened == number - 1):
            found.setdefault(type(state), state)
    return found


def _messages_to_client(graph: Graph, number: int) -> dict[str, Envelope]:
    mine = [
        event.envelope
        for name, _, event in _recorded(graph).client_tape
        if name == NAME and isinstance(event, Received)
    ]
    per_round = len(graph.coordinator_messages)
    of_round = mine[per_round * (number - 1) : per_round * number]
    return {envelope.header.type: envelope for envelope in of_round}


def _expected(graph: Graph, state: type[ClientState], kind: str) -> type[ProtocolError] | None:
    """The protocol's own table; None where the message is taken."""
    if AWAITED.get(state) == kind:
        return None
    if state is Idle:
        return OutOfOrder
    if kind == "RoundClose":
        # Completed without this site: it leaves.  Applying only waits for its own computation,
        # and Offered cannot know the context that the roster fixed.
        return {Applying: OutOfOrder, Offered: WrongContext}.get(state, RoundRefused)
    if kind in graph.taken_before(state):
        return ReplayedMessage
    if state is Training and kind == "UploadSet":
        return RoundRefused  # the others went on before this site had finished training
    return OutOfOrder


@STATES_AND_MESSAGES
def test_client_state_against_message(graph: Graph, state: type[ClientState], kind: str) -> None:
    at = _client_states(graph, 1)[state]
    event = Received(_messages_to_client(graph, 1)[kind])
    context = _recorded(graph).clients[NAME].context
    expected = _expected(graph, state, kind)
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


@STATES_AND_MESSAGES
@pytest.mark.parametrize("direction", ["stale", "future"])
def test_client_state_against_message_of_another_round(
    direction: str, graph: Graph, state: type[ClientState], kind: str
) -> None:
    """A message of round 1 in round 2, and of round 2 in round 1: dropped, the round goes on."""
    here, there = (2, 1) if direction == "stale" else (1, 2)
    at = _client_states(graph, here)[state]
    context = _recorded(graph).clients[NAME].context
    before = repr(at)
    with pytest.raises(ProtocolError) as caught:
        client_step(context, at, Received(_messages_to_client(graph, there)[kind]))
    assert repr(at) == before
    if kind == "RoundOpen" and (direction == "future" or state is Idle):
        # An opening is judged as one: this one starts from an adapter that the site lacks, or
        # repeats a number while the site is in no round that could suffer.
        assert type(caught.value) is RoundRefused
    else:
        assert isinstance(caught.value, WrongContext | OutOfOrder | ReplayedMessage)


@pytest.mark.parametrize("state", COMPLETE.states)
def test_nonces_are_not_taken_where_the_graph_needs_none(state: type[ClientState]) -> None:
    simulation, at = _recorded(COMPLETE), _client_states(COMPLETE, 1)[state]
    context = simulation.clients[NAME].context
    fixed = _messages_to_client(COMPLETE, 1)["UploadSet"]
    forged = forge(simulation.coordinator.site.key, fixed, GraphNonces(()), type="GraphNonces")
    with pytest.raises(OutOfOrder, match="GraphNonces"):
        client_step(context, at, Received(forged))


@CLIENT_STATES
def test_client_state_against_its_own_events(graph: Graph, state: type[ClientState]) -> None:
    at = _client_states(graph, 1)[state]
    context = _recorded(graph).clients[NAME].context
    events: tuple[tuple[Event, type[ClientState] | None], ...] = (
        (UpdateReady(1, 0, seeded_update(NAME, 1)), Training),
        (AdapterComputed(1, 0, bytes(32)), Applying),
        (Deadline("training"), None),
    )
    for event, wanted in events:
        if state is wanted:
            assert client_step(context, at, event).effects
        else:
            with pytest.raises(OutOfOrder):
                client_step(context, at, event)


@pytest.mark.parametrize(
    ("graph", "state"),
    [
        pytest.param(graph, state, id=f"{graph}-{state.__name__}")
        for graph in GRAPHS
        for state in graph.states
        if state is not Idle
    ],
)
def test_leaving_a_round_drops_everything_but_the_memory(
    graph: Graph, state: type[ClientState]
) -> None:
    left = leave_round(_client_states(graph, 1)[state], "because")
    assert isinstance(left.state, Idle)
    assert {type(effect) for effect in left.effects} == {Persist, RoundEnded}
    assert left.state.memory.last_opened == 1
    assert left.state.memory.last_applied == 0


@ON_GRAPHS
def test_leaving_no_round_is_nothing(graph: Graph) -> None:
    idle = _client_states(graph, 1)[Idle]
    assert leave_round(idle, "because").state is idle


@ON_GRAPHS
def test_secrets_are_gone_with_the_state_that_held_them(graph: Graph) -> None:
    """From step 4a on a client cannot regrow its own masks, from step 11 on it holds no share."""
    states = _client_states(graph, 1)
    before = {Offered, Shared} | ({Opened} if graph is SPARSE else set())
    assert {s for s in states if hasattr(states[s], "secrets")} == before
    assert {s for s in states if hasattr(states[s], "held")} == {
        Training,
        Committed,
        Uploaded,
        Voted,
    }
    assert {s for s in states if hasattr(states[s], "protect")} == {Training}
    assert {s for s in states if hasattr(states[s], "upload")} == {Committed}


@ON_GRAPHS
def test_what_must_survive_a_crash_is_persisted_before_it_is_said(graph: Graph) -> None:
    for kind, record in (("RoundOpen", "opened"), ("Cohort", "voted"), ("CohortProof", "unmasked")):
        state = next(s for s, awaited in AWAITED.items() if awaited == kind)
        context = _recorded(graph).clients[NAME].context
        effects = client_step(
            context, _client_states(graph, 1)[state], Received(_messages_to_client(graph, 1)[kind])
        ).effects
        kinds = [type(effect) for effect in effects]
        assert kinds == [Persist, Send]
        assert isinstance(effects[0], Persist)
        assert (effects[0].round, effects[0].record) == (1, record)


@ON_GRAPHS
def test_a_transition_is_repeatable(graph: Graph) -> None:
    """Same state, same message: the same public result (the functional core has no memory)."""
    context = _recorded(graph).clients[NAME].context
    state, event = (
        _client_states(graph, 1)[Uploaded],
        Received(_messages_to_client(graph, 1)["Cohort"]),
    )
    first, second = (client_step(context, state, event) for _ in range(2))
    assert first.effects == second.effects


# ---------------------------------------------------------------- the coordinator


def _coordinator_states(
    graph: Graph, number: int
) -> dict[type[CoordinatorState], CoordinatorState]:
    """The first state of each phase of one recorded round."""
    found: dict[type[CoordinatorState], CoordinatorState] = {}
    for state, _ in _recorded(graph).coordinator_tape:
        if state.round.identity.round == number:
            found.setdefault(type(state), state)
    return found


def _running(graph: Graph, phase: type[RunningRound]) -> RunningRound:
    """The first state of a phase of the first recorded round."""
    state = _coordinator_states(graph, 1)[phase]
    assert not isinstance(state, Finished)
    return state


def _messages_from_client(graph: Graph, number: int) -> dict[str, Envelope]:
    sent = _recorded(graph).clients[NAME].sent
    per_round = len(graph.client_messages)
    return {e.header.type: e for e in sent[per_round * (number - 1) : per_round * number]}


@PHASES_AND_MESSAGES
def test_coordinator_phase_against_message(
    graph: Graph, phase: type[RunningRound], kind: str
) -> None:
    at = _coordinator_states(graph, 1)[phase]
    index = graph.phases.index(phase)
    event = Received(_messages_from_client(graph, 1)[kind])
    context = _recorded(graph).coordinator
    if graph.client_messages[index] == kind:
        assert coordinator_step(context, at, event).state is not at
        return
    before = repr(at)
    with pytest.raises(MessageRefused) as caught:
        coordinator_step(context, at, event)
    assert repr(at) == before
    if kind in graph.client_messages[:index]:
        assert type(caught.value) is ReplayedMessage
    elif index == 0:
        assert type(caught.value) is WrongContext  # signed under keys that are not fixed yet
    else:
        assert type(caught.value) is OutOfOrder


@pytest.mark.parametrize("phase", COMPLETE.phases)
def test_a_nonce_is_not_taken_where_the_graph_needs_none(phase: type[RunningRound]) -> None:
    simulation, at = _recorded(COMPLETE), _coordinator_states(COMPLETE, 1)[phase]
    key = simulation.clients[NAME].context.site.key
    sample = _messages_from_client(COMPLETE, 1)["CohortVote"]
    forged = forge(key, sample, GraphNonce(bytes(32)), type="GraphNonce", context=at.round.context)
    with pytest.raises(OutOfOrder, match="GraphNonce"):
        coordinator_step(simulation.coordinator, at, Received(forged))


@PHASES_AND_MESSAGES
def test_coordinator_phase_against_message_of_another_round(
    graph: Graph, phase: type[RunningRound], kind: str
) -> None:
    for here, there in ((1, 2), (2, 1)):
        at = _coordinator_states(graph, here)[phase]
        with pytest.raises(WrongContext):
            coordinator_step(
                _recorded(graph).coordinator,
                at,
                Received(_messages_from_client(graph, there)[kind]),
            )


@PHASES_AND_OWN_MESSAGES
def test_coordinator_refuses_its_own_messages(
    graph: Graph, phase: type[RunningRound], kind: str
) -> None:
    with pytest.raises(UnknownSender):
        coordinator_step(
            _recorded(graph).coordinator,
            _coordinator_states(graph, 1)[phase],
            Received(_messages_to_client(graph, 1)[kind]),
        )


@COORDINATOR_PHASES
def test_deadlines_end_only_their_own_phase(graph: Graph, phase: type[RunningRound]) -> None:
    at = _coordinator_states(graph, 1)[phase]
    context = _recorded(graph).coordinator
    for other in graph.phases:
        name = phase_of(_running(graph, other))
        after = coordinator_step(context, at, Deadline(name)).state
        if other is phase:
            # Nobody has answered in the first state of a phase, so its deadline ends the round.
            assert isinstance(after, Finished)
            assert after.outcome in ("aborted", "void")
        else:
            assert after is at


@ON_GRAPHS
def test_a_finished_round_takes_nothing(graph: Graph) -> None:
    finished = _recorded(graph).state
    assert isinstance(finished, Finished)
    for envelope in _messages_from_client(graph, 2).values():
        with pytest.raises(OutOfOrder, match="the round is over"):
            coordinator_step(_recorded(graph).coordinator, finished, Received(envelope))


@ON_GRAPHS
def test_a_coordinator_has_no_use_for_a_clients_events(graph: Graph) -> None:
    at = _coordinator_states(graph, 1)[graph.phases[0]]
    with pytest.raises(OutOfOrder):
        coordinator_step(_recorded(graph).coordinator, at, AdapterComputed(1, 0, bytes(32)))


# ---------------------------------------------------------------- numbering and transcript


@ON_GRAPHS
def test_clients_number_their_messages_per_context_from_zero(graph: Graph) -> None:
    for client in _recorded(graph).clients.values():
        sent = client.sent[: len(graph.client_messages)]
        assert [e.header.sequence for e in sent] == [0, *range(len(graph.client_messages) - 1)]
        contexts = [e.header.context for e in sent]
        assert len(set(contexts)) == 2
        assert contexts[0] not in contexts[1:]


@ON_GRAPHS
def test_the_coordinator_numbers_its_messages_per_context_from_zero(graph: Graph) -> None:
    by_context: dict[bytes, dict[int, str]] = {}
    for _, _, event in _recorded(graph).client_tape:
        if isinstance(event, Received) and event.envelope.header.sender == "coordinator":
            header = event.envelope.header
            by_context.setdefault(header.context, {})[header.sequence] = header.type
    for numbered in by_context.values():
        kinds = [numbered[number] for number in range(len(numbered))]
        assert kinds in (
            ["RoundOpen"],
            [
                "KeyRoster",
                *(["GraphNonces"] if graph is SPARSE else []),
                *["ShareDelivery"] * graph.clients,
                "UploadSet",
                "Cohort",
                "CohortProof",
                "Aggregate",
                "RoundClose",
            ],
        )


@ON_GRAPHS
def test_the_transcript_shows_public_bodies_only(graph: Graph) -> None:
    finished = _recorded(graph).state
    assert isinstance(finished, Finished)
    shown = {
        entry.signed.header.type
        for entry in finished.round.transcript.entries
        if entry.body is not None
    }
    hidden = {
        entry.signed.header.type
        for entry in finished.round.transcript.entries
        if entry.body is None
    }
    assert shown == {
        "RoundOpen",
        "KeyOffer",
        "UploadHash",
        "Cohort",
        "CohortVote",
        "RoundAck",
        "RoundClose",
        *(["GraphNonce"] if graph is SPARSE else []),
    }
    assert {"ShareBundle", "ShareDelivery", "Upload", "Unmask", "Aggregate"} <= hidden
    for entry in finished.round.transcript.entries:
        sender = entry.signed.header.sender
        entry.signed.verify(_recorded(graph).federation.identities[sender])
        if entry.body is not None:
            entry.signed.check_body(entry.body)
