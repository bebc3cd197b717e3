"""Epsilon of 200 random event lists against prv-accountant: never below its lower bound."""

from __future__ import annotations

import pytest

from tests.audit.privacy_oracle import LISTS, check_list

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("start", range(0, LISTS, 20))
@pytest.mark.timeout(1800)
def test_never_below_the_oracle(start: int) -> None:
    for number in range(start, start + 20):
        check_list(number)
