"""Processes that die, come back, are slow, or compute something else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import field_validator

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.effects import Left
from fedfm_protocols.scenario.acts import (
    ActForm,
    CoordinatorDied,
    Interceptor,
    known_act,
    known_message,
)
from fedfm_protocols.scenario.federations import COORDINATOR
from fedfm_protocols.simulation import Delivery, deliver

if TYPE_CHECKING:
    from fedfm_protocols.scenario.stage import Stage


class _OneClient(ActForm):
    role: ClassVar[str] = "process"
    client: str

    def mentions(self) -> frozenset[str]:
        """The client."""
        return frozenset({self.client})


class _Dying(_OneClient):
    before: str

    @property
    def about(self) -> str:
        """The message that is lost."""
        return self.before

    @field_validator("before")
    @classmethod
    def _known_message(cls, value: str) -> str:
        return known_message(value)


@known_act("crash")
class Crash(_Dying):
    """`client` dies when it would send its first message of type `before`: that message is lost.

    It comes back ``at-once`` (and is sent again whatever the coordinator sent it in this round),
    with the ``next-round``, or ``never``; always with what its journal made durable and nothing
    else.
    """

    sees_all: ClassVar[bool] = True
    resume: Literal["never", "next-round", "at-once"] = "next-round"

    def start(self, stage: Stage) -> Interceptor:
        """Kill the client in the act of sending."""
        done = False
        told: list[Envelope] = []

        def crash(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            nonlocal done
            if recipient == self.client:
                told.append(envelope)
            fits = sender == self.client and envelope.header.type == self.before
            if done or not fits or not self.due(envelope):
                return ((recipient, envelope),)
            done = True
            stage.dead[self.client] = self.resume
            stage.observer.record("crashed", by=self.client, before=self.before)
            if self.resume == "at-once":
                stage.come_back(self.client, [(self.client, old) for old in told])
            return ()

        return crash


@known_act("leave")
class Leave(_Dying):
    """As `crash`, but the coordinator's transport notices at once and does not wait."""

    def start(self, stage: Stage) -> Interceptor:
        """Kill the client and tell the coordinator."""

        def leave(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            if sender != self.client or envelope.header.type != self.before:
                return ((recipient, envelope),)
            stage.dead[self.client] = "next-round"
            stage.observer.record("left", by=self.client, before=self.before)
            stage.tell_later(Left(self.client))
            return ()

        return leave


@known_act("crash-coordinator")
class CrashCoordinator(ActForm):
    """The coordinator dies before it sends its first message of type `before`; the round is lost
    and the next one is opened by its successor."""

    role: ClassVar[str] = "process"
    before: str

    @property
    def about(self) -> str:
        """The message that is never sent."""
        return self.before

    @field_validator("before")
    @classmethod
    def _known_message(cls, value: str) -> str:
        return known_message(value)

    def start(self, stage: Stage) -> Interceptor:
        """End the round where it stands."""

        def die(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            if sender == COORDINATOR and envelope.header.type == self.before:
                raise CoordinatorDied
            return ((recipient, envelope),)

        return die


@known_act("train-late")
class TrainLate(_OneClient):
    """The training of `client` ends only after it was sent a message of type `until`, or in the
    `next-round`."""

    until: str

    def start(self, stage: Stage) -> Interceptor:
        """Hold the result back."""
        stage.late.training[self.client] = (self.step, self.until)
        return deliver


@known_act("apply-late")
class ApplyLate(_OneClient):
    """`client` has applied the sum only after it was sent a message of type `until`, or in the
    `next-round`."""

    until: str

    def start(self, stage: Stage) -> Interceptor:
        """Hold the result back."""
        stage.late.applying[self.client] = (self.step, self.until)
        return deliver


@known_act("diverge")
class Diverge(ActForm):
    """`clients` compute another adapter from the same sum."""

    role: ClassVar[str] = "process"
    clients: list[str]

    def mentions(self) -> frozenset[str]:
        """The clients."""
        return frozenset(self.clients)

    def start(self, stage: Stage) -> Interceptor:
        """Make their results differ."""
        stage.diverging.update(dict.fromkeys(self.clients, self.step))
        return deliver
