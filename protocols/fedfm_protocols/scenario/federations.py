"""Federations with seeded keys, for scenarios, tests and benchmarks: never for a deployment.

Whoever knows the seed knows every key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.note import NoteAlgorithm, format_vkey
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.charter import make_charter
from fedfm_protocols.federation import Federation

COORDINATOR = "coordinator"
VALIDATOR = "validator"
LOG_ORIGIN = "test/log"
LEAST_ROBUST_VALUES = 16 * 4096
"""Fewest values of an update that may be sketched."""


@dataclass(frozen=True)
class Keys:
    """Seeded identity keys of everyone, the log's and those of an outsider included; the
    validator's is used in robust federations."""

    coordinator: IdentityKey = field(repr=False)
    log: IdentityKey = field(repr=False)
    clients: dict[str, IdentityKey] = field(repr=False)
    validator: IdentityKey = field(repr=False)


def client_names(clients: int) -> tuple[str, ...]:
    """``client-01``, ``client-02``, ...: sorted as text, as rosters are."""
    return tuple(sorted(f"client-{number:02d}" for number in range(1, clients + 1)))


def make_keys(clients: int, seed: int = 1) -> Keys:
    """Keys of a coordinator, a log, ``clients`` clients and a validator, the same for the same
    seed."""
    random = SeededRandom(seed.to_bytes(4, "big"))
    return Keys(
        IdentityKey.generate(random),
        IdentityKey.generate(random),
        {name: IdentityKey.generate(random) for name in client_names(clients)},
        IdentityKey.generate(random),
    )


def _transport(name: str) -> str:
    """A canonical X25519 public value that nobody holds the private half of."""
    return (hashlib.sha256(b"transport " + name.encode()).digest()[:31] + b"\x01").hex()


def charter_fields(keys: Keys, **changes: Any) -> dict[str, Any]:
    """JSON fields of a charter for these keys; ``changes`` replace top-level fields."""
    names = sorted(keys.clients)
    fields: dict[str, Any] = {
        "version": 1,
        "federation": "test",
        "coordinator": {
            "name": COORDINATOR,
            "identity": keys.coordinator.public.hex,
            "transport": _transport(COORDINATOR),
        },
        "roster": [
            {
                "name": name,
                "identity": keys.clients[name].public.hex,
                "transport": _transport(name),
                "enrolment": "00" * 32,
            }
            for name in names
        ],
        "founders": {"names": names[:3], "quorum": 2},
        "log": {
            "origin": LOG_ORIGIN,
            "key": format_vkey(LOG_ORIGIN, keys.log.public, NoteAlgorithm.ED25519),
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


def robust_fields(keys: Keys, **changes: Any) -> dict[str, Any]:
    """The fields that make a federation robust; ``changes`` replace fields of ``robustness``."""
    robustness: dict[str, Any] = {
        "rule": "norm-bound",
        "parameters": {"factor": 1.2},
        "norm_bound": 1024.0,
        "key_rounds": 1000,
        "groups": [],
    }
    return {
        "validator": {
            "name": VALIDATOR,
            "identity": keys.validator.public.hex,
            "transport": _transport(VALIDATOR),
            "enrolment": "00" * 32,
        },
        "robustness": {**robustness, **changes},
        "quantiser": {"values": LEAST_ROBUST_VALUES, "clip": 1.0, "scale": 65536, "lane_bits": 32},
    }


def watermark_section(
    owners: Sequence[str], *, norm_bound: float = 1.0, clip: float = 1.0, scale: int = 65536
) -> dict[str, Any]:
    """A section ``watermark``: each of ``owners`` has a mark, and the first keeps the consortium's
    as well."""
    marks = [(name, "own") for name in owners] + [(owners[0], "consortium")]
    return {
        "owners": [
            {
                "client": name,
                "mark": mark,
                "commitment": hashlib.sha256(f"{name} {mark}".encode()).hexdigest(),
            }
            for name, mark in sorted(marks)
        ],
        "norm_bound": norm_bound,
        "largest_change": 0.1,
        "clip": clip,
        "scale": scale,
    }


def make_federation(keys: Keys, **changes: Any) -> Federation:
    """A federation under a charter for these keys.

    Raises
    ------
    CharterError
        where the changes leave no valid charter.
    """
    return Federation.of(make_charter(charter_fields(keys, **changes)))


def identity_of(keys: Keys, name: str) -> IdentityKey | None:
    """The identity key of any party by name, ``log`` included; ``None`` for others."""
    others: Mapping[str, IdentityKey] = {
        COORDINATOR: keys.coordinator,
        "log": keys.log,
        VALIDATOR: keys.validator,
    }
    return others.get(name) or keys.clients.get(name)
