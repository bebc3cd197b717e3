"""What a test may do to a party's process: die at a step, dawdle, record what passes through it.

Installed in the forked process only (``process_launcher``); the product knows nothing of it.  A
death is SIGKILL to the own process: nothing is flushed, closed or said.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.coordinator_states import CoordinatorState, Finished, phase_of
from fedfm_protocols.effects import ApplySum, Effect, Persist, Send, Train, Transition
from secure_fedfm.learning.learner import LocalLearner
from secure_fedfm.services.client import ClientService
from secure_fedfm.services.coordinator import CoordinatorService
from secure_fedfm.services.evidence import Evidence
from secure_fedfm.services.validator import ValidatorService
from secure_fedfm.transport.server import ServerTransport
from tests.integration import recorders
from tests.integration.recorders import patch

# Long enough for a queued message to be on the wire; the client does nothing else meanwhile.
DELIVERY_SECONDS = 0.15


def install(faults: dict[str, Any]) -> None:
    """Patch the services of this process; the keys are the functions below."""
    for name, argument in faults.items():
        _FAULTS[name](argument)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ---------------------------------------------------------------- clients


def _client_dies(deaths: list[dict[str, Any]]) -> None:
    """``{"round", "step", "effect", "when"}``: die before or after an effect of that name.

    An effect's name is the type of the message sent, or ``Persist opened``; without ``step`` it is
    the first.  With ``once``, a file, only the first of all processes with this death that comes
    there dies, and makes it.
    """
    original = ClientService._effect
    due = {(d["round"], d.get("step", 0), d["effect"], d["when"]): d.get("once") for d in deaths}

    def die_if_due(place: tuple[int, int, str, str]) -> None:
        marker = due.get(place, "")
        if marker is None or (marker and _is_first(Path(marker))):
            _die()

    async def effect(self: ClientService, item: Effect) -> None:
        name = _name_of(item)
        session = getattr(self._state, "session", None)
        number = session.identity.round if session else getattr(item, "round", 0)
        step = _step_of(item, session.step if session else 0)
        die_if_due((number, step, name, "before"))
        await original(self, item)
        if (number, step, name, "after") in due:
            await asyncio.sleep(DELIVERY_SECONDS)
            die_if_due((number, step, name, "after"))

    patch(ClientService, "_effect", effect)


def _step_of(effect: Effect, present: int) -> int:
    """What an effect is about: the state that comes of it may be a step further."""
    match effect:
        case Send():
            return effect.envelope.header.step
        case Persist() | Train() | ApplySum():
            return effect.step
        case _:
            return present


def _is_first(marker: Path) -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _name_of(effect: Effect) -> str:
    match effect:
        case Persist():
            return f"Persist {effect.record}"
        case Send():
            return effect.envelope.header.type
        case _:
            return type(effect).__name__


def _train_slowly(seconds: dict[str, float]) -> None:
    """Round (as text) -> seconds that training takes longer; stops with its round, as training
    does."""
    original = LocalLearner.train

    def train(self: LocalLearner, adapter: Any, number: int, *rest: Any, **more: Any) -> Any:
        time.sleep(seconds.get(str(number), 0.0))
        return original(self, adapter, number, *rest, **more)

    patch(LocalLearner, "train", train)


def _train_until(files: dict[str, str]) -> None:
    """Round (as text) -> file that must exist before training in that round goes on."""
    original = LocalLearner.train

    def train(self: LocalLearner, adapter: Any, number: int, *rest: Any, **more: Any) -> Any:
        if str(number) in files:
            while not Path(files[str(number)]).exists():
                time.sleep(0.02)
        return original(self, adapter, number, *rest, **more)

    patch(LocalLearner, "train", train)


def _send_twice(_: Any) -> None:
    """Every message of the client goes out twice, byte-identical: a replay within its round."""
    send = ClientService._send

    async def twice(self: ClientService, envelope: Envelope) -> None:
        await send(self, envelope)
        await send(self, envelope)

    patch(ClientService, "_send", twice)


def _scale_update(factor: float) -> None:
    """Every update of this client is so many times what training gives: a replaced model."""
    original = LocalLearner.train

    def train(self: LocalLearner, *rest: Any, **more: Any) -> Any:
        return original(self, *rest, **more) * factor

    patch(LocalLearner, "train", train)


# ---------------------------------------------------------------- validator


def _validator_dies(plan: dict[str, Any]) -> None:
    """``{"said", "deaths": [{"round", "effect", "when", "once"}]}``: die before or after the first
    effect of that name; ``once`` is a file.  What is sent is noted in the file ``said``: round,
    type and hash of every message, also of the last one."""
    original = ValidatorService._effect
    due = {(d["round"], d["effect"], d["when"]): Path(d["once"]) for d in plan["deaths"]}

    async def effect(self: ValidatorService, item: Effect) -> None:
        name, judged = _name_of(item), self._state.memory.judged
        number = getattr(item, "round", 0 if judged is None else judged.round)
        for when in ("before", "after"):
            if when == "after":
                await original(self, item)
                if isinstance(item, Send):
                    with Path(plan["said"]).open("a", encoding="ascii") as said:
                        said.write(f"{number} {name} {item.envelope.header.body_hash.hex()}\n")
            marker = due.get((number, name, when))
            if marker is not None and _is_first(marker):
                if when == "after":
                    await asyncio.sleep(DELIVERY_SECONDS)
                _die()

    patch(ValidatorService, "_effect", effect)


# ---------------------------------------------------------------- coordinator


def _coordinator_dies(death: dict[str, Any]) -> None:
    """``{"round", "at", "step"}``: die in a round at the beginning of a phase (its name) of a step
    (without ``step`` the first), when it is journalled and nothing was sent (``opened``), before
    its statement is logged (``before-log``), or after (``logged``)."""
    carry_out, record = CoordinatorService._carry_out, Evidence.record_round
    place = (death["round"], death["at"], death.get("step", 0))

    def where(state: CoordinatorState | None) -> tuple[int, str, int] | None:
        if state is None or isinstance(state, Finished):
            return None
        return state.round.identity.round, phase_of(state), state.round.step

    async def dying(self: CoordinatorService, transition: Transition[Any]) -> None:
        before, after = where(self._state), where(transition.state)
        if place[1] == "opened" and after is not None and after[0] == place[0] and before is None:
            _die()
        await carry_out(self, transition)
        if after == place and before != place:
            await asyncio.sleep(DELIVERY_SECONDS)
            _die()

    def recording(self: Evidence, finished: Finished) -> None:
        here = finished.round.identity.round == death["round"]
        if here and death["at"] == "before-log":
            _die()
        record(self, finished)
        if here and death["at"] == "logged":
            _die()

    patch(CoordinatorService, "_carry_out", dying)
    patch(Evidence, "record_round", recording)


def _authenticator_dies(round_number: int) -> None:
    """Cancel the ZAP handler's task when that round opens."""
    carry_out = CoordinatorService._carry_out

    async def killing(self: CoordinatorService, transition: Transition[Any]) -> None:
        await carry_out(self, transition)
        if transition.state.round.identity.round == round_number:
            transport: ServerTransport = self._transport
            for task, part in transport._tasks.items():
                if part == "authenticator":
                    task.cancel()

    patch(CoordinatorService, "_carry_out", killing)


_FAULTS: dict[str, Callable[[Any], None]] = {
    "client_dies": _client_dies,
    "train_slowly": _train_slowly,
    "train_until": _train_until,
    "send_twice": _send_twice,
    "scale_update": _scale_update,
    "validator_dies": _validator_dies,
    "record_updates": recorders.record_updates,
    "record_secrets": recorders.record_secrets,
    "record_drawn": recorders.record_drawn,
    "record_protected": recorders.record_protected,
    "record_spending": recorders.record_spending,
    "record_received": recorders.record_received,
    "record_spool": recorders.record_spool,
    "coordinator_dies": _coordinator_dies,
    "record_traffic": recorders.record_traffic,
    "authenticator_dies": _authenticator_dies,
}
