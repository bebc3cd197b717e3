"""What a scenario file may say, parsed strictly: a field that is not listed here is an error.

A scenario is a federation, parties under the adversary's control, and rounds.  Each round has
acts (what goes wrong on purpose) and an expectation (what must follow).  The TOML form and the
Python objects are the same: ``Scenario(...)`` takes what the file names.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fedfm_protocols.errors import ScenarioError
from fedfm_protocols.scenario import attacks as _attacks
from fedfm_protocols.scenario.actors import OUTSIDER
from fedfm_protocols.scenario.acts import ActForm, parse_act
from fedfm_protocols.scenario.federations import COORDINATOR, VALIDATOR, client_names

__all__ = [
    "Expectation",
    "InSessionForm",
    "RoundForm",
    "Scenario",
    "parse_scenario",
    "with_seed",
    "with_suite",
]

LOG = "log"
HONEST = "honest"
OTHERS = "others"
EVERYBODY = "everybody"
_attacks.load()


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FederationForm(_Form):
    """The charter: everything that has a default may be left out."""

    name: str = "test"
    clients: int = Field(default=5, ge=1, le=4096)
    colluding: int = 1
    dropouts: int = 1
    suite: Literal["clear", "masked", "sealed", "layered"] = "masked"
    rounds: int = Field(default=100, ge=1)
    values: int = Field(default=16, ge=1, le=1 << 24)
    clip: float = 1.0
    scale: int = 65536
    lane_bits: Literal[24, 32] = 32
    session: int = Field(default=1, ge=1, le=1024)
    """Steps of a round; with more than one, sessions as in mode ``shared-noise``, without noise."""
    robust: bool | None = None
    """Whether a validator judges the updates (``values`` at least 65536), with open sketches: it
    removes whose norm exceeds 1.2 times the median."""
    marks: list[str] = Field(default_factory=list)
    """Clients that own a mark; the first keeps the consortium's too.  Marks are bounded to the norm
    of an update at the clip, on the quantiser's grid."""
    marks_scale: int | None = None
    """Steps per unit of the grid of marks, where it is not the quantiser's."""
    key_rounds: int | None = Field(default=None, ge=1)
    """How many rounds one sketch key judges; 1000 if left out."""


class UpdatesForm(_Form):
    """What clients upload: ``random`` multiples of the quantisation step, all at the clip
    ``bound`` or all ``zero``; ``kinds`` says otherwise for single clients, ``vectors`` gives single
    clients their own (any length, any float).
    """

    kind: Literal["random", "bound", "zero"] = "random"
    kinds: dict[str, Literal["random", "bound", "zero"]] = Field(default_factory=dict)
    vectors: dict[str, list[float]] = Field(default_factory=dict)


class PolicyForm(_Form):
    """Lines of the sites' own policy that the charter is checked against before round 1."""

    suites: list[str] | None = None
    min_clients: int | None = None
    min_colluding: int | None = None
    min_accepted: int | None = None
    max_rounds: int | None = None


class ErrorForm(_Form):
    """One kind of error that must occur: ``by`` whom (``honest`` for every honest client that is
    invited, ``others`` for those of them that no other entry names), its class, a part of its
    text, and how often (at least once if left out)."""

    by: list[str] = Field(default_factory=lambda: [HONEST])
    error: str
    text: str = ""
    times: int | None = Field(default=None, ge=1)


class NoteForm(_Form):
    """One note to an operator that must occur."""

    by: list[str]
    text: str


