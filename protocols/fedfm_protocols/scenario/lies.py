"""How a malicious party lies: it changes the body of one of its messages and signs it again.

A lie is a function of the :class:`Moment` and the honest body; it returns the false body, raw
bytes, or :class:`Signed` where header fields change too.  The context of a forged RoundOpen or
KeyRoster is made to fit its body, since a liar would do so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from fedfm_crypto.envelope import Envelope
from fedfm_protocols import messages
from fedfm_protocols.context import NO_HASH, RoundIdentity, context1
from fedfm_protocols.messages import KeyRoster, RoundOpen, body_hash
from fedfm_protocols.scenario.actors import Actor, body_of, member, resigned, swapped
from fedfm_protocols.scenario.acts import ActForm, Interceptor, register
from fedfm_protocols.scenario.federations import COORDINATOR
from fedfm_protocols.simulation import Delivery

if TYPE_CHECKING:
    from fedfm_protocols.scenario.stage import Stage


class LieForm(ActForm):
    """Fields of a lie.  ``to`` restricts it to some recipients; the honest message is replaced,
    or comes as well, ``before`` or ``after`` the lie."""

    needs: ClassVar[tuple[str, ...]] = ()
    may: ClassVar[tuple[str, ...]] = ()
    message: ClassVar[str] = ""
    told_by: ClassVar[str] = COORDINATOR
    signs_for: ClassVar[bool] = False

    to: list[str] | None = None
    honest: Literal["replaced", "before", "after"] = "replaced"
    by: str | None = None
    client: str | None = None
    clients: list[str] | None = None
    count: int | None = Field(default=None, ge=0)
    damage: str | None = None

    @model_validator(mode="after")
    def _takes_these_fields(self) -> LieForm:
        given = {
            name
            for name in ("by", "client", "clients", "count", "damage")
            if getattr(self, name) is not None
        }
        missing = sorted(set(self.needs) - given)
        extra = sorted(given - set(self.needs) - set(self.may))
        if missing or extra:
            takes = ", ".join((*self.needs, *(f"[{name}]" for name in self.may))) or "none"
            raise ValueError(
                f"fields needed and missing: {missing or 'none'}; given and not taken: "
                f"{extra or 'none'}; this act takes {takes}"
            )
        return self

    @property
    def about(self) -> str:
        """The message that is changed."""
        return type(self).message

    @property
    def speaker(self) -> str:
        """Who lies."""
        return self.by or type(self).told_by

    def signers(self) -> frozenset[str]:
        """The liar, and the accomplice whose signed word it changes."""
        accomplice = {self.client} if self.signs_for and self.client else set[str]()
        return frozenset({self.speaker, *accomplice})

    def mentions(self) -> frozenset[str]:
        """Everyone in a field."""
        one = {name for name in (self.by, self.client) if name}
        return frozenset({*one, *(self.clients or ()), *(self.to or ())})


@dataclass(frozen=True, slots=True)
class Moment:
    """What a liar has before it: the stage, its own form and key, the message it would send."""

    stage: Stage
    form: LieForm
    envelope: Envelope
    recipient: str
    speaker: Actor

    @property
    def client(self) -> str:
        """The client that the lie is about."""
        return self.form.client or ""

    @property
    def clients(self) -> tuple[str, ...]:
        """The clients that the lie is about."""
        return tuple(self.form.clients or ())

    @property
    def step(self) -> int:
        """The step of the session that the lie is told in, or takes effect in."""
        return self.form.step

    @property
    def count(self) -> int:
        """How many the lie leaves."""
        return self.form.count or 0

    def accomplice(
        self, encoded: Sequence[bytes], body: object | None = None, **header: Any
    ) -> Any:
        """A signed set in which ``client`` says something else, signed by its own key."""
        place = member(encoded, self.client)
        actor = self.stage.actor(self.client)
        return swapped(encoded, place, resigned(actor, encoded[place], body, **header))


@dataclass(frozen=True, slots=True)
class Signed:
    """A false body with false header fields."""

    body: object
    header: dict[str, Any] = field(default_factory=dict)


LieFunction = Callable[[Moment, Any], object]


def lie(
    name: str,
    message: str,
    *,
    needs: tuple[str, ...] = (),
    may: tuple[str, ...] = (),
    signs_for: bool = False,
    deferred: bool = False,
    told_by: str = COORDINATOR,
) -> Callable[[LieFunction], LieFunction]:
    """Decorator: the act ``name`` changes ``message`` (empty: any message of the liar).

    ``needs`` and ``may`` are the fields that its form takes; ``signs_for`` if it also signs with
    the key of ``client``; ``deferred`` if it shows in a step of a session only; ``told_by`` the
    validator where it is one of its messages.  The function's docstring describes the act.
    """

    def add(function: LieFunction) -> LieFunction:
        role = "malicious client" if "by" in needs else f"malicious {told_by}"
        attributes = {
            "__doc__": function.__doc__,
            "__module__": function.__module__,
            "needs": needs,
            "may": may,
            "message": message,
            "told_by": told_by,
            "signs_for": signs_for,
            "deferred": deferred,
            "role": role,
            "start": _starter(function),
            "__annotations__": {
                "needs": ClassVar[tuple[str, ...]],
                "may": ClassVar[tuple[str, ...]],
                "message": ClassVar[str],
                "told_by": ClassVar[str],
                "signs_for": ClassVar[bool],
                "deferred": ClassVar[bool],
                "role": ClassVar[str],
            },
        }
        form = type(_class_name(name), (LieForm,), attributes)
        summary = " ".join((function.__doc__ or "").split())
        register(name, form, summary, role)
        return function

    return add


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def _starter(function: LieFunction) -> Callable[[LieForm, Stage], Interceptor]:
    def start(form: LieForm, stage: Stage) -> Interceptor:
        speaker = stage.actor(form.speaker)

        def tell(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
            honest = (recipient, envelope)
            kind = envelope.header.type
            if sender != form.speaker or (form.message and kind != form.message):
                return (honest,)
            if form.to is not None and recipient not in form.to:
                return (honest,)
            moment = Moment(stage, form, envelope, recipient, speaker)
            false = function(moment, body_of(envelope, getattr(messages, kind)))
            if false is None:
                return (honest,)
            forged = (recipient, sign_lie(stage, speaker, envelope, false))
            if form.honest == "before":
                return (honest, forged)
            return (forged, honest) if form.honest == "after" else (forged,)

        return tell

    return start


def sign_lie(stage: Stage, speaker: Actor, envelope: Envelope, false: object) -> Envelope:
    """The forged envelope of a lie."""
    if isinstance(false, Envelope):
        return false
    signed = false if isinstance(false, Signed) else Signed(false)
    header = dict(signed.header)
    if isinstance(signed.body, RoundOpen):
        header.setdefault("context", identity_of_opening(stage, signed.body).context0())
    if isinstance(signed.body, KeyRoster):
        opened = stage.last("RoundOpen")
        before = opened.header.context if opened is not None else bytes(32)
        state = stage.state
        key_hash = NO_HASH if state is None else state.round.key_hash
        header.setdefault("context", context1(before, body_hash(signed.body), key_hash))
    return speaker.forge(envelope, signed.body, **header)


def identity_of_opening(stage: Stage, opened: RoundOpen) -> RoundIdentity:
    """The context that a RoundOpen leads to in this federation."""
    return RoundIdentity(
        charter_hash=stage.federation.charter_hash,
        key_epoch=opened.key_epoch,
        round=opened.round,
        steps=opened.steps,
        kind=opened.kind,
        invited=opened.invited,
        adapter_hash=opened.adapter_hash,
        config_hash=opened.config_hash,
    )
