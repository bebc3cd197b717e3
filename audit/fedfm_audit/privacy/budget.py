"""The budget of a ledger: what is left, whether a charge fits, and how many more would.

The filter follows Feldman and Zrnic 2020 (2008.11193): a charge is refused before it is made if the
Renyi divergence of everything charged so far and of this charge converts to more than the budget.
All parameters come from the charter, so nothing about the next charge depends on earlier outputs,
and the best order may be taken at each check.  Where the charter's noise was calibrated by privacy
loss distribution, ``accountant`` is ``pld``: then a charge that Renyi divergence refuses is looked
at again that way.  Both bounds hold, so neither lets more through than the budget.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedfm_audit.errors import BudgetExceededError, PrivacySettingError
from fedfm_audit.privacy.accountant import (
    DEFAULT_ORDERS,
    PLD_INTERVAL,
    Group,
    group,
    groups_pld,
    groups_rdp,
    released_in_clear,
)
from fedfm_audit.privacy.events import Event

MAX_FORECAST = 1_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """Epsilon and delta that an institution may spend in all, and which accountant decides."""

    epsilon: float
    delta: float
    accountant: str = "rdp"

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf or not 0 < self.delta < 1:
            raise PrivacySettingError(
                f"budget epsilon {self.epsilon!r} at delta {self.delta!r}; expected a positive "
                "finite epsilon and a delta between 0 and 1"
            )
        if self.accountant not in ("rdp", "pld"):
            raise PrivacySettingError(f"accountant {self.accountant!r}, expected 'rdp' or 'pld'")


def spent_of(events: Iterable[Event], budget: Budget) -> float:
    """Epsilon spent, as the budget's accountant sees it."""
    listed = tuple(events)
    if released_in_clear(listed):
        return math.inf
    return _epsilon(group(listed), budget)


def would_exceed(events: Iterable[Event], event: Event, budget: Budget) -> bool:
    """Whether ``event`` on top of ``events`` would exceed the budget."""
    listed = (*events, event)
    return released_in_clear(listed) or not _fits(group(listed), budget)


def check_budget(events: Iterable[Event], event: Event, budget: Budget) -> None:
    """Refuse an event that would exceed the budget.

    Raises
    ------
    BudgetExceededError
        naming what is spent, what is left and what the charge would bring it to.
    """
    before = tuple(events)
    if not would_exceed(before, event, budget):
        return
    already = spent_of(before, budget)
    after = spent_of((*before, event), budget)
    reach = f"{after:.4f}"
    if released_in_clear((event,)):
        reach = "infinity, as it is a release in clear,"
    elif math.isinf(after):
        reach = "infinity"
    raise BudgetExceededError(
        f"this charge would bring epsilon to {reach} at delta {budget.delta:g}; the budget is "
        f"{budget.epsilon:g}, {already:.4f} is spent and {max(0.0, budget.epsilon - already):.4f} "
        "left: stop here, or found a new federation with more noise or fewer rounds"
    )


def forecast(events: Iterable[Event], event: Event, budget: Budget) -> int:
    """How often ``event`` still fits into the budget after ``events``; at most a million."""
    before = tuple(events)
    if released_in_clear((*before, event)):
        return 0
    base, one = group(before), group([event])

    def fits(times: int) -> bool:
        return times == 0 or _fits(_combine(base, one, times), budget)

    low, high = 0, 1
    while high <= MAX_FORECAST and fits(high):
        low, high = high, 2 * high
    high = min(high, MAX_FORECAST + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _combine(base: Sequence[Group], more: Sequence[Group], times: int) -> tuple[Group, ...]:
    counts = dict(base)
    for mechanism, count in more:
        counts[mechanism] = counts.get(mechanism, 0) + count * times
    return tuple(sorted(counts.items(), key=lambda item: repr(item[0])))


def _fits(groups: tuple[Group, ...], budget: Budget) -> bool:
    if groups_rdp(groups, budget.delta, DEFAULT_ORDERS).epsilon <= budget.epsilon:
        return True
    return budget.accountant == "pld" and _epsilon(groups, budget) <= budget.epsilon


def _epsilon(groups: tuple[Group, ...], budget: Budget) -> float:
    renyi = groups_rdp(groups, budget.delta, DEFAULT_ORDERS).epsilon
    exact = groups_pld(groups, budget.delta, PLD_INTERVAL) if budget.accountant == "pld" else None
    return renyi if exact is None else min(renyi, exact)
