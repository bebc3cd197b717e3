"""The mechanisms that a privacy ledger may hold: one frozen dataclass each, and nothing else.

An event says what was done to the data, in numbers that suffice to compute its cost; it holds no
cost itself.  JSON comes in and goes out through an allow-list: an unknown type, a missing or extra
field, or a number out of range is refused.  (``DpEvent.from_named_tuple`` of dp-accounting imports
modules that the data name, so no ledger is ever fed to it.)

::

    gaussian            Gaussian noise on a sum of clipped contributions, optionally Poisson-sampled
    discrete-gaussian   the same on the integer grid, noise as the sum of honest shares
    skellam             the same with Skellam noise
    trials              hyper-parameter trials on private data, each at the full cost
    clear               a release without noise: epsilon is infinite
    completed-round     settles an earlier charge; costs nothing itself
    completed-session   the same for a charge of many steps, of which some led to a result
    aborted-round       the same for a round that gave no result; the charge stands

Adjacency is add/remove of one unit throughout.  Everything in grid units (``share_variance``,
``sensitivity_squared``) is of the integer vectors: values times ``scale``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from typing import Any

from fedfm_audit.errors import PrivacyEventError
from fedfm_crypto.canonical_json import canonical_decode, canonical_encode

SMOOTHING_DEVIATION = 6.0
"""eta: standard deviation of the rounding in Peikert's decomposition; see ``discrete``."""

MAX_STEPS = 10_000_000
MAX_DIMENSION = 1 << 40
MAX_SHARES = 4096
MAX_TEXT = 200
_MIN_SHARE_VARIANCE = 1.0  # the bound on sums of discrete Gaussians wants sigma >= 1/2 at least
_LARGEST = 2**53 - 1  # integers of canonical JSON


def _number(event: object, name: str, low: float, high: float, *, above: bool = True) -> None:
    """Refuse a field that is no finite number in (low, high], or [low, high] if not ``above``."""
    value = getattr(event, name)
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not (low < value <= high or (not above and value == low)):
        bracket = "(" if above else "["
        raise PrivacyEventError(
            f"{_type_of(event)}: {name} is {value!r}, expected a number in {bracket}{low:g}, "
            f"{high:g}]"
        )
    object.__setattr__(event, name, float(value))


