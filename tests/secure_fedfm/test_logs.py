"""Log lines: their fields, and what never gets into them."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from secure_fedfm.logs import REDACTED, LogFormat, redact, redact_text, setup_logs
from secure_fedfm.storage.keys import PASSPHRASE_VARIABLE

LOGGER = logging.getLogger("secure_fedfm.test")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def started(log_format: LogFormat, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    setup_logs(log_format, level, site="bank-a", stream=stream)
    return stream


def test_json_lines_have_the_agreed_fields() -> None:
    stream = started("json")
    LOGGER.info("round %d completed", 3, extra={"round": 3, "accepted": ["a", "b"]})
    fields = json.loads(stream.getvalue())
    assert fields.pop("time").endswith("Z")
    assert fields == {
        "level": "info",
        "event": "round 3 completed",
        "site": "bank-a",
        "round": 3,
        "accepted": ["a", "b"],
    }


def test_text_lines_are_single_and_carry_the_extras() -> None:
    stream = started("text")
    LOGGER.warning("refused\n\x1b[31mfake line", extra={"peer": "x y", "size": 5})
    (line,) = stream.getvalue().splitlines()
    assert "WARNING bank-a  refused\\n\\u001b[31mfake line" in line
    assert line.endswith('peer="x y" size=5')


def test_levels_and_libraries() -> None:
    stream = started("json", "warning")
    LOGGER.info("hidden")
    logging.getLogger("somebody.else").info("hidden too")
    logging.getLogger("somebody.else").warning("seen")
    warnings.warn("deprecated", stacklevel=1)
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events[0] == "seen"
    assert "deprecated" in events[1]
    assert len(events) == 2


def test_setting_up_twice_does_not_double_lines() -> None:
    started("json")
    stream = started("json")
    LOGGER.info("once")
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_exception_is_named_and_traced_only_in_debug(log_format: LogFormat) -> None:
    for level, traced in (("info", False), ("debug", True)):
        stream = started(log_format, level)
        try:
            raise ValueError("boom")
        except ValueError:
            LOGGER.exception("failed")
        assert "ValueError: boom" in stream.getvalue()
        assert ("Traceback" in stream.getvalue()) is traced


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", Secret(b"k" * 32)),
        ("secret", "text"),
        ("seed_share", 12345),
        ("y", 1 << 255),
        ("private_key", b"k" * 32),
        ("passphrase", "correct horse"),
        ("nested", {"mask_key": "abc"}),
        ("listed", [Secret(b"k" * 32)]),
    ],
)
def test_secrets_are_redacted(name: str, value: object) -> None:
    stream = started("json")
    LOGGER.info("event", extra={name: value})
    assert REDACTED in stream.getvalue()
    for leaked in ("kkkk", "6b6b", "text", "12345", "horse", "abc"):
        assert leaked not in stream.getvalue()


def test_private_data_show_their_shape_only() -> None:
    update = np.full(1000, 0.123, np.float32)
    assert redact(update) == "<float32 (1000,)>"
    assert redact({"rows": b"hello"}) == {"rows": "<5 bytes>"}


def test_public_values_stay_readable() -> None:
    public = IdentityKey.generate(SeededRandom(b"x")).public.hex
    for name, value in (("adapter", public), ("max_tokens", 128), ("round", 3), ("ok", True)):
        assert redact(value, name) == value


def test_text_that_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    block = "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----"
    assert "MC4CAQ" not in redact_text(f"read {block} from disk")
    assert "horse" not in redact_text("tried correct horse")
    assert "hunter2" not in redact_text("password=hunter2 was refused")
