"""The coordinator's desk: a session's charge comes with its first upload hash, and only then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedfm_audit.privacy import accountant
from fedfm_protocols.errors import MalformedMessage
from secure_fedfm.services.charges import ChargeDesk
from secure_fedfm.services.privacy import RoundLedger, privacy_terms
from tests.secure_fedfm.services.test_shared_noise import charge, federation, ledger

CLIENT, OTHER = "client-01", "client-02"


@pytest.fixture
def charged(tmp_path: Path) -> Iterator[RoundLedger]:
    database, found = ledger(tmp_path)
    charge(found, 2)
    yield found
    database.close()


def desk() -> ChargeDesk:
    agreed = federation()
    return ChargeDesk(agreed, privacy_terms(agreed), ())


def test_later_steps_of_a_session_bring_no_charge_and_need_none(charged: RoundLedger) -> None:
    found = desk()
    found.check(CLIENT, 2, charged.unlogged())
    for step in (1, 49):
        found.check(CLIENT, 2, (), step=step)
        with pytest.raises(MalformedMessage, match=f"at step {step}"):
            found.check(CLIENT, 2, charged.unlogged(), step=step)


def test_the_first_step_without_the_charge_is_refused_however_often(charged: RoundLedger) -> None:
    """Also after a hash that brought it: that one may have been refused for another reason, and
    then nothing of it reaches the log."""
    found = desk()
    for _ in range(2):
        with pytest.raises(MalformedMessage, match="has not charged"):
            found.check(CLIENT, 2, ())
        found.check(CLIENT, 2, charged.unlogged())
    with pytest.raises(MalformedMessage, match="has not charged"):
        found.check(CLIENT, 3, charged.unlogged())
    with pytest.raises(MalformedMessage):
        found.check(OTHER, 2, charged.unlogged())


def test_what_was_foreseen_is_not_computed_again(charged: RoundLedger) -> None:
    found = desk()
    assert found.keeps
    found.foresee()
    known = accountant.groups_rdp.cache_info().misses, accountant.groups_pld.cache_info().misses
    found.check(CLIENT, 2, charged.unlogged())
    found.foresee()
    now = accountant.groups_rdp.cache_info().misses, accountant.groups_pld.cache_info().misses
    assert now == known


def test_after_a_session_the_next_one_is_foreseen_on_top_of_it(charged: RoundLedger) -> None:
    found = desk()
    leaves = charged.unlogged()
    found.enter(CLIENT, leaves)
    found.foresee()
    terms = privacy_terms(federation())
    assert terms is not None
    before = accountant.groups_rdp.cache_info().misses
    accountant.rdp_epsilon([terms.planned_event()] * 2, terms.delta)
    assert accountant.groups_rdp.cache_info().misses == before


def test_without_a_budget_nothing_is_kept() -> None:
    found = ChargeDesk(federation(), None, ())
    assert not found.keeps
    found.foresee()
    found.check(CLIENT, 2, ())
    with pytest.raises(MalformedMessage, match="no budget"):
        found.check(CLIENT, 2, (b"entry",))
