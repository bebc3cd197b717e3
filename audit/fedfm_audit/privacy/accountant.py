"""Epsilon of a list of events: by Renyi divergence (for the filter) and by privacy loss
distribution (for the headline).

Both are upper bounds for the same events, so the smaller one holds.  Identical events are grouped
before anything is composed: fifty different ones take PLD half a minute.  dp-accounting does the
composition and the conversion; what it does not know is in ``discrete``.

*Orders.*  ``DEFAULT_ORDERS`` are those of dp-accounting 0.6.  Skellam noise has bounds at integer
orders only and takes the next integer's value in between; ``INTEGER_ORDERS`` gives the figures of
papers that use those alone.  dp-accounting adds the series at fractional orders up by magnitude,
which errs upwards in the fourth digit (at order 3.9 the reference 7.32911 becomes 7.32933), and
leaves an order out where the series does not converge.

*Error in delta.*  If the noise is within total variation distance t of the ideal and the ideal is
(epsilon, delta')-DP, the real one is (epsilon, delta' + (1 + e^epsilon) t)-DP; so the ideal is
asked for delta less that.

dp-accounting (with SciPy) takes two seconds to import, so it is loaded when first needed.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from fedfm_audit.errors import PrivacySettingError
from fedfm_audit.privacy.discrete import (
    continuous_multiplier,
    decomposition_distance,
    discrete_gaussian_rho,
    sampled_skellam_rdp,
    skellam_zcdp,
)
from fedfm_audit.privacy.events import (
    ClearRelease,
    DiscreteGaussianSteps,
    Event,
    GaussianSteps,
    HyperparameterTrials,
    Mechanism,
    SkellamSteps,
)

DEFAULT_ORDERS: tuple[float, ...] = (
    *(1 + x / 10 for x in range(1, 100)),
    *(float(order) for order in range(11, 64)),
    *(128.0, 256.0, 512.0, 1024.0),
)
INTEGER_ORDERS: tuple[float, ...] = (*map(float, range(2, 65)), 128.0, 256.0, 512.0, 1024.0)

PLD_INTERVAL = 1e-4
SEARCH_INTERVAL = 1.6e-3
"""For searches: an upper bound too, a ten-thousandth higher, at a tenth of the time."""
_COARSEST_EPSILON = 1e5
_FINE_EPSILON = 20.0  # above it the grid of the loss distribution grows with epsilon
_MAX_PASSES = 200  # of the search below; it ends earlier unless the answer is next to infinity
_LARGEST_EXPONENT = 700.0  # e^epsilon is still a double

Group = tuple[Mechanism, int]


@dataclass(frozen=True, slots=True)
class RdpBound:
    """Epsilon by Renyi divergence, and the order at which it was found."""

    epsilon: float
    order: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What a list of events costs at ``delta``.

    ``pld`` is None where it was not computed or cannot be (Skellam noise has no loss distribution
    here); infinity means that something was released in clear.
    """

    delta: float
    rdp: RdpBound
    pld: float | None

    @property
    def epsilon(self) -> float:
        """The smaller of the two bounds: the headline."""
        return self.rdp.epsilon if self.pld is None else min(self.rdp.epsilon, self.pld)


def spent(
    events: Iterable[Event],
    delta: float,
    *,
    orders: Sequence[float] = DEFAULT_ORDERS,
    pld: bool = True,
    interval: float = PLD_INTERVAL,
) -> Spent:
    """Epsilon of all ``events`` together at ``delta``; ``interval`` is the grid of PLD.

    Raises
    ------
    PrivacySettingError
        if ``delta`` is not in (0, 1) or an order is not above 1.
    """
    listed = tuple(events)
    bound = rdp_epsilon(listed, delta, orders=orders)
    return Spent(delta, bound, pld_epsilon(listed, delta, interval) if pld else None)


def group(events: Iterable[Event]) -> tuple[Group, ...]:
    """Single-step mechanisms and how often each was applied, in a fixed order; settlements cost
    nothing and are left out, as are releases in clear (see :func:`released_in_clear`)."""
    counts: Counter[Mechanism] = Counter()
    for event in events:
        match event:
            case HyperparameterTrials():
                counts[replace(event.event, steps=1)] += event.trials * event.event.steps
            case GaussianSteps() | DiscreteGaussianSteps() | SkellamSteps():
                counts[replace(event, steps=1)] += event.steps
    return _in_order(counts)


def _in_order(counts: Counter[Mechanism]) -> tuple[Group, ...]:
    return tuple(sorted(counts.items(), key=lambda item: repr(item[0])))


