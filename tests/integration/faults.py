"""What a test may do to a party's process: die at a step, dawdle, record what passes through it.

Installed in the forked process only (``process_launcher``); the product knows nothing of it.  A
death is SIGKILL to the own process: nothing is flushed, closed or said.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError
from fedfm_crypto.lattice.bulk_keys import BulkKey
from fedfm_crypto.lattice.collective import SecretContribution
from fedfm_crypto.quantise import Quantiser
from fedfm_protocols.coordinator_states import Finished, phase_of
from fedfm_protocols.effects import Effect, Persist, Send, Transition
from fedfm_protocols.masking import RoundSecrets
from secure_fedfm.learning.learner import LocalLearner
from secure_fedfm.services.client import ClientService
from secure_fedfm.services.coordinator import CoordinatorService
from secure_fedfm.services.evidence import Evidence
from secure_fedfm.transport.framing import MessagePlan
from secure_fedfm.transport.server import ServerTransport
from secure_fedfm.transport.spool import Stored

# Long enough for a queued message to be on the wire; the client does nothing else meanwhile.
DELIVERY_SECONDS = 0.15


def install(faults: dict[str, Any]) -> None:
    """Patch the services of this process; the keys are the functions below."""
    for name, argument in faults.items():
        _FAULTS[name](argument)


def _patch(owner: type[Any], name: str, replacement: Callable[..., Any]) -> None:
    setattr(owner, name, replacement)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ---------------------------------------------------------------- clients


def _client_dies(deaths: list[dict[str, Any]]) -> None:
    """``{"round", "effect", "when"}``: die before or after an effect of that name.

    An effect's name is the type of the message sent, or ``Persist opened``.  With ``once``, a
    file, only the first of all processes with this death that comes there dies, and makes it.
    """
    original = ClientService._effect
    due = {(d["round"], d["effect"], d["when"]): d.get("once") for d in deaths}

    def die_if_due(place: tuple[int, str, str]) -> None:
        marker = due.get(place, "")
        if marker is None or (marker and _is_first(Path(marker))):
            _die()

    async def effect(self: ClientService, item: Effect) -> None:
        name = _name_of(item)
        session = getattr(self._state, "session", None)
        number = session.identity.round if session else getattr(item, "round", 0)
        die_if_due((number, name, "before"))
        await original(self, item)
        if (number, name, "after") in due:
            await asyncio.sleep(DELIVERY_SECONDS)
            die_if_due((number, name, "after"))

    _patch(ClientService, "_effect", effect)


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

    def train(self: LocalLearner, adapter: Any, number: int, progress: Any = None) -> Any:
        time.sleep(seconds.get(str(number), 0.0))
        return original(self, adapter, number, progress)

    _patch(LocalLearner, "train", train)


def _train_until(files: dict[str, str]) -> None:
    """Round (as text) -> file that must exist before training in that round goes on."""
    original = LocalLearner.train

    def train(self: LocalLearner, adapter: Any, number: int, progress: Any = None) -> Any:
        if str(number) in files:
            while not Path(files[str(number)]).exists():
                time.sleep(0.02)
        return original(self, adapter, number, progress)

    _patch(LocalLearner, "train", train)


def _send_twice(_: Any) -> None:
    """Every message of the client goes out twice, byte-identical: a replay within its round."""
    send = ClientService._send

    async def twice(self: ClientService, envelope: Envelope) -> None:
        await send(self, envelope)
        await send(self, envelope)

    _patch(ClientService, "_send", twice)


def _record_updates(folder: str) -> None:
    """Write every update as trained, and its lane words before any mask, to ``folder``."""
    original = Quantiser.quantise
    counter = iter(range(1, 1 << 30))

    @functools.wraps(original)
    def quantise(self: Quantiser, values: Any, random: Any) -> Any:
        words = original(self, values, random)
        number = next(counter)
        np.save(Path(folder) / f"update-{number}.npy", np.asarray(values))
        np.save(Path(folder) / f"words-{number}.npy", words)
        return words

    _patch(Quantiser, "quantise", quantise)


def _record_secrets(folder: str) -> None:
    """Write the secrets that the client draws to ``folder``: what an attacker who has all keys
    would know, so that a test can show that nothing else undoes the protection.

    ``secrets-N``: share key, mask key and seed of the Nth round that sums updates, and
    ``bulk-N.npy``: the key of its upload.
    """
    draw, generate = RoundSecrets.draw, BulkKey.generate
    rounds, keys = iter(range(1, 1 << 30)), iter(range(1, 1 << 30))

    def drawing(steps: int, random: Any, contribution: Any = None) -> RoundSecrets:
        secrets = draw(steps, random, contribution)
        if contribution is None:
            (step,) = secrets.steps
            found = (secrets.share_key.secret, step.mask_key.secret, step.seed)
            data = b"".join(key.reveal() for key in found)
            (Path(folder) / f"secrets-{next(rounds)}").write_bytes(data)
        return secrets

    def generating(random: Any) -> BulkKey:
        key = generate(random)
        np.save(Path(folder) / f"bulk-{next(keys)}.npy", key.coefficients)
        return key

    _patch(RoundSecrets, "draw", staticmethod(drawing))
    _patch(BulkKey, "generate", staticmethod(generating))


def _record_drawn(file: str) -> None:
    """Append the hash of every secret that the client draws to ``file``, over all its lives: keys
    of shares and masks, seeds, nonces, keys of uploads, parts of collective keys."""
    draw, generate = RoundSecrets.draw, BulkKey.generate
    contribute: Callable[[Any], SecretContribution] = SecretContribution.generate

    def write(kind: str, secret: bytes) -> None:
        with Path(file).open("a", encoding="ascii") as stream:
            stream.write(f"{kind} {hashlib.sha256(secret).hexdigest()}\n")

    def drawing(steps: int, random: Any, contribution: Any = None) -> RoundSecrets:
        secrets = draw(steps, random, contribution)
        (step,) = secrets.steps
        write("share-key", secrets.share_key.secret.reveal())
        write("mask-key", step.mask_key.secret.reveal())
        write("seed", step.seed.reveal())
        write("nonce", secrets.nonce.reveal())
        return secrets

    def generating(random: Any) -> BulkKey:
        key = generate(random)
        write("bulk-key", key.coefficients.tobytes())
        return key

    def contributing(random: Any) -> SecretContribution:
        part = contribute(random)
        write("contribution", part.transformed.tobytes())
        return part

    _patch(RoundSecrets, "draw", staticmethod(drawing))
    _patch(BulkKey, "generate", staticmethod(generating))
    _patch(SecretContribution, "generate", staticmethod(contributing))


# ---------------------------------------------------------------- both


def _record_spool(file: str) -> None:
    """Append a line to ``file`` for every message taken: ``disk`` or ``memory``, its size, and how
    many messages lie on disk at that moment."""
    original = Stored.take

    def take(self: Stored) -> bytes:
        where, waiting = "disk" if self.on_disk else "memory", self._spool.files
        payload = original(self)
        with Path(file).open("a", encoding="ascii") as stream:
            stream.write(f"{where} {len(payload)} {waiting}\n")
        return payload

    _patch(Stored, "take", take)


# ---------------------------------------------------------------- coordinator


def _coordinator_dies(death: dict[str, Any]) -> None:
    """``{"round", "at"}``: die in a round at a phase's beginning (its name; ``opened`` is after
    the journal and before any message), before its statement is logged, or after (``logged``)."""
    carry_out, record = CoordinatorService._carry_out, Evidence.record_round

    async def dying(self: CoordinatorService, transition: Transition[Any]) -> None:
        state, at = transition.state, death["at"]
        here = state.round.identity.round == death["round"]
        starts = here and not isinstance(state, Finished) and type(state) is not type(self._state)
        if starts and at == "opened":
            _die()
        await carry_out(self, transition)
        if starts and phase_of(state) == at:
            await asyncio.sleep(DELIVERY_SECONDS)
            _die()

    def recording(self: Evidence, finished: Finished) -> None:
        here = finished.round.identity.round == death["round"]
        if here and death["at"] == "before-log":
            _die()
        record(self, finished)
        if here and death["at"] == "logged":
            _die()

    _patch(CoordinatorService, "_carry_out", dying)
    _patch(Evidence, "record_round", recording)


def _record_traffic(folder: str) -> None:
    """Write all that the coordinator receives (whole payloads, as the transport hands them over)
    and sends, one file each, to ``folder``."""
    take, send = CoordinatorService._take_payload, CoordinatorService._send
    counter = iter(range(1, 1 << 30))

    def write(way: str, peer: str, payload: bytes) -> None:
        try:
            kind = Envelope.decode(payload).header.type
        except CodecError:
            kind = "Undecodable"
        (Path(folder) / f"{next(counter):06d}.{way}.{peer}.{kind}").write_bytes(payload)

    async def taking(self: CoordinatorService, sender: str, payload: bytes) -> Any:
        write("from", sender, payload)
        return await take(self, sender, payload)

    async def sending(
        self: CoordinatorService, name: str, envelope: Envelope, plan: MessagePlan | None = None
    ) -> None:
        write("to", name, envelope.encode())
        await send(self, name, envelope, plan)

    _patch(CoordinatorService, "_take_payload", taking)
    _patch(CoordinatorService, "_send", sending)


def _record_received(file: str) -> None:
    """Append a line to ``file`` for every message of a round that the coordinator receives:
    sender, context, type, what it refers to, and the hash of all its bytes."""
    take = CoordinatorService._take_payload

    async def taking(self: CoordinatorService, sender: str, payload: bytes) -> Any:
        header = Envelope.decode(payload).header
        if header.context != self._federation.link_context:
            place = (sender, header.context.hex(), header.type, header.refers_to.hex())
            with Path(file).open("a", encoding="ascii") as stream:
                stream.write(" ".join((*place, hashlib.sha256(payload).hexdigest())) + "\n")
        return await take(self, sender, payload)

    _patch(CoordinatorService, "_take_payload", taking)


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

    _patch(CoordinatorService, "_carry_out", killing)


_FAULTS: dict[str, Callable[[Any], None]] = {
    "client_dies": _client_dies,
    "train_slowly": _train_slowly,
    "train_until": _train_until,
    "send_twice": _send_twice,
    "record_updates": _record_updates,
    "record_secrets": _record_secrets,
    "record_drawn": _record_drawn,
    "record_received": _record_received,
    "record_spool": _record_spool,
    "coordinator_dies": _coordinator_dies,
    "record_traffic": _record_traffic,
    "authenticator_dies": _authenticator_dies,
}
