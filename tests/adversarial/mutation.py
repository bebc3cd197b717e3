"""One mutation: how a check of ``fedfm_protocols`` is switched off in a copy of the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mutation:
    """Check ``id`` of ``file``: ``text`` occurs once and becomes ``replacement``.

    ``scenario`` is tried first; any other may catch it too.
    """

    id: str
    file: str
    text: str
    replacement: str
    defends: str
    scenario: str

    def apply(self, package: Path) -> None:
        """Change the copy of the package.

        Raises
        ------
        LookupError
            if the text does not occur exactly once: the check has moved, and so must its entry.
        """
        path = package / self.file
        source = path.read_text("utf-8")
        if source.count(self.text) != 1:
            raise LookupError(
                f"{self.id}: {self.text!r} occurs {source.count(self.text)} times in {self.file}"
            )
        changed = source.replace(self.text, self.replacement)
        compile(changed, self.file, "exec")
        path.write_text(changed, "utf-8")


def off(
    id: str, file: str, condition: str, defends: str, scenario: str, note: str = ""
) -> Mutation:
    """The check that raises if ``condition`` holds never raises."""
    return Mutation(id, file, f"if {condition}:{note}", f"if False:{note}", defends, scenario)


def swap(id: str, file: str, text: str, other: str, defends: str, scenario: str) -> Mutation:
    """``text`` becomes ``other``."""
    return Mutation(id, file, text, other, defends, scenario)
