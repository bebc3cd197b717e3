"""The server's judgement of frames, without sockets."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fedfm.transport.errors import FramingError, MalformedFrameError, QuotaError
from secure_fedfm.transport.framing import Hello, Ping, Welcome, plan_message
from secure_fedfm.transport.limits import TransportLimits
from secure_fedfm.transport.reception import Greeting, Inbound, Reception

LIMITS = TransportLimits(
    chunk_bytes=10,
    min_chunk_bytes=4,
    max_message_bytes=100,
    max_bytes_in_flight=150,
    messages_per_second=10,
    message_burst=20,
    max_waiting_messages=3,
)
KEY = bytes(range(32))
FIRST, SECOND = b"\0\0\0\0\1", b"\0\0\0\0\2"
HELLO = Hello(b"i" * 16, 1).encode()


def greeted(limits: TransportLimits = LIMITS) -> Reception:
    reception = Reception(limits)
    assert isinstance(reception.take(FIRST, "alice", KEY, [HELLO], 0.0), Greeting)
    return reception


def send(reception: Reception, payload: bytes, message_id: int, now: float) -> Inbound | None:
    taken = None
    for chunk in plan_message(payload, LIMITS).chunks(message_id):
        taken = reception.take(FIRST, "alice", KEY, [chunk.encode()], now)
    assert not isinstance(taken, Greeting)
    return taken


def test_greet_then_send() -> None:
    inbound = send(greeted(), b"x" * 25, 1, 0.0)
    assert inbound is not None
    assert (inbound.sender, inbound.message.take()) == ("alice", b"x" * 25)


def test_no_message_before_the_greeting_or_after_replacement() -> None:
    with pytest.raises(MalformedFrameError, match="did not greet"):
        send(Reception(LIMITS), b"early", 1, 0.0)
    reception = greeted()
    taken = reception.take(SECOND, "alice", KEY, [Hello(b"j" * 16, 1).encode()], 0.0)
    assert isinstance(taken, Greeting)
    assert taken.by_another_process
    with pytest.raises(MalformedFrameError, match="replaced"):
        send(reception, b"late", 1, 0.0)
    assert reception.routes.names() == {"alice"}


def test_the_same_process_reconnecting_is_no_duplicate() -> None:
    taken = greeted().take(SECOND, "alice", KEY, [Hello(b"i" * 16, 2).encode()], 0.0)
    assert isinstance(taken, Greeting)
    assert taken.replaced is not None
    assert not taken.by_another_process


def test_a_greeting_left_over_from_the_last_connection_may_be_corrected() -> None:
    """A client whose server was restarted may greet for the old connection on the new one."""
    reception = greeted()
    chunk, *_ = plan_message(b"begun before the correction", LIMITS).chunks(1)
    reception.take(FIRST, "alice", KEY, [chunk.encode()], 0.0)
    taken = reception.take(FIRST, "alice", KEY, [Hello(b"i" * 16, 2).encode()], 0.0)
    assert isinstance(taken, Greeting)
    assert (taken.replaced, taken.route.hello.connection) == (None, 2)
    assert taken.route.reassembler.pending_bytes == 0
    assert reception.routes.of("alice") is taken.route
    inbound = send(reception, b"goes on", (2 << 32) | 1, 0.0)
    assert inbound is not None


@pytest.mark.parametrize("hello", [Hello(b"j" * 16, 2), Hello(b"i" * 16, 0)])
def test_no_other_second_greeting_on_one_connection(hello: Hello) -> None:
    with pytest.raises(MalformedFrameError, match="second, different greeting"):
        greeted().take(FIRST, "alice", KEY, [hello.encode()], 0.0)


def test_a_route_answers_only_to_its_own_name() -> None:
    chunk = next(plan_message(b"forged", LIMITS).chunks(1)).encode()
    with pytest.raises(MalformedFrameError):
        greeted().take(FIRST, "mallory", KEY, [chunk], 0.0)


@pytest.mark.parametrize("identity", [b"alice", b"alic", b"", b"\0\0\0\0\0\1"])
def test_chosen_identities_are_refused(identity: bytes) -> None:
    with pytest.raises(MalformedFrameError, match="identity"):
        Reception(LIMITS).take(identity, "alice", KEY, [HELLO], 0.0)


def test_rate_has_a_burst_and_refills() -> None:
    reception = greeted(dataclasses.replace(LIMITS, max_waiting_messages=1000))
    for i in range(19):  # the greeting took one of the 20
        send(reception, b"x", i, 0.0)
    with pytest.raises(QuotaError, match="messages a second"):
        send(reception, b"x", 50, 0.0)
    assert send(reception, b"x", 51, 0.11) is not None
    # Somebody else's quota is untouched.
    assert reception.take(SECOND, "bob", KEY, [HELLO], 0.0) is not None


def test_waiting_messages_count_until_received() -> None:
    reception = greeted()
    held = [send(reception, b"x", i, 0.0) for i in range(3)]
    with pytest.raises(QuotaError, match="wait to be read"):
        send(reception, b"x", 9, 0.0)
    assert held[0] is not None
    held[0].message.take()
    assert send(reception, b"x", 10, 0.0) is not None


def test_bytes_in_flight_count_waiting_and_partial() -> None:
    reception = greeted()
    assert send(reception, bytes(100), 1, 0.0) is not None
    with pytest.raises(QuotaError, match="bytes in flight"):
        send(reception, bytes(60), 2, 0.0)
    route = reception.routes.of("alice")
    assert route is not None
    assert route.reassembler.pending_bytes == 0


FRAMES = st.one_of(
    st.binary(max_size=150),
    st.binary(max_size=150).map(lambda tail: b"\x01\x00" + tail),
    st.sampled_from([HELLO, Ping().encode(), Welcome(1).encode()]),
    st.builds(
        lambda payload, number, position: [
            chunk.encode() for chunk in plan_message(payload, LIMITS).chunks(number)
        ][position % max(1, -(-len(payload) // LIMITS.chunk_bytes))],
        st.binary(max_size=100),
        st.integers(0, 20),
        st.integers(0, 9),
    ),
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([FIRST, SECOND, b"chosen"]),
            st.sampled_from(["alice", "bob"]),
            st.lists(FRAMES, max_size=2),
        ),
        max_size=60,
    )
)
@settings(max_examples=150, deadline=None)
def test_any_sequence_of_frames_ends_in_named_errors_and_bounded_memory(
    sequence: list[tuple[bytes, str, list[bytes | memoryview]]],
) -> None:
    reception = Reception(LIMITS)
    for step, (identity, name, frames) in enumerate(sequence):
        try:
            taken = reception.take(identity, name, KEY, frames, float(step))
        except (FramingError, QuotaError):
            continue
        if isinstance(taken, Inbound):
            assert taken.sender == name
    routes = reception.routes.all()
    assert len({route.identity for route in routes}) == len(routes) <= 2
    for route in routes:
        assert route.reassembler.pending_bytes <= LIMITS.max_bytes_in_flight
