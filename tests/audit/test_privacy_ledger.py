"""Reserve, run, commit: budgets, crashes in any order, and ledgers that were tampered with."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from fedfm_audit.errors import (
    BudgetExceededError,
    PrivacyError,
    PrivacyLedgerError,
    SchemaError,
    StatementError,
)
from fedfm_audit.privacy.accountant import pld_epsilon, rdp_epsilon
from fedfm_audit.privacy.budget import MAX_FORECAST, Budget, forecast, spent_of, would_exceed
from fedfm_audit.privacy.entries import PrivacyPredicate, figure_value
from fedfm_audit.privacy.events import (
    AbortedRound,
    ClearRelease,
    CompletedRound,
    GaussianSteps,
    HyperparameterTrials,
)
from fedfm_audit.privacy.ledger import (
    InstitutionLedger,
    LedgerState,
    MemoryStore,
    extend,
    reserve,
    restore,
    settle,
)
from fedfm_audit.statements import Statement, open_leaf, privacy_statement, sign_statement
from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import SeededRandom
from tests.audit.privacy_ledgers import EVENT, HASH, KEY, leaf_digest, terms


def filled(rounds: int = 3) -> tuple[InstitutionLedger, MemoryStore]:
    """A ledger with ``rounds`` charges, all but the last settled."""
    store = MemoryStore()
    ledger = InstitutionLedger(terms(), KEY, store)
    for number in range(1, rounds + 1):
        ledger.reserve(number, EVENT)
        if number < rounds:
            charge = ledger.state.open_charges[0].sequence
            ledger.settle(CompletedRound(charge=charge, accepted=5, aggregate=HASH))
    return ledger, store


def entry_of(leaf: bytes) -> PrivacyPredicate:
    predicate = open_leaf(leaf, {KEY.public.hex: KEY.public}).statement.predicate
    assert isinstance(predicate, PrivacyPredicate)
    return predicate


# ---- the budget


def test_the_round_that_would_exceed_is_refused_with_what_is_left() -> None:
    ledger = InstitutionLedger(terms(), KEY, MemoryStore())
    fits = ledger.state.rounds_left(EVENT)
    assert fits == 5
    for number in range(1, fits + 1):
        assert ledger.state.rounds_left(EVENT) == fits + 1 - number
        ledger.reserve(number, EVENT)
    already = rdp_epsilon(ledger.state.events, 1e-5).epsilon
    with pytest.raises(BudgetExceededError) as refused:
        ledger.reserve(fits + 1, EVENT)
    assert f"{already:.4f} is spent and {2 - already:.4f} left" in str(refused.value)
    assert "the budget is 2" in str(refused.value)
    assert len(ledger.state.entries) == fits
    smaller = GaussianSteps(noise_multiplier=50, clip=1.0, sampling_rate=0.05, steps=1)
    ledger.reserve(fits + 1, smaller)


@given(
    noise=st.floats(0.5, 5),
    rate=st.sampled_from([0.01, 0.1, 1.0]),
    steps=st.integers(1, 20),
    epsilon=st.floats(0.2, 12),
)
@settings(max_examples=20, deadline=None)
def test_the_forecast_is_exact(noise: float, rate: float, steps: int, epsilon: float) -> None:
    event = GaussianSteps(noise_multiplier=noise, clip=1.0, sampling_rate=rate, steps=steps)
    budget = Budget(epsilon, 1e-5)
    left = forecast([EVENT], event, budget)
    if left < MAX_FORECAST and spent_of([EVENT], budget) <= epsilon:
        many = [HyperparameterTrials(trials=left, event=event)] if left else []
        assert spent_of([EVENT, *many], budget) <= epsilon
        assert would_exceed([EVENT, *many], event, budget)


def test_an_epsilon_calibrated_by_pld_needs_that_accountant() -> None:
    """Noise 1.044 gives 7.94 by PLD and 8.82 by RDP: a budget of 8 is enough by one of them."""
    event = GaussianSteps(noise_multiplier=1.044, clip=1.0, sampling_rate=0.1, steps=15)
    assert forecast([], event, Budget(8.0, 1e-5, "pld")) == 10
    assert forecast([], event, Budget(8.0, 1e-5, "rdp")) < 10
    ten = [HyperparameterTrials(trials=10, event=event)]
    assert pld_epsilon(ten, 1e-5) == pytest.approx(7.94, abs=5e-3)


def test_a_release_in_clear_fits_no_budget() -> None:
    ledger = InstitutionLedger(terms(), KEY, MemoryStore())
    with pytest.raises(BudgetExceededError, match="release in clear"):
        ledger.reserve(0, ClearRelease(what="rows per class"))
    assert forecast([ClearRelease(what="rows")], EVENT, Budget(3.0, 1e-5)) == 0


def test_little_noise_forecasts_nothing_and_much_noise_a_million() -> None:
    none = GaussianSteps(noise_multiplier=0.1, clip=1.0, sampling_rate=1.0, steps=10)
    much = GaussianSteps(noise_multiplier=1e6, clip=1.0, sampling_rate=1e-3, steps=1)
    assert forecast([], none, Budget(1.0, 1e-5)) == 0
    assert forecast([], much, Budget(1.0, 1e-5)) == MAX_FORECAST


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_impossible_budgets_are_refused(epsilon: float) -> None:
    with pytest.raises(PrivacyError, match="budget"):
        Budget(epsilon, 1e-5)
    with pytest.raises(PrivacyError, match="accountant"):
        Budget(1.0, 1e-5, "gdp")


# ---- entries


def test_an_entry_says_what_its_events_cost() -> None:
    ledger = InstitutionLedger(terms(pld=True), KEY, MemoryStore())
    entry = entry_of(ledger.reserve(1, EVENT))
    assert entry.cumulative.epsilon_rdp == rdp_epsilon([EVENT], 1e-5).epsilon
    assert entry.cumulative.epsilon_pld == pld_epsilon([EVENT], 1e-5)
    assert entry.cumulative.epsilon_pld is not None
    assert entry.budget.left == 2.0 - figure_value(entry.cumulative.epsilon_pld)
    assert entry.libraries.dp_accounting.startswith("0.6")
    assert (entry.sequence, entry.subject) == (0, "ledger/client-01/000000")


def test_an_aborted_round_stays_charged() -> None:
    ledger, _ = filled(1)
    before = ledger.state.spent(pld=False)
    ledger.settle(AbortedRound(charge=0, reason="too few clients"))
    assert ledger.state.spent(pld=False) == before
    assert ledger.state.open_charges == ()


def test_only_open_charges_are_settled_and_only_once() -> None:
    ledger, _ = filled(2)
    for charge in (0, 1, 7):  # settled; itself a settlement; not there
        with pytest.raises(PrivacyLedgerError, match="not open"):
            ledger.settle(CompletedRound(charge=charge, accepted=5, aggregate=HASH))
    with pytest.raises(PrivacyLedgerError, match="use settle"):
        reserve(ledger.state, round=1, event=AbortedRound(charge=2, reason="x"))  # type: ignore[arg-type]


def test_the_functions_leave_the_state_they_were_given() -> None:
    state = LedgerState(terms())
    entry = reserve(state, round=1, event=EVENT)
    assert state == LedgerState(terms())
    leaf = sign_statement(privacy_statement(entry), KEY)
    after = extend(state, entry, leaf)
    assert (state.entries, after.entries, after.head) == ((), (entry,), leaf_digest(leaf))
    done = settle(after, AbortedRound(charge=0, reason="crash"))
    assert (done.sequence, done.previous, done.round) == (1, after.head, 1)
    with pytest.raises(PrivacyLedgerError, match="does not follow"):
        extend(after, entry, leaf)


# ---- tampering with a stored ledger


def test_an_honest_store_is_restored() -> None:
    ledger, store = filled()
    assert restore(terms(), store.leaves(), KEY.public) == ledger.state


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (lambda kept: kept[1:], "no entry 0 before it"),
        (lambda kept: [kept[0], *kept[2:]], "no entry 1 before it"),
        (lambda kept: [kept[1], kept[0], *kept[2:]], "no entry 0 before it"),
        (lambda kept: [*kept, kept[-1]], "is entry 4 a second time"),
        (lambda kept: [kept[0].replace(b"a", b"b", 1), *kept[1:]], "ledger entry 0"),
    ],
    ids=["first removed", "one removed", "reordered", "duplicated", "altered"],
)
def test_tampered_stores_are_refused(tamper: object, reason: str) -> None:
    _, store = filled()
    assert callable(tamper)
    with pytest.raises(PrivacyLedgerError, match=reason):
        restore(terms(), tamper(list(store.kept)), KEY.public)


def test_another_institutions_ledger_is_refused() -> None:
    _, store = filled()
    with pytest.raises(PrivacyLedgerError, match="of client-01"):
        restore(terms(institution="client-02"), store.leaves(), KEY.public)
    other = IdentityKey.generate(SeededRandom(b"other"))
    with pytest.raises(PrivacyLedgerError, match="not the one"):
        InstitutionLedger(terms(), other, store)


def test_figures_are_recomputed_when_a_store_is_opened() -> None:
    ledger = InstitutionLedger(terms(), KEY, MemoryStore())
    entry = entry_of(ledger.reserve(1, EVENT))
    lower = replace(entry, cumulative=replace(entry.cumulative, epsilon_rdp=0.5))
    leaf = sign_statement(privacy_statement(lower), KEY)
    with pytest.raises(PrivacyLedgerError, match=r"understates epsilon by RDP: 0\.5"):
        restore(terms(), [leaf], KEY.public)


# ---- statements


def test_statements_are_strict() -> None:
    ledger = InstitutionLedger(terms(), KEY, MemoryStore())
    entry = entry_of(ledger.reserve(1, EVENT))
    payload = privacy_statement(entry).encode()
    assert Statement.decode(payload).predicate == entry
    document = canonical_decode(payload)
    assert isinstance(document, dict)

    def edited(**changes: object) -> bytes:
        predicate = {**document["predicate"], **changes}
        return canonical_encode({**document, "predicate": predicate})

    for wrong in (
        edited(unit="household"),
        edited(adjacency="replace-one"),
        edited(seed="00"),
        edited(event={"type": "laplace"}),
        edited(event={**document["predicate"]["event"], "type": "skellam"}),
        edited(event={**document["predicate"]["event"], "steps": 0}),
        edited(cumulative={**document["predicate"]["cumulative"], "epsilon_rdp": "inf"}),
    ):
        with pytest.raises(SchemaError):
            Statement.decode(wrong)
    with pytest.raises(StatementError, match="subject digest"):
        Statement.decode(edited(round=2))


# ---- crashes


class Crashes(RuleBasedStateMachine):
    """An institution that may crash anywhere: before and after an append, while it trains, before
    it settles.  Whatever ran had been charged, and the charges never exceed the budget."""

    @initialize(epsilon=st.floats(0.8, 4))
    def start(self, epsilon: float) -> None:
        self.terms = terms(budget=Budget(epsilon, 1e-5))
        self.store = MemoryStore()
        self.released: list[GaussianSteps] = []
        self.round = 0
        self.reopen()

    @rule()
    def reopen(self) -> None:
        """Everything in memory is gone; what was stored is there."""
        self.ledger = InstitutionLedger(self.terms, KEY, self.store)

    def charge(self, event: GaussianSteps) -> bool:
        self.round += 1
        try:
            self.ledger.reserve(self.round, event)
        except BudgetExceededError:
            assert would_exceed(self.ledger.state.events, event, self.terms.budget)
            return False
        return True

    @rule(steps=st.integers(1, 60), noise=st.sampled_from([0.8, 1.0, 3.0]))
    def run_a_round(self, steps: int, noise: float) -> None:
        event = GaussianSteps(noise_multiplier=noise, clip=1.0, sampling_rate=0.05, steps=steps)
        if self.charge(event):
            self.released.append(event)
            charge = self.ledger.state.open_charges[-1].sequence
            self.ledger.settle(CompletedRound(charge=charge, accepted=5, aggregate=HASH))

    @rule(steps=st.integers(1, 60))
    def crash_before_the_append(self, steps: int) -> None:
        """The entry was made, but never stored: nothing may have run."""
        event = GaussianSteps(noise_multiplier=1.0, clip=1.0, sampling_rate=0.05, steps=steps)
        if not would_exceed(self.ledger.state.events, event, self.terms.budget):
            reserve(self.ledger.state, round=self.round + 1, event=event)
        self.reopen()

    @rule(steps=st.integers(1, 60), sent=st.booleans())
    def crash_while_training(self, steps: int, sent: bool) -> None:
        event = GaussianSteps(noise_multiplier=1.0, clip=1.0, sampling_rate=0.05, steps=steps)
        if self.charge(event) and sent:
            self.released.append(event)
        self.reopen()

    @rule(steps=st.integers(1, 60))
    def crash_between_store_and_memory(self, steps: int) -> None:
        """The append was durable, its caller never heard of it."""
        event = GaussianSteps(noise_multiplier=1.0, clip=1.0, sampling_rate=0.05, steps=steps)
        stale = self.ledger.state
        if self.charge(event):
            self.ledger.state = stale
            with pytest.raises(PrivacyLedgerError):
                self.ledger.reserve(
                    self.round, GaussianSteps(
                        noise_multiplier=100.0, clip=1.0, sampling_rate=0.05, steps=1
                    )
                )  # fmt: skip
            self.reopen()

    @precondition(lambda self: bool(self.ledger.state.open_charges))
    @rule()
    def settle_late(self) -> None:
        charge = self.ledger.state.open_charges[0].sequence
        self.ledger.settle(AbortedRound(charge=charge, reason="crashed"))

    @invariant()
    def the_budget_holds(self) -> None:
        events = [entry_of(leaf).event for leaf in self.store.leaves()]
        assert rdp_epsilon(events, 1e-5).epsilon <= self.terms.budget.epsilon
        charged = [event for event in events if isinstance(event, GaussianSteps)]
        for event in set(self.released):
            assert self.released.count(event) <= charged.count(event)


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
