"""What a person watching the demo sees: one line per institution, updated as they work."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

_TOLD = 5  # lines of a session's steps, where there are no bars


class DemoProgress:
    """Progress bars on a terminal, plain lines elsewhere (a log file, CI)."""

    def __init__(
        self,
        console: Console,
        clients: tuple[str, ...],
        rounds: int,
        *,
        encrypted: bool,
        steps: int = 1,
        robust: bool = False,
    ) -> None:
        """`steps` of a round: more than one make it a session, which is followed step by step."""
        self._console = console
        self._rounds, self._steps = rounds, steps
        # Sketches, scores, verdict; what clients say of the sum, and its check.
        self._phases = (8 if encrypted else 7) + (5 if robust else 0)
        judges = ("validator",) if robust else ()
        self._titles: dict[int, str] = {}
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.fields[party]:<16}"),
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            Elapsed(),
            console=console,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {
            party: self._progress.add_task("starting", party=party, total=None)
            for party in ("coordinator", *judges, *clients)
        }

    def __enter__(self) -> DemoProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, party: str, fields: Mapping[str, Any]) -> None:
        """Show one log line of a party, if it is about progress."""
        kind, number = fields.get("kind"), fields.get("round", 0)
        match kind:
            case "preparing":
                self._bar(party, "computing lower layers", fields["done"], fields["of"])
            case "training":
                title = self._titles.get(number, f"round {number}")
                self._bar(party, f"{title}: training", fields["done"], fields["of"])
            case "ready":
                self._say("coordinator", f"{fields.get('peer')} connected")
            case "round-opened":
                self._titles[number] = title = self._title(number, fields)
                phases = self._phases if self._steps == 1 else self._steps
                self._bar("coordinator", title, 0, 3 if fields.get("makes_key") else phases)
                self._say("coordinator", f"{title} begins")
            case "phase" if self._steps == 1:  # a session's bar counts steps
                self._advance("coordinator")
            case "step":
                self._step(number, fields["done"], fields["of"])
            case "round-ended":
                title = f"{self._titles.get(number, f'round {number}')} {fields['outcome']}"
                self._bar(party, title, 1, 1)
                if party == "coordinator":
                    self._say(party, title)
            case "excluded":
                self._say("validator", f"round {number}: {fields['client']} is excluded")
            case "exported":
                self._bar(party, "done, adapter exported", 1, 1)
            case "concluded":
                self._bar(party, "federation concluded", 1, 1)

    def _title(self, number: int, fields: Mapping[str, Any]) -> str:
        """What a person calls a round: those that sum updates are counted, as the charter does."""
        if fields.get("makes_key"):
            return "collective key"
        name = "round" if self._steps == 1 else "session"
        return f"{name} {fields.get('completed', number - 1) + 1} of {self._rounds}"

    def _step(self, number: int, done: int, of: int) -> None:
        """A session has many steps: the bar takes each, a log some."""
        title = self._titles.get(number, f"session {number}")
        self._bar("coordinator", f"{title}: step {done}", done, of)
        if done == of or done % max(1, of // _TOLD) == 0:
            self._say("coordinator", f"{title}: step {done} of {of}")

    def _bar(self, party: str, text: str, done: int, of: int) -> None:
        self._progress.update(self._tasks[party], description=text, completed=done, total=of)

    def _advance(self, party: str) -> None:
        self._progress.advance(self._tasks[party])

    def _say(self, party: str, text: str) -> None:
        if not self._live:
            self._console.print(f"{party}: {text}", highlight=False, soft_wrap=True)
