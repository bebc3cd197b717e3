"""The bracket that decides between two accountants holds what is known exactly, and is narrow."""

from __future__ import annotations

import pytest

from fedfm_audit.privacy.accountant import spent
from tests.audit.privacy_oracle import bracket, gaussian


def test_the_closed_form_lies_in_the_bracket() -> None:
    low, high = bracket([gaussian(1.0, 1.0, 1)], 1e-5)
    assert low <= 4.377178 <= high
    assert high - low < 2e-4


def test_the_bracket_notices_an_epsilon_that_is_too_small() -> None:
    events = [gaussian(0.7, 0.01, 120)]
    low, high = bracket(events, 1e-5)
    found = spent(events, 1e-5).pld
    assert found is not None
    assert found == pytest.approx(2.4612381, abs=1e-4)
    assert low <= found <= high + 1e-6
    assert high - low < 0.02
    too_small = spent([gaussian(0.72, 0.01, 120)], 1e-5).pld
    assert too_small is not None
    assert too_small < low
