"""Transport keys, limits, addresses and allow-lists: what is refused before a socket opens."""

from __future__ import annotations

import dataclasses

import pytest
import zmq
from zmq.utils import z85

from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from secure_fedfm.transport.curve import (
    CurveKeyPair,
    check_curve_public,
    public_from_hex,
    public_from_z85,
)
from secure_fedfm.transport.errors import BindError, CurveKeyError, LimitsError, RemoteBindError
from secure_fedfm.transport.events import EVENTS_PER_SECOND, EventKind, EventReporter
from secure_fedfm.transport.limits import TransportLimits
from secure_fedfm.transport.sockets import check_bind_address
from secure_fedfm.transport.zap import check_allow_list

KEYS = CurveKeyPair.generate(SeededRandom(b"keys"))
# RFC 7748's field prime minus one, and points of order 8 and 1: everybody knows their secrets.
LOW_ORDER = [
    (2**255 - 20).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    (1).to_bytes(32, "little"),
]


def test_libzmq_derives_the_same_public_key() -> None:
    assert zmq.curve_public(z85.encode(KEYS.secret.reveal())).decode() == KEYS.public_z85
    assert CurveKeyPair.from_secret(KEYS.secret) == KEYS


def test_text_forms_decode_to_the_key_and_to_nothing_else() -> None:
    assert public_from_z85(KEYS.public_z85) == KEYS.public == public_from_hex(KEYS.public_hex)
    for text in (KEYS.public_z85[:-1], KEYS.public_z85 + "0", "~" * 40, "#" * 40):
        with pytest.raises(CurveKeyError):
            public_from_z85(text)
    for text in (KEYS.public_hex.upper(), KEYS.public_hex[:-2], "zz" * 32, KEYS.public_hex + "00"):
        with pytest.raises(CurveKeyError):
            public_from_hex(text)


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33), bytes(32), *LOW_ORDER])
def test_unusable_public_keys(raw: bytes) -> None:
    with pytest.raises(CurveKeyError):
        check_curve_public(raw)


def test_a_pair_belongs_together_and_does_not_print() -> None:
    other = CurveKeyPair.generate(SeededRandom(b"other"))
    with pytest.raises(CurveKeyError, match="does not belong"):
        CurveKeyPair(KEYS.public, other.secret)
    with pytest.raises(CurveKeyError):
        CurveKeyPair.from_secret(Secret(bytes(range(31))))
    assert KEYS.secret.reveal().hex() not in repr(KEYS)
    assert str(KEYS.secret.reveal()) not in repr(KEYS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_frame_bytes", 8 * 1024 * 1024 + 1),
        ("chunk_bytes", 4 * 1024 * 1024 + 1),
        ("min_chunk_bytes", 2 * 1024 * 1024),
        ("high_water_mark", 15),
        ("high_water_mark", 65),
        ("linger", -1.0),
        ("linger", 61.0),
        ("heartbeat_timeout", 1.0),
        ("max_bytes_in_flight", 1024),
        ("handshake_interval", 0.0),
        ("message_burst", 0),
    ],
)
def test_limits_out_of_range(field: str, value: float) -> None:
    with pytest.raises(LimitsError, match=field):
        dataclasses.replace(TransportLimits(), **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "192.168.1.5", "[::]", "example.org"])  # noqa: S104
def test_remote_addresses_need_leave(host: str) -> None:
    with pytest.raises(RemoteBindError, match="allow_remote"):
        check_bind_address(f"tcp://{host}:5555", allow_remote=False)
    assert check_bind_address(f"tcp://{host}:5555", allow_remote=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "[::1]"])
def test_loopback_addresses_need_none(host: str) -> None:
    assert check_bind_address(f"tcp://{host}:0", allow_remote=False)


@pytest.mark.parametrize("bind", ["ipc:///x", "tcp://", "127.0.0.1:80", "tcp://127.0.0.1", ""])
def test_what_is_no_address(bind: str) -> None:
    with pytest.raises(BindError, match="tcp://HOST:PORT"):
        check_bind_address(bind, allow_remote=True)


def test_allow_list_rules() -> None:
    other = CurveKeyPair.generate(SeededRandom(b"other"))
    with pytest.raises(CurveKeyError, match="two transport keys"):
        check_allow_list({KEYS.public: "alice", other.public: "alice"})
    with pytest.raises(CurveKeyError, match="participant name"):
        check_allow_list({KEYS.public: "Alice\n"})
    with pytest.raises(CurveKeyError):
        check_allow_list({bytes(32): "alice"})


def test_reporter_survives_its_callback_and_thins_a_flood() -> None:
    now, seen = [0.0], []

    def callback(event: object) -> None:
        seen.append(event)
        raise RuntimeError("observer broken")

    reporter = EventReporter(callback, lambda: now[0])
    for _ in range(1000):
        reporter.report(EventKind.MALFORMED, "alice", "garbage")
    reporter.report(EventKind.MALFORMED, "bob", "garbage")
    assert len(seen) == EVENTS_PER_SECOND + 1
    now[0] = 1.5
    reporter.report(EventKind.MALFORMED, "alice", "garbage")
    assert f"{1000 - EVENTS_PER_SECOND} more" in str(seen[-1])
