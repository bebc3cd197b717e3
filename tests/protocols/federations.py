"""Small federations with seeded keys, for protocol tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.note import NoteAlgorithm, format_vkey
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.charter import Charter, make_charter
from fedfm_protocols.federation import Federation
from fedfm_protocols.simulation import Intercept, Simulation, deliver


@dataclass(frozen=True)
class Keys:
    """Seeded identity keys of a test federation."""

    coordinator: IdentityKey
    log: IdentityKey
    clients: dict[str, IdentityKey]


def make_keys(clients: int, seed: int = 1) -> Keys:
    """Keys of a coordinator, a log and ``clients`` clients, the same for the same seed."""
    random = SeededRandom(seed.to_bytes(4, "big"))
    names = [f"client-{i + 1:02d}" for i in range(clients)]
    return Keys(
        IdentityKey.generate(random),
        IdentityKey.generate(random),
        {name: IdentityKey.generate(random) for name in names},
    )


def charter_fields(keys: Keys, **changes: Any) -> dict[str, Any]:
    """JSON fields of a charter for these keys; ``changes`` replace top-level fields."""
    names = sorted(keys.clients)
    fields: dict[str, Any] = {
        "version": 1,
        "federation": "test",
        "coordinator": {
            "name": "coordinator",
            "identity": keys.coordinator.public.hex,
            "transport": "01" * 32,
        },
        "roster": [
            {
                "name": name,
                "identity": keys.clients[name].public.hex,
                "transport": f"{i + 2:02x}" * 32,
                "enrolment": "00" * 32,
            }
            for i, name in enumerate(names)
        ],
        "founders": {"names": names[:3], "quorum": 2},
        "log": {
            "origin": "test/log",
            "key": format_vkey("test/log", keys.log.public, NoteAlgorithm.ED25519),
        },
        "model": {"name": "tiny", "sha256": "00" * 32},
        "task": {"kind": "classification", "labels": ["a", "b"]},
        "adapter": {"rank": 2},
        "training": {"epochs": 1},
        "server_optimiser": {"name": "fedavg"},
        "rounds": 3,
        "suite": "masked",
        "limits": {"colluding": 1, "dropouts": 1 if len(names) > 3 else 0},
        "quantiser": {"values": 50, "clip": 1.0, "scale": 65536, "lane_bits": 32},
        "privacy": {"mode": "none"},
        "initial_adapter": "11" * 32,
    }
    return {**fields, **changes}


def make_federation(keys: Keys, **changes: Any) -> Federation:
    """A federation under a test charter."""
    charter: Charter = make_charter(charter_fields(keys, **changes))
    return Federation.of(charter)


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
        lambda name, number: seeded_update(name, number, values),
        intercept,
    )
