"""A secret never prints, pickles, copies or serialises."""

from __future__ import annotations

import base64
import copy
import io
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pytest

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.errors import InvalidKeyError
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.secret import Secret
from fedfm_crypto.shamir import Share, split

VALUE = bytes(range(0x41, 0x61))


def shows_the_secret(text: str) -> bool:
    """Whether any usual spelling of VALUE, or of half of it, appears in the text."""
    for part in (VALUE, VALUE[:16], VALUE[16:]):
        spellings = (
            part.decode("latin-1"),
            repr(part)[2:-1],
            part.hex(),
            part.hex().upper(),
            base64.b64encode(part).decode().rstrip("=")[:-2],
            str(int.from_bytes(part, "big")),
            str(int.from_bytes(part, "little")),
            str(list(part))[1:-1],
        )
        if any(spelling in text for spelling in spellings):
            return True
    return False


@dataclass(frozen=True)
class Holder:
    name: str
    secret: Secret


def logged(value: object) -> str:
    stream = io.StringIO()
    logger = logging.Logger("test")
    logger.addHandler(logging.StreamHandler(stream))
    logger.error("found %s and %r", value, value, extra={"value": value})
    return stream.getvalue()


def in_traceback(value: object) -> str:
    try:
        raise ValueError(value)
    except ValueError as error:
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
        return "".join(report.format()) + repr(error) + str(error)


PRINTERS: dict[str, Callable[[object], str]] = {
    "repr": repr,
    "str": str,
    "format": format,
    "f-string": lambda value: f"{value} {value!r} {value!s:>99} {value!a}",
    "str.format": "{0} {0!r}".format,
    "percent": lambda value: "%s %r" % (value, value),  # noqa: UP031
    "pprint": pprint.pformat,
    "in containers": lambda value: repr([value, {"k": value}, (value,)]),
    "log": logged,
    "traceback with locals": in_traceback,
    "json with default=str": lambda value: json.dumps({"k": value}, default=str),
    "json with default=repr": lambda value: json.dumps({"k": value}, default=repr),
    "dir": lambda value: repr(dir(value)),
}


def secret_holders() -> dict[str, object]:
    secret = Secret(VALUE)
    return {
        "Secret": secret,
        "dataclass": Holder("clinic", secret),
        "IdentityKey": IdentityKey.from_secret(secret),
        "AgreementKey": AgreementKey.from_secret(secret),
        "Share": Share(1, int.from_bytes(VALUE, "big")),
        "split": split(secret, 2, [1, 2], bytes),
    }


def test_the_detector_detects() -> None:
    for spelling in (VALUE, VALUE.hex(), list(VALUE), int.from_bytes(VALUE, "big"), VALUE[:16]):
        assert shows_the_secret(f"<{spelling!r}>")
    assert shows_the_secret(base64.b64encode(VALUE).decode())


@pytest.mark.parametrize("printer", PRINTERS)
@pytest.mark.parametrize("holder", secret_holders())
def test_no_way_of_printing_shows_a_secret(printer: str, holder: str) -> None:
    text = PRINTERS[printer](secret_holders()[holder])
    assert text
    assert not shows_the_secret(text)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("holder", ["Secret", "dataclass", "IdentityKey", "AgreementKey"])
def test_nothing_that_holds_a_secret_pickles(protocol: int, holder: str) -> None:
    with pytest.raises(TypeError) as caught:
        pickle.dumps(secret_holders()[holder], protocol)
    assert not shows_the_secret(str(caught.value))


def test_format_specifications_do_not_open_a_secret() -> None:
    for spec in (">80", "s", "x", "!", "\0"):
        assert format(Secret(VALUE), spec) == "<Secret of 32 bytes, redacted>"


def test_a_secret_refuses_copies_json_and_inspection() -> None:
    secret = Secret(VALUE)
    for duplicate in (copy.copy, copy.deepcopy, lambda value: asdict(Holder("clinic", value))):
        with pytest.raises(TypeError, match="refuses"):
            duplicate(secret)
    with pytest.raises(TypeError) as caught:
        json.dumps(secret)
    assert not shows_the_secret(str(caught.value))
    with pytest.raises(TypeError):
        vars(secret)
    with pytest.raises(TypeError):
        bytes(secret)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        iter(secret)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        hash(secret)
    with pytest.raises(TypeError, match="state"):
        secret.__getstate__()


def test_a_secret_reveals_only_when_asked_and_compares_by_value() -> None:
    secret = Secret(VALUE)
    assert secret.reveal() == VALUE
    assert len(secret) == 32
    assert secret == Secret(VALUE)
    assert secret != Secret(VALUE[::-1])
    assert secret != Secret(VALUE[:-1])
    assert secret != VALUE


def test_wrong_input_is_refused_without_being_shown() -> None:
    with pytest.raises(TypeError) as caught:
        Secret(VALUE.decode())  # type: ignore[arg-type]
    assert not shows_the_secret(str(caught.value))
    with pytest.raises(InvalidKeyError, match="empty"):
        Secret(b"")
    with pytest.raises(InvalidKeyError) as refused:
        IdentityKey.from_secret(Secret(VALUE + b"x"))
    assert not shows_the_secret(str(refused.value))
