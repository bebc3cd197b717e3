"""A federation for measurements: real keys, a valid charter, no network."""

from __future__ import annotations

from dataclasses import dataclass

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.note import NoteAlgorithm, format_vkey
from fedfm_crypto.random_source import RandomSource
from fedfm_protocols.charter import Suite, make_charter
from fedfm_protocols.federation import Federation

CLIP = 1.0
SCALE = 1 << 16


@dataclass(frozen=True, slots=True)
class BenchmarkFederation:
    """A federation with everybody's identity keys."""

    federation: Federation
    coordinator: IdentityKey
    clients: dict[str, IdentityKey]


def make_federation(
    *,
    suite: Suite,
    clients: int,
    dropouts: int,
    values: int,
    lane_bits: int,
    random: RandomSource,
    colluding: int = 1,
) -> BenchmarkFederation:
    """A federation of ``clients`` clients, of whom ``colluding`` may collude and ``dropouts``
    vanish.

    Raises
    ------
    CharterError
        if the numbers leave no valid round, for example too many dropouts.
    """
    coordinator = IdentityKey.generate(random)
    log = IdentityKey.generate(random)
    keys = {f"client-{i + 1:04d}": IdentityKey.generate(random) for i in range(clients)}
    nothing = "00" * 32
    charter = make_charter(
        {
            "version": 1,
            "federation": "benchmark",
            "coordinator": {
                "name": "coordinator",
                "identity": coordinator.public.hex,
                "transport": AgreementKey.generate(random).public.hex(),
            },
            "roster": [
                {
                    "name": name,
                    "identity": key.public.hex,
                    "transport": AgreementKey.generate(random).public.hex(),
                    "enrolment": nothing,
                }
                for name, key in keys.items()
            ],
            "founders": {"names": list(keys), "quorum": 1},
            "log": {
                "origin": "benchmark/log",
                "key": format_vkey("benchmark/log", log.public, NoteAlgorithm.ED25519),
            },
            "model": {"name": "none", "sha256": nothing},
            "task": {"kind": "classification", "labels": ["a", "b"]},
            "adapter": {},
            "training": {},
            "server_optimiser": {},
            "rounds": 1,
            "suite": suite,
            "limits": {"colluding": colluding, "dropouts": dropouts},
            "quantiser": {
                "values": values,
                "clip": CLIP,
                "scale": SCALE,
                "lane_bits": lane_bits,
            },
            "privacy": {"mode": "none"},
            "initial_adapter": nothing,
        }
    )
    return BenchmarkFederation(Federation.of(charter), coordinator, keys)