class Expectation(_Form):
    """What a round must lead to.  Errors and notes of honest parties that are not listed fail
    the verdict, and so does a listed one that does not occur.  ``accepted`` is everyone invited
    but the ``removed`` (dealt shares, not in the sum) and the ``absent`` (dealt none), unless
    stated; in a round that makes a key they are its holders.  ``keyless`` are the honest clients
    that do not hold the key afterwards.  In a session the lists are those of the last good step,
    and ``good_steps`` says how many there are, where it is not all of them."""

    outcome: Literal["completed", "void", "aborted", "lost"] = "completed"
    reason: str = ""
    good_steps: int | None = Field(default=None, ge=1)
    accepted: list[str] | None = None
    removed: list[str] = Field(default_factory=list)
    absent: list[str] = Field(default_factory=list)
    dissenters: list[str] = Field(default_factory=list)
    errors: list[ErrorForm] = Field(default_factory=list)
    notes: list[NoteForm] = Field(default_factory=list)
    released_shares: int | None = None
    named: list[str] = Field(default_factory=list)
    behind: list[str] = Field(default_factory=list)
    keyless: list[str] = Field(default_factory=list)
    sum_exact: bool | None = None
    sent: dict[str, list[str]] = Field(default_factory=dict)


class InSessionForm(_Form):
    """What is different where the round is played inside a session (module ``in_session``): where
    all of ``when`` hold, these fields of ``expect`` replace what follows from the round's own;
    ``lost`` are left out of the steps after, though the round itself completes with them."""

    when: list[Literal["first", "later", "followed", "last"]] = Field(default_factory=list)
    lost: list[str] = Field(default_factory=list)
    expect: Expectation = Field(default_factory=Expectation)


class RoundForm(_Form):
    """One round: its ``kind`` (``keys`` makes the next epoch's collective key, ``watermark`` adds
    up marks), who is restarted
    or catches up before it, its acts, what must follow, and what of that is ``in_session``
    different."""

    number: int | None = Field(default=None, ge=0)
    kind: Literal["train", "keys", "watermark"] = "train"
    invited: list[str] | None = None
    restart: list[str] = Field(default_factory=list)
    catch_up: list[str] = Field(default_factory=list)
    acts: list[Any] = Field(default_factory=list)
    expect: Expectation = Field(default_factory=Expectation)
    in_session: list[InSessionForm] = Field(default_factory=list)

    @field_validator("acts", mode="before")
    @classmethod
    def _read_acts(cls, value: object) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise ValueError("acts must be a list")
        return [parse_act(act) if isinstance(act, Mapping) else act for act in value]

    @field_validator("acts")
    @classmethod
    def _acts_can_act(cls, value: list[Any]) -> list[Any]:
        for act in value:
            if not isinstance(act, ActForm) and not callable(act):
                raise ValueError(
                    f"an act is a table with a field `act`, or a function, found {act!r}"
                )
        return value


