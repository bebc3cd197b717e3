"""One entry of a privacy ledger: the predicate of a leaf that the institution itself signs.

A charge is entered before anything is computed that will leave; a settlement says later what came
of it.  The figures in an entry are for readers: a verifier recomputes them from the events alone.
Nothing here is secret or names a person: no seed (only the kind of generator), no data set size,
hashes of data salted by whoever makes them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, ClassVar

from fedfm_audit.privacy.events import Event, event_from_json
from fedfm_crypto.canonical_json import canonical_encode

ADJACENCY = "add-remove"
INFINITY = "infinity"
"""How an infinite epsilon stands in JSON, which has no such number."""
NO_PREVIOUS = "0" * 64

Figure = float | str
"""A number, or ``INFINITY``."""


def figure(value: float) -> Figure:
    """A number as it stands in an entry."""
    return INFINITY if math.isinf(value) else value


def figure_value(written: Figure) -> float:
    """The number that an entry's figure stands for."""
    return math.inf if isinstance(written, str) else float(written)


@dataclass(frozen=True, slots=True)
class Adversary:
    """From whom the unit is protected: ``everyone-else`` (each institution adds its full noise) or
    ``sum-observers`` (whoever sees opened sums, with up to ``colluding`` institutions)."""

    view: str
    colluding: int


@dataclass(frozen=True, slots=True)
class Participants:
    """How many institutions were planned, and how many honest ones the charge relies on."""

    planned: int
    least_honest: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """Hex SHA-256 hashes: list of trainable parameters, code, configuration, base model, and
    (salted) manifest of the data."""

    parameters: str
    code: str
    config: str
    model: str
    data: str


@dataclass(frozen=True, slots=True)
class Cumulative:
    """What all events up to and including this one cost at ``delta``; ``epsilon_pld`` is None
    where it was not computed or cannot be."""

    delta: float
    epsilon_rdp: Figure
    order: float
    epsilon_pld: Figure | None


@dataclass(frozen=True, slots=True)
class BudgetLeft:
    """The budget, and how much of its epsilon is left after this entry."""

    epsilon: float
    delta: float
    left: float


@dataclass(frozen=True, slots=True)
class Libraries:
    """Versions of what computed the figures."""

    secure_fedfm: str
    python: str
    numpy: str
    scipy: str
    dp_accounting: str

    @classmethod
    def installed(cls) -> Libraries:
        """Those of this process."""
        import platform  # noqa: PLC0415 - only institutions that write entries need it

        return cls(
            _version("secure-fedfm"),
            platform.python_version(),
            _version("numpy"),
            _version("scipy"),
            _version("dp-accounting"),
        )


@dataclass(frozen=True, slots=True)
class PrivacyPredicate:
    """An entry of ``institution``'s ledger.

    ``sequence`` counts its entries from 0; ``previous`` is the hex SHA-256 of its leaf before this
    one (zeros before the first); ``round`` is 0 for what happens outside rounds; ``unit`` is
    ``example`` or ``client``; ``released`` says what leaves; ``generator`` is the kind of random
    generator.
    """

    TYPE: ClassVar[str] = "urn:secure-fedfm:privacy:v1"
    federation: str
    charter: str
    institution: str
    key: str
    sequence: int
    previous: str
    round: int
    unit: str
    adjacency: str
    adversary: Adversary
    released: str
    event: Event
    participants: Participants
    hashes: Provenance
    generator: str
    cumulative: Cumulative
    budget: BudgetLeft
    libraries: Libraries
    _written: bytes | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def subject(self) -> str:
        """Name of the in-toto subject."""
        return f"ledger/{self.institution}/{self.sequence:06d}"

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the predicate's canonical JSON: the subject's digest."""
        written = canonical_encode(self.to_json()) if self._written is None else self._written
        return hashlib.sha256(written).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON objects: what ``dataclasses.asdict`` gives, without its copies."""
        return _to_json(self)


def _to_json(value: Any) -> dict[str, Any]:
    members = _MEMBERS.get(type(value)) or _MEMBERS.setdefault(type(value), _Members(type(value)))
    return {
        name: member if type(member) in _PLAIN else _to_json(member)
        for name, member in zip(members.names, members.of(value), strict=True)
    }


class _Members:
    """The fields (two at least) of a dataclass, by one call."""

    def __init__(self, cls: type) -> None:
        self.names = tuple(one.name for one in fields(cls) if not one.name.startswith("_"))
        self.of = attrgetter(*self.names)


_MEMBERS: dict[type, _Members] = {}
_PLAIN = frozenset({str, int, float, type(None)})


def read_privacy_predicate(
    fields: Mapping[str, Any], written: bytes | None = None
) -> PrivacyPredicate:
    """Build the entry from JSON that its schema has accepted; ``written`` is its canonical form,
    from a caller that has it already.

    Raises
    ------
    PrivacyEventError
        if the event is none of the allowed ones.
    """
    nested = {
        "adversary": Adversary(**fields["adversary"]),
        "event": event_from_json(fields["event"]),
        "participants": Participants(**fields["participants"]),
        "hashes": Provenance(**fields["hashes"]),
        "cumulative": Cumulative(**fields["cumulative"]),
        "budget": BudgetLeft(**fields["budget"]),
        "libraries": Libraries(**fields["libraries"]),
    }
    predicate = PrivacyPredicate(**{**fields, **nested})
    # No argument of the constructor: a copy with another field is written anew.
    object.__setattr__(predicate, "_written", written)
    return predicate


def _version(package: str) -> str:
    # Loads the network modules of the standard library, which an auditor's process never does.
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
