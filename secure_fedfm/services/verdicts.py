"""What a site was told of the validator's verdicts, one line of JSON a round, for its own people.

A client keeps what the verdict says of it and of the others; a validator its rule's sentences with
their figures, which nobody else has. Informative: evidence is the signed verdict in the log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from secure_fedfm.errors import StorageError
from secure_fedfm.robust.reasons import REASONS

VERDICTS_FILE = "verdicts.jsonl"


@dataclass(frozen=True, slots=True)
class Removed:
    """One client that a verdict removed: the code that is public, and what it means or, at the
    validator, the rule's own sentence."""

    client: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class SeenVerdict:
    """A verdict as a site was told of it; ``own`` is ``accepted``, ``removed`` or ``unseen`` at a
    client, empty at the validator."""

    round: int
    step: int
    own: str
    removed: tuple[Removed, ...]

    def to_text(self) -> str:
        """One line: at a client about itself, at the validator about everybody."""
        codes = ", ".join(f"{one.client} ({one.code})" for one in self.removed)
        said = self.own or (f"removed {codes}" if codes else "all accepted")
        others = f"; removed: {codes}" if self.own and codes else ""
        return f"round {self.round}: {said}{others}"


def removed_for_people(removed: Sequence[tuple[str, str]]) -> tuple[Removed, ...]:
    """Codes of a verdict (client, code) with what they mean."""
    return tuple(Removed(name, code, REASONS.get(code, "the rule's own")) for name, code in removed)


class VerdictFile:
    """SITE/verdicts.jsonl; a round that is there already is not added again."""

    def __init__(self, root: Path) -> None:
        self._path = root / VERDICTS_FILE
        self._last: SeenVerdict | None = None
        for seen in read_verdicts(root):
            self._last = seen

    @property
    def last(self) -> str:
        """The last verdict in a line; empty before the first."""
        return "" if self._last is None else self._last.to_text()

    def add(self, seen: SeenVerdict) -> None:
        """Keep one more."""
        last = self._last
        if last is not None and (seen.round, seen.step) <= (last.round, last.step):
            return
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(seen)) + "\n")
        self._path.chmod(0o600)
        self._last = seen


def read_verdicts(root: Path) -> tuple[SeenVerdict, ...]:
    """What a site was told, in order; a line that a crash cut off is left out.

    Raises
    ------
    StorageError
        if the file is none of these.
    """
    path = root / VERDICTS_FILE
    try:
        lines = path.read_text("utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return ()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_read(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise StorageError(
                f"{path}, line {number}, is no verdict ({error}); move the file away, it is a "
                "convenience only"
            ) from error
    return tuple(found)


def _read(fields: Mapping[str, object]) -> SeenVerdict:
    removed = fields["removed"]
    if not isinstance(removed, list):
        raise TypeError("removed is no list")
    return SeenVerdict(
        int(str(fields["round"])),
        int(str(fields["step"])),
        str(fields["own"]),
        tuple(Removed(str(r["client"]), str(r["code"]), str(r["reason"])) for r in removed),
    )
