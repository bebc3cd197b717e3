"""What commands print: text for a person on stderr, one JSON document on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping


def say(text: str = "") -> None:
    """A line (or several) for a person."""
    print(text, file=sys.stderr, flush=True)


def emit(document: Mapping[str, object]) -> None:
    """The result of a command as its one JSON document."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def table(rows: Mapping[str, object], indent: str = "  ") -> str:
    """Aligned `name  value` lines."""
    width = max((len(name) for name in rows), default=0)
    return "\n".join(f"{indent}{name:<{width}}  {value}" for name, value in rows.items())
