"""The homomorphic encryption of a federation, where its suite has one."""

from __future__ import annotations

from fedfm_protocols.encryption import Encryption
from fedfm_protocols.federation import Federation


def encryption_for(federation: Federation) -> Encryption | None:
    """What the state machines encrypt, add and open with; None in the other suites.

    Compiling and loading take a second or two, which a site in another suite is spared.
    """
    if not federation.encrypted:
        return None
    from fedfm_protocols.lattice_encryption import LatticeEncryption  # noqa: PLC0415

    return LatticeEncryption()
