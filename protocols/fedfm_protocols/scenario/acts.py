"""Acts: what a network, a malicious coordinator or a malicious client does in a scenario.

Every act is a form with a name (its field ``act``) and, once a round starts, a function that sees
each delivery and returns what becomes of it, as ``Simulation.intercept`` does.  The registry knows
all of them; :func:`parse_act` refuses what is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fedfm_crypto.envelope import Envelope
from fedfm_protocols import messages
from fedfm_protocols.errors import ScenarioError
from fedfm_protocols.scenario.actors import OUTSIDER
from fedfm_protocols.simulation import Delivery

if TYPE_CHECKING:
    from fedfm_protocols.scenario.stage import Stage

Interceptor = Callable[[str, str, Envelope], Sequence[Delivery]]
MESSAGES = frozenset(messages.type_name(body) for body in get_args(messages.Body))
CLIENT_MESSAGES = (
    "KeyOffer",
    "GraphNonce",
    "ShareBundle",
    "UploadHash",
    "Upload",
    "CohortVote",
    "Unmask",
    "RoundAck",
)
ROBUST_CLIENT_MESSAGES = ("BeaconNonce", "Sketch", "SumSketch")
VALIDATOR_MESSAGES = ("SketchKey", "SketchEvaluationKeys", "Verdict", "BindingResult")
COORDINATOR_MESSAGES = (
    "RoundOpen",
    "KeyRoster",
    "GraphNonces",
    "ShareDelivery",
    "UploadSet",
    "Cohort",
    "CohortProof",
    "Aggregate",
    "RoundClose",
)
SETUP = frozenset(
    {
        "RoundOpen",
        "KeyOffer",
        "KeyRoster",
        "GraphNonce",
        "GraphNonces",
        "ShareBundle",
        "ShareDelivery",
        "KeyDealing",
        "KeyDelivery",
        "SketchKey",
        "SketchEvaluationKeys",
    }
)
"""What comes once in a round, before its first step."""


class CoordinatorDied(Exception):
    """The coordinator's process is gone in the middle of a round."""


def known_message(value: str) -> str:
    """A message type by name, or an error that lists them."""
    if value not in MESSAGES:
        raise ValueError(f"{value!r} is no message; messages are {', '.join(sorted(MESSAGES))}")
    return value


class ActForm(BaseModel):
    """What all acts share: a name, and the ``step`` of a session that they are told in."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    role: ClassVar[str] = "network"
    summary: ClassVar[str] = ""
    sees_all: ClassVar[bool] = False
    """Whether the act looks at messages of other steps as well, and minds its step itself."""
    deferred: ClassVar[bool] = False
    """Whether what is done in the key setup shows in one step of a session."""

    act: str
    step: int = Field(default=0, ge=0, le=1023)

    @property
    def about(self) -> str:
        """The type of message that the act waits for; empty for any."""
        return ""

    @property
    def of_a_step(self) -> bool:
        """Whether the act can be told in one step of a session or in another: not where it is
        about the key setup, the end of the round or the log."""
        return self.deferred or self.about not in SETUP | {"RoundClose", "CheckpointOffer"}

    def due(self, envelope: Envelope) -> bool:
        """Whether a message is of the step that the act is told in; the key setup counts to the
        first one, unless the act is about it."""
        kind = envelope.header.type
        if kind in SETUP:
            return self.about in SETUP or (self.step == 0 and not self.about)
        return kind == "RoundClose" or envelope.header.step == self.step

    def signers(self) -> frozenset[str]:
        """Whose keys the act needs."""
        return frozenset()

    def mentions(self) -> frozenset[str]:
        """Every party that a field names."""
        return frozenset()

    def check(self, round: int, parties: frozenset[str], held: frozenset[str]) -> None:
        """Refuse an act about nobody, or one that signs with a key that the adversary lacks."""
        strangers = sorted(self.mentions() - parties - {OUTSIDER})
        if strangers:
            raise ValueError(
                f"round {round}, act {self.act}: {', '.join(strangers)} is nobody of this "
                "federation"
            )
        missing = sorted(self.signers() - held)
        if missing:
            raise ValueError(
                f"round {round}, act {self.act} signs as {', '.join(missing)}: list it under "
                "`malicious` (or `stolen_keys`)"
            )

    def start(self, stage: Stage) -> Interceptor:
        """The act as a function on deliveries, fresh for one round."""
        raise ScenarioError(f"act {self.act} cannot be started")


class Selector(ActForm):
    """Acts on messages: all of them, or those that fit every field given."""

    message: str | None = None
    sender: str | None = Field(default=None, validation_alias="from", serialization_alias="from")
    to: list[str] | None = None

    @field_validator("message")
    @classmethod
    def _known_message(cls, value: str | None) -> str | None:
        return None if value is None else known_message(value)

    @property
    def about(self) -> str:
        """The type of the messages that fit."""
        return self.message or ""

    def mentions(self) -> frozenset[str]:
        """Sender and recipients."""
        return frozenset({*(self.to or ()), *([self.sender] if self.sender else [])})

    def fits(self, sender: str, recipient: str, envelope: Envelope) -> bool:
        """Whether a delivery is one of those selected."""
        return (
            (self.message is None or envelope.header.type == self.message)
            and (self.sender is None or sender == self.sender)
            and (self.to is None or recipient in self.to)
        )


@dataclass(frozen=True, slots=True)
class Act:
    """An entry of the registry."""

    name: str
    role: str
    summary: str
    form: type[ActForm]


REGISTRY: dict[str, Act] = {}


def register(name: str, form: type[ActForm], summary: str, role: str) -> None:
    """Add an act; names are unique."""
    if name in REGISTRY:
        raise ScenarioError(f"there are two acts called {name}")
    REGISTRY[name] = Act(name, role, summary, form)


def known_act(name: str) -> Callable[[type[ActForm]], type[ActForm]]:
    """Class decorator: the act ``name``, described by the first line of the docstring."""

    def add(form: type[ActForm]) -> type[ActForm]:
        summary = (form.__doc__ or "").strip().partition("\n")[0]
        register(name, form, summary, form.role)
        return form

    return add


def parse_act(fields: Mapping[str, Any]) -> ActForm:
    """One act from its table.

    Raises
    ------
    ValueError
        if the act is unknown (the known ones are listed) or has a field that it does not take.
    """
    name = fields.get("act")
    entry = REGISTRY.get(name) if isinstance(name, str) else None
    if entry is None:
        raise ValueError(f"unknown act {name!r}; known acts are {', '.join(sorted(REGISTRY))}")
    try:
        return entry.form.model_validate(dict(fields))
    except ValidationError as error:
        problems = "; ".join(
            ".".join(str(step) for step in item["loc"])
            + ": "
            + item["msg"].removeprefix("Value error, ")
            for item in error.errors(include_url=False, include_input=False)
        )
        raise ValueError(f"act {name}: {problems}") from error
