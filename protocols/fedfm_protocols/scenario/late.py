"""Results of local work that come late: an update trained, or a sum applied, behind its time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fedfm_protocols.effects import AdapterComputed, ApplySum, Event, Train, UpdateReady

NEXT_ROUND = "next-round"


@dataclass
class LateResults:
    """Who is late with what: name -> in which step, and the message after which the result is
    there, or ``next-round``; and the results that wait.

    ``tell`` hands an event to a client, ``result`` computes the event that an effect asks for,
    ``note`` writes down who waits for what.
    """

    tell: Callable[[str, Event], None]
    result: Callable[[str, Train | ApplySum], UpdateReady | AdapterComputed]
    note: Callable[[str, str, str], object]
    training: dict[str, tuple[int, str]] = field(default_factory=dict)
    applying: dict[str, tuple[int, str]] = field(default_factory=dict)
    _waiting: dict[str, list[Event]] = field(default_factory=dict)

    def postpone(self, name: str, effect: Train | ApplySum) -> bool:
        """Keep a local result back if an act says so; an older one that was kept comes first."""
        late = self.training if isinstance(effect, Train) else self.applying
        step, until = late.get(name, (0, ""))
        if not until or (effect.step != step and until != NEXT_ROUND):
            return False
        if until == NEXT_ROUND and self._waiting.get(name):
            del late[name]
            for earlier in self._waiting.pop(name):
                self.tell(name, earlier)
            return False
        if effect.step != step:
            return False
        event = self.result(name, effect)
        self._waiting.setdefault(name, []).append(event)
        self.note(name, type(event).__name__, until)
        return True

    def release(self, name: str, message: str) -> None:
        """Whatever waited for ``message`` to reach the client is there now."""
        for late in (self.training, self.applying):
            if name in late and late[name][1] == message and self._waiting.get(name):
                del late[name]
                for event in self._waiting.pop(name):
                    self.tell(name, event)
