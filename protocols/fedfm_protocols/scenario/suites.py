"""The encryption that a scenario's suite needs: looked for only when a scenario asks for it.

A base install plays every scenario of the suites ``masked`` and ``clear``; those that encrypt
need numba and TenSEAL.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.encryption import Encryption
from fedfm_protocols.errors import ScenarioError
from fedfm_protocols.federation import Federation
from fedfm_protocols.scenario.open_sketches import OpenSketches

ENCRYPTED = ("sealed", "layered")
OPTIONAL = ("numba", "tenseal")


def encryption_for(suite: str) -> Encryption | None:
    """What carries out a suite's encryption; ``None`` for a suite without.

    Raises
    ------
    ScenarioError
        if the suite encrypts and this installation cannot.
    """
    if suite not in ENCRYPTED:
        return None
    missing = missing_for(suite)
    if missing:
        raise ScenarioError(missing)
    encryption: Encryption = import_module("fedfm_protocols.lattice_encryption").LatticeEncryption()
    return encryption


def sketches_for(federation: Federation, seed: bytes) -> OpenSketches | None:
    """Open sketches for a robust federation; ``None`` for another."""
    return OpenSketches.of(federation, SeededRandom(seed)) if federation.robust else None


def missing_for(suite: str) -> str:
    """Why this installation cannot play a scenario of ``suite``; empty if it can."""
    if suite not in ENCRYPTED or not _missing():
        return ""
    return f"suite {suite} encrypts updates, and {_missing()}"


@cache
def _missing() -> str:
    try:
        import_module("fedfm_protocols.lattice_encryption")
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in OPTIONAL:
            raise
        return f"{name} is not installed; install the federation extra, secure-fedfm[federation]"
    return ""
