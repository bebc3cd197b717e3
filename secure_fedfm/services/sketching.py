"""The sketches of a federation, where its charter names a robust rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fedfm_crypto.random_source import system_random
from fedfm_protocols.federation import Federation
from secure_fedfm.robust.rule import Verdict

if TYPE_CHECKING:
    from secure_fedfm.robust.encrypted_sketches import EncryptedSketches


def sketching_for(
    federation: Federation, told: Callable[[int, Verdict], None] | None = None
) -> EncryptedSketches | None:
    """What the state machines sketch and judge with; None in a federation without a rule.

    Loading numba and TenSEAL takes a second or two, which other sites are spared.

    Parameters
    ----------
    told
        Given (round, the rule's verdict with its figures), at a validator only.

    Raises
    ------
    ConfigurationError
        if the charter's rule cannot work there.
    """
    if not federation.robust:
        return None
    from secure_fedfm.robust.encrypted_sketches import EncryptedSketches  # noqa: PLC0415

    return EncryptedSketches(federation.charter, system_random, told)
