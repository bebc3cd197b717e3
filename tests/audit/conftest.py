"""Fixtures: one valid synthetic federation for the whole session."""

from __future__ import annotations

import pytest

from tests.audit.synthetic import Federation, play_federation


@pytest.fixture(scope="session")
def federation() -> Federation:
    """Five clients, three rounds: a full one, an aborted one, one with a dropout; concluded."""
    return play_federation()


@pytest.fixture(scope="session")
def bundle(federation: Federation) -> dict[str, bytes]:
    """The files of that federation's bundle; treat as read-only."""
    return federation.files()