class Tally:
    """Events counted as they come, so that each figure of a long ledger costs the same."""

    def __init__(self) -> None:
        self._counts: Counter[Mechanism] = Counter()
        self._groups: tuple[Group, ...] | None = None
        self._clear = False

    def add(self, event: Event) -> None:
        """Count one more event."""
        self._clear = self._clear or isinstance(event, ClearRelease)
        for mechanism, count in group((event,)):
            self._counts[mechanism] += count
            self._groups = None

    @property
    def groups(self) -> tuple[Group, ...]:
        """What :func:`group` gives for all events so far."""
        if self._groups is None:
            self._groups = _in_order(self._counts)
        return self._groups

    def rdp(self, delta: float) -> RdpBound:
        """:func:`rdp_epsilon` of all events so far."""
        _check(delta, DEFAULT_ORDERS)
        if self._clear:
            return RdpBound(math.inf, DEFAULT_ORDERS[0])
        return groups_rdp(self.groups, delta, DEFAULT_ORDERS)

    def pld(self, delta: float) -> float | None:
        """:func:`pld_epsilon` of all events so far."""
        _check(delta, DEFAULT_ORDERS)
        return math.inf if self._clear else groups_pld(self.groups, delta, PLD_INTERVAL)


def released_in_clear(events: Iterable[Event]) -> bool:
    """Whether anything was released without noise."""
    return any(isinstance(event, ClearRelease) for event in events)


def rdp_epsilon(
    events: Iterable[Event], delta: float, *, orders: Sequence[float] = DEFAULT_ORDERS
) -> RdpBound:
    """Epsilon by Renyi divergence: the best over ``orders``; see :func:`spent`."""
    _check(delta, orders)
    listed = tuple(events)
    if released_in_clear(listed):
        return RdpBound(math.inf, orders[0])
    return groups_rdp(group(listed), delta, tuple(orders))


def pld_epsilon(
    events: Iterable[Event], delta: float, interval: float = PLD_INTERVAL
) -> float | None:
    """Epsilon by privacy loss distribution (pessimistic discretisation, the interval holds up to
    epsilon 20); None where a mechanism has none; see :func:`spent`."""
    _check(delta, DEFAULT_ORDERS)
    listed = tuple(events)
    if released_in_clear(listed):
        return math.inf
    return groups_pld(group(listed), delta, interval)


@lru_cache(maxsize=4096)
def groups_rdp(groups: tuple[Group, ...], delta: float, orders: tuple[float, ...]) -> RdpBound:
    """:func:`rdp_epsilon` of what :func:`group` gave."""
    if not groups:
        return RdpBound(0.0, orders[0])
    total = [0.0] * len(orders)
    for mechanism, count in groups:
        curve = rdp_curve(mechanism, orders)
        total = [sum_ + count * value for sum_, value in zip(total, curve, strict=True)]

    def convert(at: float) -> RdpBound:
        epsilon, order = _rdp().compute_epsilon(orders, total, at)
        return RdpBound(float(epsilon), float(order))

    error = math.fsum(count * _rdp_distance(mechanism) for mechanism, count in groups)
    found = _with_error(lambda at: convert(at).epsilon, delta, error)
    if found is None:
        return RdpBound(math.inf, orders[0])
    epsilon, at = found
    return RdpBound(epsilon, convert(at).order)


@lru_cache(maxsize=1024)
def rdp_curve(mechanism: Mechanism, orders: tuple[float, ...]) -> tuple[float, ...]:
    """RDP of one step of ``mechanism`` at each order; infinity where an order has no bound."""
    match mechanism:
        case GaussianSteps():
            return _gaussian_curve(mechanism.noise_multiplier, mechanism.sampling_rate, orders)
        case DiscreteGaussianSteps() if mechanism.sampling_rate == 1:
            return _zcdp_curve(discrete_gaussian_rho(mechanism), 0.0, orders)
        case DiscreteGaussianSteps():
            multiplier = continuous_multiplier(mechanism)
            if multiplier is None:  # refused by the event itself
                return (math.inf,) * len(orders)
            return _gaussian_curve(multiplier, mechanism.sampling_rate, orders)
        case SkellamSteps():
            whole = tuple(max(2, math.ceil(order)) for order in orders)
            if mechanism.sampling_rate == 1:
                first, second = (
                    _zcdp_curve(rho, xi, tuple(map(float, whole)))
                    for rho, xi in skellam_zcdp(mechanism)
                )
                return tuple(map(min, first, second))
            known = sorted(set(whole))
            values = dict(zip(known, sampled_skellam_rdp(mechanism, known), strict=True))
            return tuple(values[order] for order in whole)


