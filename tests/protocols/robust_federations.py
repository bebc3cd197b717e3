"""Robust federations of a few clients, with open sketches: every number can be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.sketch import SLOTS
from fedfm_protocols.context import KEYS
from fedfm_protocols.federation import Federation
from fedfm_protocols.scenario.federations import (
    make_federation,
    make_keys,
    robust_fields,
)
from fedfm_protocols.scenario.open_sketches import OpenSketches
from fedfm_protocols.scenario.suites import encryption_for
from fedfm_protocols.simulation import Intercept, SimulatedValidator, deliver
from fedfm_protocols.sketching import Integers
from fedfm_protocols.validator_states import Ready
from tests.protocols.scripted import RecordingSimulation, integer_update

SCALE = 65536
OUTLIER = "client-03"
FEW = 60


@dataclass(frozen=True, slots=True)
class PaddedSketches(OpenSketches):
    """Of updates too short for a sketch: all their values, moved around by the beacon.  Exact and
    linear like the real thing, and quick."""

    def sketch(self, values: Integers, beacon: bytes) -> Integers:
        """The values among zeros."""
        padded = np.zeros(SLOTS, np.int64)
        padded[: values.size] = values
        return np.roll(padded, beacon[0])


def robust_update(
    name: str, number: int, outliers: Mapping[str, float], values: int = FEW
) -> NDArray[np.int64]:
    """Seeded integers of a client; an outlier's are all at the clip, times its factor."""
    drawn = integer_update(name, number, values=values)
    if name in outliers:
        return (np.sign(drawn) * int(SCALE * outliers[name])).astype(np.int64)
    return drawn


def robust_simulation(
    clients: int = 5,
    *,
    suite: str = "masked",
    outliers: Mapping[str, float] | None = None,
    intercept: Intercept = deliver,
    seed: int = 1,
    rule: Mapping[str, Any] | None = None,
    whole: bool = False,
    **changes: Any,
) -> RecordingSimulation:
    """A simulation whose validator removes ``outliers`` (name -> size, 1 is the clip); in a suite
    that encrypts the first key is made in round 1.  Updates have :data:`FEW` values, which a
    charter that is read would refuse, unless they are to be ``whole``."""
    keys = make_keys(clients, seed)
    federation = make_federation(
        keys, suite=suite, **{**robust_fields(keys, **(rule or {})), **changes}
    )
    random = SeededRandom(b"robust" + seed.to_bytes(4, "big"))
    sketching = OpenSketches.of(federation, random)
    if not whole:
        section = federation.charter.quantiser.model_copy(update={"values": FEW})
        federation = Federation.of(federation.charter.model_copy(update={"quantiser": section}))
        sketching = PaddedSketches(sketching.layout, sketching.factor, random)
    values = federation.charter.quantiser.values
    far = outliers or {}
    simulation = RecordingSimulation(
        federation,
        keys.clients,
        keys.coordinator,
        random,
        lambda name, number, _: robust_update(name, number, far, values) / np.float64(SCALE),
        encryption=encryption_for(suite),
        validator_key=keys.validator,
        sketching=sketching,
    )
    if federation.encrypted:
        assert simulation.run_round(1, kind=KEYS).key is not None
    simulation.intercept = intercept
    return simulation


def validator_of(simulation: RecordingSimulation) -> SimulatedValidator:
    """The validator, which a robust simulation has."""
    assert simulation.validator is not None
    return simulation.validator


def restart_validator(simulation: RecordingSimulation) -> None:
    """What a crash leaves of it: the durable memory."""
    validator = validator_of(simulation)
    validator.state = Ready(validator.state.memory)
