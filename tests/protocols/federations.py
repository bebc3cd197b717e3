"""Small federations with seeded keys and updates, for protocol tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.scenario.federations import (
    Keys,
    charter_fields,
    make_federation,
    make_keys,
)
from fedfm_protocols.simulation import Intercept, Simulation, deliver

__all__ = [
    "Keys",
    "charter_fields",
    "make_federation",
    "make_keys",
    "make_simulation",
    "seeded_update",
]


def seeded_update(name: str, number: int, values: int = 50) -> NDArray[np.float64]:
    """A client's update for a round: uniform in [-1, 1], the same for the same name and round."""
    seed = np.random.SeedSequence([number, *name.encode()])
    return np.random.default_rng(seed).uniform(-1, 1, values)


def make_simulation(
    clients: int = 5, *, intercept: Intercept = deliver, seed: int = 1, **changes: Any
) -> Simulation:
    """A simulation of ``clients`` clients with seeded keys, updates and randomness."""
    keys = make_keys(clients, seed)
    federation = make_federation(keys, **changes)
    values = federation.charter.quantiser.values
    return Simulation(
        federation,
        keys.clients,
        keys.coordinator,
        SeededRandom(b"simulation" + seed.to_bytes(4, "big")),
        lambda name, number, _: seeded_update(name, number, values),
        intercept,
    )