def _count(event: object, name: str, low: int, high: int) -> None:
    value = getattr(event, name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise PrivacyEventError(
            f"{_type_of(event)}: {name} is {value!r}, expected an integer from {low} to {high}"
        )


def _text(event: object, name: str) -> None:
    value = getattr(event, name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise PrivacyEventError(
            f"{_type_of(event)}: {name} must be text of 1 to {MAX_TEXT} characters"
        )


def _hash(event: object, name: str) -> None:
    value = getattr(event, name)
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise PrivacyEventError(f"{_type_of(event)}: {name} must be 64 lowercase hex digits")


def _type_of(event: object) -> str:
    return str(getattr(event, "type", type(event).__name__))


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianSteps:
    """``steps`` sums of contributions clipped to L2 norm ``clip``, each record taken with
    probability ``sampling_rate`` (1: all of them), plus Gaussian noise of standard deviation
    ``noise_multiplier * clip``."""

    type: str = field(default="gaussian", init=False)
    noise_multiplier: float
    clip: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        _number(self, "noise_multiplier", 0, 1e6)
        _number(self, "clip", 0, 1e9)
        _number(self, "sampling_rate", 0, 1)
        _count(self, "steps", 1, MAX_STEPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatticeSteps:
    """What discrete Gaussian and Skellam noise have in common.

    Attributes
    ----------
    share_variance
        Of one honest share, per coordinate, in grid units (for the discrete Gaussian its
        parameter sigma^2).
    honest_shares
        How many honest shares the opened sum carries at least; never all that were accepted.
    clip, scale
        L2 clip of one contribution, and integer grid points per unit.
    rounding
        ``sum``: clipped contributions are summed, then rounded with a dither that does not depend
        on the data.  ``vector``: one clipped vector, rounded stochastically again until its norm
        is within the bound (Kairouz et al., 2102.06387, with beta = e^-1/2).
    sensitivity_squared
        Square of the L2 norm that the integer vector of one unit is checked against; an integer,
        as the square of an integer vector's norm is.
    dimension
        Coordinates, after padding.
    sampling_rate, steps
        As for :class:`GaussianSteps`.
    distance
        Total variation distance between the opened noise vector of one step and the ideal one, as
        the sampler states it; charged to delta.
    """

    share_variance: float
    honest_shares: int
    clip: float
    scale: int
    rounding: str
    sensitivity_squared: int
    dimension: int
    sampling_rate: float
    steps: int
    distance: float

    def __post_init__(self) -> None:
        _number(self, "share_variance", _MIN_SHARE_VARIANCE, 2.0**80, above=False)
        _count(self, "honest_shares", 1, MAX_SHARES)
        _number(self, "clip", 0, 1e9)
        _count(self, "scale", 1, _LARGEST)
        _count(self, "dimension", 1, MAX_DIMENSION)
        _count(self, "sensitivity_squared", 1, _LARGEST)
        _number(self, "sampling_rate", 0, 1)
        _count(self, "steps", 1, MAX_STEPS)
        _number(self, "distance", 0, 1, above=False)
        least = least_sensitivity_squared(self.clip, self.scale, self.dimension, self.rounding)
        if self.sensitivity_squared < least:
            raise PrivacyEventError(
                f"{_type_of(self)}: sensitivity_squared is {self.sensitivity_squared}, but clip "
                f"{self.clip:g} at scale {self.scale} in {self.dimension} coordinates, rounded by "
                f"{self.rounding}, can reach {least}"
            )

    @property
    def variance(self) -> float:
        """Of the opened sum's honest noise, per coordinate, in grid units."""
        return self.share_variance * self.honest_shares

    @property
    def noise_multiplier(self) -> float:
        """Noise on the sum over ``scale * clip``: what a charter calls z."""
        return math.sqrt(self.variance) / (self.scale * self.clip)

    @property
    def sensitivity_l1(self) -> int:
        """L1 norm of an integer vector of that L2 norm: at most sqrt(d) times it, and at most its
        square."""
        return min(math.isqrt(self.dimension * self.sensitivity_squared), self.sensitivity_squared)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscreteGaussianSteps(LatticeSteps):
    """Sums on the integer grid with discrete Gaussian noise, the sum of ``honest_shares``."""

    type: str = field(default="discrete-gaussian", init=False)

    def __post_init__(self) -> None:
        LatticeSteps.__post_init__(self)
        if self.sampling_rate < 1 and self.variance <= 2 * SMOOTHING_DEVIATION**2:
            raise PrivacyEventError(
                f"{self.type}: the opened noise has variance {self.variance:g} on the grid; with "
                f"Poisson sampling more than {2 * SMOOTHING_DEVIATION**2:g} is needed: raise the "
                "scale"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SkellamSteps(LatticeSteps):
    """Sums on the integer grid with Skellam noise, the sum of ``honest_shares``."""

    type: str = field(default="skellam", init=False)


Mechanism = GaussianSteps | DiscreteGaussianSteps | SkellamSteps


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperparameterTrials:
    """``trials`` runs of ``event`` on private data whose results were looked at: each counts."""

    type: str = field(default="trials", init=False)
    trials: int
    event: Mechanism

    def __post_init__(self) -> None:
        _count(self, "trials", 1, 1_000_000)
        if not isinstance(self.event, GaussianSteps | DiscreteGaussianSteps | SkellamSteps):
            raise PrivacyEventError(f"trials: of {_type_of(self.event)}, expected a noised release")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearRelease:
    """Something about the data was released without noise; ``what`` says what, for a reader."""

    type: str = field(default="clear", init=False)
    what: str

    def __post_init__(self) -> None:
        _text(self, "what")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedRound:
    """The charge with sequence number ``charge`` led to a result; ``accepted`` contributions were
    in it, ``aggregate`` is the hex of a salted hash of what was opened."""

    type: str = field(default="completed-round", init=False)
    charge: int
    accepted: int
    aggregate: str

    def __post_init__(self) -> None:
        _count(self, "charge", 0, _LARGEST)
        _count(self, "accepted", 1, MAX_SHARES)
        _hash(self, "aggregate")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedSession:
    """The charge with sequence number ``charge`` led to ``steps`` opened sums, the first steps of
    those charged; each held ``accepted`` contributions or more, and ``aggregate`` is the hex of a
    salted hash of the last one.  Steps that led to nothing stay spent: an upload of theirs may be
    out."""

    type: str = field(default="completed-session", init=False)
    charge: int
    steps: int
    accepted: int
    aggregate: str

    def __post_init__(self) -> None:
        _count(self, "charge", 0, _LARGEST)
        _count(self, "steps", 1, MAX_STEPS)
        _count(self, "accepted", 1, MAX_SHARES)
        _hash(self, "aggregate")


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortedRound:
    """The charge with sequence number ``charge`` led to no result.  It stands all the same: what
    had left the institution by then nobody can call back."""

    type: str = field(default="aborted-round", init=False)
    charge: int
    reason: str

    def __post_init__(self) -> None:
        _count(self, "charge", 0, _LARGEST)
        _text(self, "reason")


Charge = Mechanism | HyperparameterTrials | ClearRelease
Settlement = CompletedRound | CompletedSession | AbortedRound
Event = Charge | Settlement

_CLASSES: Mapping[str, type[Event]] = {
    "gaussian": GaussianSteps,
    "discrete-gaussian": DiscreteGaussianSteps,
    "skellam": SkellamSteps,
    "trials": HyperparameterTrials,
    "clear": ClearRelease,
    "completed-round": CompletedRound,
    "completed-session": CompletedSession,
    "aborted-round": AbortedRound,
}


def least_sensitivity_squared(clip: float, scale: int, dimension: int, rounding: str) -> int:
    """The least integer bound on the squared L2 norm that this clip and rounding can promise.

    ``sum``: (s C + sqrt d)^2.  ``vector``: the smaller of that and s^2 C^2 + d/4 + s C + sqrt(d)/2
    (2102.06387, Proposition 4.9 with beta = e^-1/2).  Rounded down: squared norms of integer
    vectors are integers.

    Raises
    ------
    PrivacyEventError
        for an unknown way of rounding.
    """
    if rounding not in ("sum", "vector"):
        raise PrivacyEventError(f"rounding {str(rounding)[:40]!r}, expected 'sum' or 'vector'")
    reach = Fraction(clip) * scale
    # sqrt(d) to 2^-64: a float would decide the last digit of a number that must be exact.
    root = Fraction(math.isqrt(dimension << 128), 1 << 64)
    bound = (reach + root) ** 2
    if rounding == "vector":
        bound = min(bound, reach**2 + Fraction(dimension, 4) + reach + root / 2)
    return math.floor(bound)


def event_to_json(event: Event) -> dict[str, Any]:
    """The event as a JSON object; :func:`event_from_json` reads it back."""
    return asdict(event)


def encode_event(event: Event) -> bytes:
    """Canonical JSON of an event."""
    return canonical_encode(event_to_json(event))


def decode_event(data: bytes) -> Event:
    """Read canonical JSON written by :func:`encode_event`.

    Raises
    ------
    PrivacyEventError, CanonicalJSONError
    """
    return event_from_json(canonical_decode(data))


def event_from_json(document: object) -> Event:
    """Read an event, strictly.

    Raises
    ------
    PrivacyEventError
        naming the unknown type, or the field that is missing, unknown or out of range.
    """
    if not isinstance(document, dict):
        raise PrivacyEventError("an event must be a JSON object")
    kind = document.get("type")
    if not isinstance(kind, str) or kind not in _CLASSES:
        raise PrivacyEventError(
            f"unknown event type {str(kind)[:80]!r}; this version knows {', '.join(_CLASSES)}"
        )
    cls = _CLASSES[kind]
    given = {name: value for name, value in document.items() if name != "type"}
    names = {item.name for item in fields(cls)} - {"type"}
    if given.keys() != names:
        missing, extra = sorted(names - given.keys()), sorted(map(str, given.keys() - names))
        raise PrivacyEventError(f"{kind}: missing {missing}, unknown {extra}")
    if cls is HyperparameterTrials:
        given["event"] = event_from_json(given["event"])
    return cls(**given)
