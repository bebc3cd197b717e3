"""Mode `shared-noise` in the ledger: what its steps cost, how noise is found, who may collude."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from fedfm_audit.errors import (
    BudgetExceededError,
    CharterViewError,
    PrivacyEventError,
    PrivacyLedgerError,
    PrivacySettingError,
)
from fedfm_audit.privacy.accountant import spent
from fedfm_audit.privacy.budget import Budget, forecast
from fedfm_audit.privacy.entries import Adversary
from fedfm_audit.privacy.events import (
    AbortedRound,
    CompletedRound,
    CompletedSession,
    DiscreteGaussianSteps,
    GaussianSteps,
    SkellamSteps,
)
from fedfm_audit.privacy.ledger import InstitutionLedger, MemoryStore
from fedfm_audit.privacy.shared_noise import SharedNoise, if_more_collude, with_one_share
from fedfm_audit.privacy.terms import PrivacyTerms, read_terms
from fedfm_audit.thresholds import Thresholds
from tests.audit.privacy_ledgers import HASH, KEY, terms

HEAD = SharedNoise(
    mechanism="discrete-gaussian",
    clip=1.0,
    scale=1 << 16,
    dimension=29_645,
    honest_shares=3,
    sampling_rate=0.1,
    steps=50,
)
SECTION: dict[str, Any] = {
    "mode": "shared-noise",
    "epsilon": 8.0,
    "delta": 1e-5,
    "noise_multiplier": 1.05,
    "sampling_rate": 0.1,
    "steps_per_round": 50,
    "clip": 1.0,
    "mechanism": "discrete-gaussian",
    "honest_shares": 3,
    "batch": 1000.0,
}


def charter_terms(**changes: Any) -> PrivacyTerms:
    found = read_terms({**SECTION, **changes}, Thresholds(5, 1, 1), 29_645, 1 << 16)
    assert found is not None
    return found


@pytest.mark.parametrize(("sigma", "epsilon"), [(1.044, 8.0), (1.952, 3.0), (4.754, 1.0)])
def test_three_sessions_of_fifty_steps_cost_what_the_reference_says(
    sigma: float, epsilon: float
) -> None:
    """Poisson q = .1, 150 steps, delta 1e-5, PLD of the continuous Gaussian (7.94 at 1.044); the
    sum on the grid has a sensitivity larger by sqrt(d) / (s C), a quarter of a percent here."""
    continuous = GaussianSteps(noise_multiplier=sigma, clip=1.0, sampling_rate=0.1, steps=150)
    reference = spent([continuous], 1e-5).epsilon
    assert reference == pytest.approx(epsilon, rel=8e-3)
    found = spent([HEAD.event(sigma)] * 3, 1e-5)
    assert found.pld is not None
    assert reference <= found.pld < 1.008 * reference
    assert found.rdp.epsilon > found.pld


def test_skellam_has_a_renyi_bound_alone() -> None:
    cost = spent([replace(HEAD, mechanism="skellam").event(1.952)] * 3, 1e-5)
    assert cost.pld is None
    gaussian = spent([HEAD.event(1.952)] * 3, 1e-5)
    assert gaussian.rdp.epsilon <= cost.epsilon < 1.02 * gaussian.rdp.epsilon


def test_the_event_says_what_the_clients_do() -> None:
    event = HEAD.event(1.044)
    assert isinstance(event, DiscreteGaussianSteps)
    assert event.noise_multiplier == pytest.approx(1.044, rel=1e-12)
    assert event.noise_multiplier >= 1.044 * (1 - 1e-15)
    assert math.sqrt(event.share_variance) == pytest.approx(1.044 * (1 << 16) / math.sqrt(3))
    reach = (1 << 16) + math.sqrt(29_645)
    assert event.sensitivity_squared == math.floor(reach**2)
    assert (event.rounding, event.honest_shares, event.steps) == ("sum", 3, 50)
    assert 0 < event.distance < 2.0**-90
    assert isinstance(replace(HEAD, mechanism="skellam").event(1.0), SkellamSteps)


@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
def test_the_noise_found_is_enough_and_hardly_more(mechanism: Any) -> None:
    noise = replace(HEAD, mechanism=mechanism)
    found = noise.noise_multiplier(1.0, 1e-5, sessions=3)
    assert spent([noise.event(found)] * 3, 1e-5).epsilon <= 1.0
    assert spent([noise.event(0.99 * found)] * 3, 1e-5).epsilon > 1.0
    assert found > 4.7  # what the continuous Gaussian needs, by PLD


def test_what_cannot_be_reached_is_refused() -> None:
    with pytest.raises(PrivacySettingError, match="finer grid"):
        replace(HEAD, steps=1024).noise_multiplier(1e-7, 1e-9, sessions=1000)
    with pytest.raises(PrivacyEventError):
        replace(HEAD, scale=8).event(0.5)


def test_what_epsilon_becomes_when_more_collude() -> None:
    events = [HEAD.event(1.044)] * 3
    rows = if_more_collude(events, 1, 1e-5, pld=False)
    assert [row.colluding for row in rows] == [1, 2, 3, 4]
    assert rows[0].epsilon == spent(events, 1e-5, pld=False).epsilon
    assert rows[0].epsilon < rows[1].epsilon < rows[2].epsilon < rows[3].epsilon == math.inf
    # Two of three shares left: the multiplier shrinks by sqrt(2/3).
    less = replace(events[0], honest_shares=2)
    assert less.noise_multiplier == pytest.approx(1.044 * math.sqrt(2 / 3))
    assert rows[1].epsilon == spent([less] * 3, 1e-5, pld=False).epsilon
    assert with_one_share(events, 1e-5, pld=False) == rows[2].epsilon
    own = GaussianSteps(noise_multiplier=2.0, clip=1.0, sampling_rate=0.1, steps=10)
    assert (
        len(if_more_collude([own], 4, 1e-5, pld=False)) == 1
    )  # nothing is shared, nothing is lost


@pytest.mark.parametrize(("honest", "coalition"), [(3, 1), (4, 0)])
def test_the_adversary_is_the_coalition_that_the_noise_is_made_for(
    honest: int, coalition: int
) -> None:
    found = charter_terms(honest_shares=honest)
    assert found.unit == "example"
    assert found.adversary == Adversary("sum-observers", coalition)
    event = found.planned_event()
    assert isinstance(event, DiscreteGaussianSteps)
    assert (event.honest_shares, event.steps, event.dimension) == (honest, 50, 29_645)


@pytest.mark.parametrize("honest", [2, 5])
def test_a_charter_with_other_shares_is_not_read(honest: int) -> None:
    with pytest.raises(CharterViewError, match="the limits leave 3 to 4"):
        charter_terms(honest_shares=honest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share_variance": 1e9}, "noise multiplier"),
        ({"honest_shares": 4}, "counts on 4 honest shares"),
        ({"sampling_rate": 0.05}, "sampling rate"),
        ({"steps": 49}, "number of steps"),
        ({"clip": 0.5}, "clip"),
        ({"dimension": 1000}, "coordinates"),
        ({"rounding": "vector"}, "rounded by vector"),
        ({"scale": 1 << 15}, "grid of 32768 steps"),
    ],
)
def test_a_charge_otherwise_than_the_charter_is_named(change: Any, message: str) -> None:
    agreed = charter_terms()
    event = agreed.planned_event()
    ledger = institution(Budget(8.0, 1e-5), agreed)
    ledger.reserve(1, event)
    assert agreed.problems(ledger.state.entries[0]) == []
    changed = replace(ledger.state.entries[0], event=replace(event, **change))
    assert any(message in problem for problem in agreed.problems(changed))
    skellam = SharedNoise(**{**_fields(HEAD), "mechanism": "skellam"}).event(1.05)
    assert any(
        "skellam noise" in problem
        for problem in agreed.problems(replace(ledger.state.entries[0], event=skellam))
    )


def _fields(noise: SharedNoise) -> dict[str, Any]:
    return {name: getattr(noise, name) for name in noise.__slots__}


def institution(
    budget: Budget, agreed: PrivacyTerms, store: MemoryStore | None = None
) -> InstitutionLedger:
    own = terms(unit=agreed.unit, adversary=agreed.adversary, budget=budget)
    return InstitutionLedger(own, KEY, MemoryStore() if store is None else store)


def test_a_session_is_charged_whole_and_settled_by_its_steps() -> None:
    agreed = charter_terms()
    event = agreed.planned_event()
    budget = Budget(9.0, 1e-5)
    assert forecast([], event, budget) == 3
    ledger = institution(budget, agreed)
    for number in (1, 2):
        ledger.reserve(number, event)
    before = ledger.state.spent(pld=False).epsilon
    # Five of fifty steps gave a result: nothing is given back, whatever is said.
    ledger.settle(CompletedSession(charge=0, steps=5, accepted=4, aggregate=HASH))
    ledger.settle(AbortedRound(charge=1, reason="the round gave no result"))
    assert ledger.state.spent(pld=False).epsilon == before
    assert forecast(ledger.state.events, event, budget) == 1
    with pytest.raises(PrivacyLedgerError, match="not open"):
        ledger.settle(CompletedSession(charge=0, steps=50, accepted=4, aggregate=HASH))
    ledger.reserve(3, event)
    with pytest.raises(BudgetExceededError):
        ledger.reserve(4, event)


@pytest.mark.parametrize("settled", [False, True])
def test_a_crash_at_any_step_leaves_the_whole_session_charged(settled: bool) -> None:
    agreed = charter_terms()
    event = agreed.planned_event()
    store = MemoryStore()
    budget = Budget(9.0, 1e-5)
    ledger = institution(budget, agreed, store)
    ledger.reserve(1, event)
    if settled:
        ledger.settle(CompletedSession(charge=0, steps=12, accepted=5, aggregate=HASH))
    again = institution(budget, agreed, store)  # all memory is gone
    assert again.state == ledger.state
    assert len(again.state.open_charges) == (0 if settled else 1)
    assert again.state.spent(pld=False).epsilon == spent([event], 1e-5, pld=False).epsilon
    assert again.state.rounds_left(event) == 2


def test_settlements_of_rounds_and_sessions_are_checked() -> None:
    with pytest.raises(PrivacyEventError, match="steps"):
        CompletedSession(charge=0, steps=0, accepted=4, aggregate=HASH)
    with pytest.raises(PrivacyEventError, match="hex"):
        CompletedSession(charge=0, steps=1, accepted=4, aggregate="zz")
    with pytest.raises(PrivacyEventError, match="hex"):
        CompletedRound(charge=0, accepted=4, aggregate="ab")