class Scenario(_Form):
    """One scripted run.

    ``malicious`` are the parties whose keys the adversary holds and of whom nothing is asserted
    (clients, ``coordinator``, ``log``); ``stolen_keys`` are keys of clients that still behave
    honestly.  ``row`` quotes the row of the attack table that the scenario is about, ``steps``
    the steps of protocols/README.md that it touches.  ``log`` runs a transparency log beside the
    rounds; ``large`` is for hundreds of clients (messages are not kept: no replay).  In suites
    that encrypt a round that makes the key runs first, by itself, unless the first round is of
    kind ``keys`` or ``key_round`` is false.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    title: str
    row: str = ""
    steps: list[str] = Field(default_factory=list)
    seed: int = Field(default=1, ge=0, le=2**32 - 1)
    malicious: list[str] = Field(default_factory=list)
    stolen_keys: list[str] = Field(default_factory=list)
    log: bool = False
    large: bool = False
    key_round: bool = True
    federation: FederationForm = Field(default_factory=FederationForm)
    policy: PolicyForm | None = None
    updates: UpdatesForm = Field(default_factory=UpdatesForm)
    refused_charter: str = ""
    rounds: list[RoundForm] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        clients = set(client_names(self.federation.clients))
        known = clients | self.parties
        for what, names in (
            ("malicious", self.malicious),
            ("stolen_keys", self.stolen_keys),
            ("updates.vectors", self.updates.vectors),
            ("updates.kinds", self.updates.kinds),
        ):
            strangers = sorted(set(names) - known)
            if strangers:
                raise ValueError(f"{what}: {', '.join(strangers)} is nobody of this federation")
        for number, one in enumerate(self.rounds, 1):
            self._check_round(number, one, clients, known)
        if not self.rounds and not self.refused_charter:
            raise ValueError("rounds: a scenario has at least one round, or a refused_charter")
        return self

    def _check_round(self, number: int, one: RoundForm, clients: set[str], known: set[str]) -> None:
        for expect in (one.expect, *(variant.expect for variant in one.in_session)):
            self._check_names(number, one, expect, clients, known)
        for act in one.acts:
            if isinstance(act, ActForm):
                act.check(number, self.parties, self.keys_held)
                if act.step >= self.federation.session:
                    raise ValueError(
                        f"round {number}, act {act.act}: step {act.step} of a session with "
                        f"{self.federation.session} steps (federation.session)"
                    )

    def _check_names(
        self,
        number: int,
        one: RoundForm,
        expect: Expectation,
        clients: set[str],
        known: set[str],
    ) -> None:
        caught_up = set(one.catch_up) - {EVERYBODY}
        named = {*one.restart, *caught_up, *(one.invited or ()), *expect.removed}
        named |= {
            *(expect.accepted or ()),
            *expect.dissenters,
            *expect.behind,
            *expect.keyless,
            *expect.sent,
            *expect.absent,
        }
        strangers = sorted(named - clients)
        speakers = {name for error in expect.errors for name in error.by}
        speakers |= {name for note in expect.notes for name in note.by}
        strangers += sorted(speakers - known - {HONEST, OTHERS, OUTSIDER})
        if strangers:
            raise ValueError(f"round {number}: {', '.join(strangers)} is no party of this scenario")

    @property
    def makes_key_first(self) -> bool:
        """Whether a round that the scenario does not list makes the first collective key."""
        encrypts = self.federation.suite in ("sealed", "layered")
        listed = bool(self.rounds) and self.rounds[0].kind == "keys"
        return encrypts and self.key_round and not listed

    @property
    def parties(self) -> frozenset[str]:
        """Everyone who can be named: the roster, ``coordinator``, ``log``, and ``validator`` where
        there is one."""
        others = {VALIDATOR} if self.federation.robust else set[str]()
        return frozenset({*client_names(self.federation.clients), COORDINATOR, LOG, *others})

    @property
    def keys_held(self) -> frozenset[str]:
        """Whose keys the adversary has."""
        return frozenset({*self.malicious, *self.stolen_keys})

    @property
    def honest(self) -> tuple[str, ...]:
        """The clients of whom the verdict is asserted, sorted."""
        return tuple(n for n in client_names(self.federation.clients) if n not in self.malicious)


def _readable(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(str(step) for step in item["loc"]) or "scenario"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "is not a field of a scenario; see docs/protocol-testing.md"
        parts.append(f"{place}: {message}")
    return "; ".join(parts)


def parse_scenario(text: str | Mapping[str, Any], *, name: str | None = None) -> Scenario:
    """Read a scenario from TOML text or from the same as nested tables.

    ``name`` is taken where the scenario does not give its own.

    Raises
    ------
    ScenarioError
        naming each field that is unknown, missing or impossible; an unknown act lists the known
        ones.
    """
    try:
        fields = dict(tomllib.loads(text) if isinstance(text, str) else text)
    except (ValueError, RecursionError) as error:  # also numbers and nestings without end
        raise ScenarioError(f"the scenario is not TOML: {error}") from error
    if name is not None:
        fields.setdefault("name", name)
    try:
        return Scenario.model_validate(fields)
    except ValidationError as error:
        raise ScenarioError(f"invalid scenario: {_readable(error)}") from error


def with_suite(scenario: Scenario, suite: str) -> Scenario:
    """The same scenario in another suite."""
    federation = scenario.federation.model_copy(update={"suite": suite})
    return scenario.model_copy(update={"federation": federation})


def with_seed(scenario: Scenario, seed: int) -> Scenario:
    """The same scenario with other keys, masks and updates."""
    return scenario.model_copy(update={"seed": seed})
