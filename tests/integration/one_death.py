"""A federation in which one client is killed once, comes back, and all end."""

from __future__ import annotations

from typing import Any

from tests.integration.federation_processes import COORDINATOR, TestFederation
from tests.integration.forked_processes import Exited


def run_with_one_death(federation: TestFederation, victim: str, death: dict[str, Any]) -> None:
    """Run it to its end; ``death`` is where the victim dies (faults.py). Nobody else may."""
    deaths: list[str] = []

    def bury(ended: Exited) -> None:
        assert ended.party == victim, f"{ended}{federation.tail()}"
        deaths.append(ended.party)
        federation.start(victim)

    for party in (COORDINATOR, *federation.clients):
        federation.start(party, faults={"client_dies": [death]} if party == victim else None)
    federation.run_to_end(bury)
    assert deaths == [victim]
