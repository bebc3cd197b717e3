"""Structured logs on stderr: one event per line, as text for a person or JSON for a collector.

::

    logger = logging.getLogger(__name__)
    logger.info("round completed", extra={"round": 3, "accepted": 5})

    2025-01-31T09:30:00.123Z INFO    bank-a  round completed  accepted=5 round=3
    {"time": "...", "level": "info", "event": "round completed", "site": "bank-a", "round": 3, ...}

The message names the event and stays the same from run to run; what varies goes into `extra`.

Redaction is a second line of defence, for the day somebody logs what they should not: values of
type `Secret` and raw bytes, arrays and tensors (an update is private data), fields whose name says
secret, private-key blocks in any text, and the key passphrase wherever it turns up.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, TextIO

from fedfm_crypto.secret import Secret
from secure_fedfm.storage.keys import PASSPHRASE_VARIABLE

LogFormat = Literal["text", "json"]

OWN_LOGGERS = ("secure_fedfm", "fedfm_audit", "fedfm_protocols", "fedfm_crypto")
REDACTED = "[redacted]"
_SECRET_NAME = re.compile(
    r"secret|private|passphrase|password|token(?!s|_?count)|(^|_)(mask|seed|share)s?(_key)?$|_share$|salt|nonce",
    re.IGNORECASE,
)
_PRIVATE_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [^-]*-----|\Z)", re.S)
_ASSIGNED_SECRET = re.compile(
    r"(?i)\b((?:passphrase|password|secret(?:_key)?|private(?:_key)?|token)\s*[=:]\s*)(\S+)"
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_MAX_DEPTH = 4
_MAX_TEXT = 4000


def setup_logs(
    log_format: LogFormat = "text",
    level: str = "info",
    *,
    site: str,
    stream: TextIO | None = None,
) -> None:
    """Send this process's logs to ``stream`` (stderr), replacing what was set up before.

    Our own loggers report from ``level`` (debug, info, warning, error) on; libraries from warning
    on.  Python warnings are logged too, so that JSON lines stay JSON lines.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    formatter = _JsonLines(site) if log_format == "json" else _TextLines(site)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(level.upper())
    logging.captureWarnings(True)


def redact(value: object, name: str = "", depth: int = 0) -> object:
    """``value`` as plain JSON types, without anything that must stay inside the process.

    ``name`` is the field that it stands under.
    """
    if value is None:
        return None
    if isinstance(value, Secret) or _SECRET_NAME.search(name):
        return REDACTED
    if isinstance(value, (bool, int, float)):
        # Nothing that we count exceeds 64 bits, but the value of a Shamir share does.
        return REDACTED if isinstance(value, int) and abs(value) >> 64 else value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"<{value.dtype} {tuple(value.shape)}>"
    if isinstance(value, str):
        return redact_text(value)
    if depth >= _MAX_DEPTH:
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        return {str(key): redact(item, str(key), depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [redact(item, name, depth + 1) for item in items]
    return redact_text(str(value))


def redact_text(text: str) -> str:
    """Text without private-key blocks, assigned secrets and the key passphrase."""
    text = _PRIVATE_BLOCK.sub(REDACTED, text)
    text = _ASSIGNED_SECRET.sub(rf"\1{REDACTED}", text)
    passphrase = os.environ.get(PASSPHRASE_VARIABLE, "")
    if passphrase:
        text = text.replace(passphrase, REDACTED)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."


class _Lines(logging.Formatter):
    def __init__(self, site: str) -> None:
        super().__init__()
        self._site = site

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """Time, level, event and site, then the extra fields by name, then what was raised."""
        when = datetime.fromtimestamp(record.created, UTC)
        found: dict[str, object] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": redact_text(record.getMessage()),
            "site": self._site,
        }
        for name in sorted(set(vars(record)) - _STANDARD):
            # An extra field never hides one of the four.
            found[f"{name}_" if name in found else name] = redact(getattr(record, name), name)
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            found["error"] = redact_text(f"{type(error).__name__}: {error}")
            if logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
                found["traceback"] = redact_text("".join(traceback.format_exception(error)))
        return found


class _JsonLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record), ensure_ascii=False)


class _TextLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        head = [str(fields.pop(name)) for name in ("time", "level", "site", "event")]
        trace = fields.pop("traceback", None)
        time, level, site, event = (_printable(part) for part in head)
        line = f"{time} {level.upper():<7} {site}  {event}"
        details = " ".join(f"{name}={_short(value)}" for name, value in fields.items())
        if details:
            line += f"  {details}"
        return line if trace is None else f"{line}\n{trace}"


def _short(value: object) -> str:
    if isinstance(value, str):
        plain = value.isprintable() and value and not any(c in value for c in ' "=')
        return value if plain else json.dumps(value)
    return json.dumps(value, ensure_ascii=True)


def _printable(text: str) -> str:
    """One line and no control characters: names in logs may come from other machines."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