@lru_cache(maxsize=256)
def groups_pld(groups: tuple[Group, ...], delta: float, interval: float) -> float | None:
    """:func:`pld_epsilon` of what :func:`group` gave."""
    if not groups:
        return 0.0
    multipliers = [_continuous(mechanism) for mechanism, _ in groups]
    rough = min(groups_rdp(groups, delta, DEFAULT_ORDERS).epsilon, _COARSEST_EPSILON)
    # Any grid gives an upper bound; a fixed one would need memory in proportion to epsilon.
    coarse = max(0, math.ceil(math.log2(max(rough, 1e-9) / _FINE_EPSILON)))
    grid = interval * 2**coarse
    loss = _pld().identity(value_discretization_interval=grid)
    for (mechanism, count), multiplier in zip(groups, multipliers, strict=True):
        if multiplier is None:
            return None
        loss = loss.compose(_loss_of(multiplier, mechanism.sampling_rate, count, grid))
    error = math.fsum(count * _pld_distance(mechanism) for mechanism, count in groups)
    found = _with_error(lambda at: float(loss.get_epsilon_for_delta(at)), delta, error)
    return math.inf if found is None else found[0]


def _loss_of(multiplier: float, rate: float, count: int, grid: float) -> Any:
    """Loss distribution of ``count`` Gaussian steps; without sampling they are one with less
    noise."""
    if rate == 1:
        return _loss_of_step(multiplier / math.sqrt(count), 1.0, grid)
    return _loss_of_step(multiplier, rate, grid).self_compose(count)


@lru_cache(maxsize=32)  # a megabyte each
def _loss_of_step(multiplier: float, rate: float, grid: float) -> Any:
    """The same of one step: most of the time of :func:`groups_pld`, and the same for every round of
    a ledger."""
    return _pld().from_gaussian_mechanism(
        multiplier, value_discretization_interval=grid, sampling_prob=rate
    )


def _continuous(mechanism: Mechanism) -> float | None:
    """Multiplier of the continuous Gaussian whose loss distribution bounds the mechanism's."""
    match mechanism:
        case GaussianSteps():
            return mechanism.noise_multiplier
        case DiscreteGaussianSteps():
            return continuous_multiplier(mechanism)
        case SkellamSteps():
            return None


def _rdp_distance(mechanism: Mechanism) -> float:
    """What one step adds to the error in delta where its RDP bound was used."""
    if isinstance(mechanism, GaussianSteps):
        return 0.0
    if isinstance(mechanism, DiscreteGaussianSteps) and mechanism.sampling_rate < 1:
        return mechanism.distance + decomposition_distance(mechanism)
    return mechanism.distance


def _pld_distance(mechanism: Mechanism) -> float:
    if isinstance(mechanism, DiscreteGaussianSteps):
        return mechanism.distance + decomposition_distance(mechanism)
    return _rdp_distance(mechanism)


def _with_error(
    epsilon_at: Callable[[float], float], delta: float, error: float
) -> tuple[float, float] | None:
    """(epsilon, delta it was asked at) with (1 + e^epsilon) ``error`` charged to delta.

    The charge depends on the answer: it is made for a limit, and the answer is valid if it stays
    below that; else the limit follows it.  None if nothing finite is valid.
    """
    found, rest = epsilon_at(delta), delta
    if error <= 0:
        return found, rest
    for _ in range(_MAX_PASSES):
        limit = found * (1 + 1e-6) + 1e-9
        if limit > _LARGEST_EXPONENT:
            return None
        rest = delta - (1 + math.exp(limit)) * error
        if rest <= 0:
            return None
        found = epsilon_at(rest)
        if found <= limit:
            return found, rest
    return None


def _gaussian_curve(multiplier: float, rate: float, orders: tuple[float, ...]) -> tuple[float, ...]:
    dp = _dp_accounting()
    event = dp.GaussianDpEvent(multiplier)
    if rate < 1:
        event = dp.PoissonSampledDpEvent(rate, event)
    accountant = _rdp().RdpAccountant(orders)
    with _quiet():
        accountant.compose(event)
    return tuple(map(float, accountant.rdp))


def _zcdp_curve(rho: float, xi: float, orders: tuple[float, ...]) -> tuple[float, ...]:
    accountant = _rdp().RdpAccountant(orders)
    accountant.compose(_dp_accounting().ZCDpEvent(rho, xi))
    return tuple(map(float, accountant.rdp))


def _check(delta: float, orders: Sequence[float]) -> None:
    if not 0 < delta < 1:
        raise PrivacySettingError(f"delta is {delta!r}, expected a number between 0 and 1")
    if not orders or min(orders) <= 1:
        raise PrivacySettingError("Renyi orders must be above 1, and there must be at least one")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning for each order whose series does not converge: such an order is left out
    by its infinite value, which is all that the warning says."""
    logger = logging.getLogger("absl")

    def keep(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _dp_accounting() -> Any:
    import dp_accounting  # noqa: PLC0415

    return dp_accounting


def _rdp() -> Any:
    from dp_accounting.rdp import rdp_privacy_accountant  # noqa: PLC0415

    return rdp_privacy_accountant


def _pld() -> Any:
    from dp_accounting.pld import privacy_loss_distribution  # noqa: PLC0415

    return privacy_loss_distribution
