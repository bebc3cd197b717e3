"""Marks before round 1: how large they may be, whose they are, and the charter's section."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedfm_audit.mark_predicates import MarkPredicate
from fedfm_audit.watermark.capacity import (
    LARGEST_CHANGE,
    SIZING_STRENGTH,
    WEAKEST_STRENGTH,
    choose_strength,
    relative_change,
    values_of,
)
from fedfm_audit.watermark.claim import TargetModule
from fedfm_crypto.identity import IdentityPublicKey
from fedfm_protocols.enrolment import Enrolment
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.watermark.owned import read_leaf

TOGETHER, PRIVATE_TOGETHER = 0.35, 0.2
"""Relative change that all planned marks make together at most; where training adds noise."""
LARGEST_TOGETHER = 0.4
"""Relative change that the marks which a charter names may make together: seven of those that
`watermark claim` makes by default."""
DEFAULT_NORM_BOUND = 4.0
"""Single marks on a real adapter have norm 1.2 to 1.8, one that carries triggers 2.5, where the
largest change binds; room for adapters whose A is shorter (docs/benchmarks.md, "What marks cost").
"""
DEFAULT_LARGEST_CHANGE = 0.4
"""Of the adapter, by one mark in a charter: room for triggers beside the consortium's strongest
mark; no claim by itself is that large (docs/benchmarks.md, "The consortium's black-box mark")."""
_OWN_SIZES = (512, 384, 256, 192, 128)
_CONSORTIUM_SIZES = (1024, 768, 512, 384, 256, 192, 128)

MarksOffer = Callable[[tuple[TargetModule, ...]], Sequence[bytes]]
"""Given the layers that the adapter will train, the leaves that commit to marks in them."""


@dataclass(frozen=True, slots=True)
class MarkPlan:
    """Directions of the consortium's mark and of each client's own (0: that one does not fit), the
    strength of all, and the predicted relative change of all together."""

    consortium: int
    own: int
    strength: float
    change: float
    capacity: int


def plan_marks(modules: Sequence[TargetModule], clients: int, *, private: bool = False) -> MarkPlan:
    """The largest marks that an adapter carries: the consortium's and one of every client, else the
    consortium's alone, else none; as strong as the change that is left allows.

    An adapter that was trained with noise (``private``) has less to spare: smaller marks together,
    and more directions rather than strength.
    """
    together = PRIVATE_TOGETHER if private else TOGETHER
    sizing = WEAKEST_STRENGTH if private else SIZING_STRENGTH
    capacity = values_of(modules)
    if not capacity:
        return MarkPlan(0, 0, 0.0, 0.0, 0)
    pairs = [(2 * own, own) for own in _OWN_SIZES] + [(size, 0) for size in _CONSORTIUM_SIZES]
    for consortium, own in pairs:
        bounds = ((consortium + own * clients, together), (consortium, LARGEST_CHANGE))
        if all(relative_change(n, capacity, sizing) <= most for n, most in bounds):
            strength = min(choose_strength(modules, n, most) for n, most in bounds)
            change = relative_change(bounds[0][0], capacity, strength)
            return MarkPlan(consortium, own, strength, change, capacity)
    return MarkPlan(0, 0, 0.0, 0.0, capacity)


def watermark_section(
    leaves: Sequence[bytes],
    *,
    federation: str,
    base_model: str,
    clients: Sequence[Enrolment],
    modules: Sequence[TargetModule],
    norm_bound: float,
    scale: int,
    largest_change: float = DEFAULT_LARGEST_CHANGE,
) -> dict[str, Any]:
    """The charter's section for the marks that these leaves commit to.

    Raises:
        ConfigurationError: a leaf is not a client's, is of another federation, base model or
            adapter, or the marks change the adapter too much together.
    """
    by_name = {client.name: client for client in clients}
    identities = [IdentityPublicKey(bytes.fromhex(client.identity)) for client in clients]
    owners, total = [], 0.0
    for number, leaf in enumerate(leaves, 1):
        said = read_leaf(leaf, identities, f"mark {number}")
        _check(said, by_name, federation, base_model, modules)
        claim = said.committed.claim
        rho = relative_change(claim.embedded_directions, claim.capacity, claim.strength)
        allowed = min(largest_change, LARGEST_CHANGE)
        if rho > allowed:
            raise ConfigurationError(
                f"the {said.mark} mark of {said.client} would change the adapter by {rho:.3f} of "
                f"its norm, at most {allowed} is allowed; claim a smaller one"
            )
        total = math.hypot(total, rho)
        owners.append(
            {
                "client": said.client,
                "mark": said.mark,
                "commitment": hashlib.sha256(leaf).hexdigest(),
            }
        )
    if total > LARGEST_TOGETHER:
        each = math.floor(100 * LARGEST_TOGETHER / math.sqrt(len(leaves))) / 100
        raise ConfigurationError(
            f"all marks together would change the adapter by {total:.3f} of its norm, at most "
            f"{LARGEST_TOGETHER} is allowed; claim smaller ones (`watermark claim --max-change "
            f"{each:g}`), or train more modules"
        )
    return {
        "owners": sorted(owners, key=lambda one: (one["client"], one["mark"])),
        "norm_bound": norm_bound,
        "largest_change": largest_change,
        "clip": norm_bound,
        "scale": scale,
    }


def _check(
    said: MarkPredicate,
    clients: dict[str, Enrolment],
    federation: str,
    base_model: str,
    modules: Sequence[TargetModule],
) -> None:
    claim = said.committed.claim
    shapes = {(one.name, one.rows, one.columns, one.rank) for one in modules}
    claimed = {(one.name, one.rows, one.columns, one.rank) for one in claim.modules}
    owner = clients.get(said.client)
    wrong = {
        "is not an enrolled client's": owner is None or owner.identity != claim.identity.hex,
        "is of another federation": {claim.federation, said.federation} != {federation},
        "is of another base model": claim.base_model != base_model,
        "is a fingerprint": claim.purpose != "ownership",
        "is of modules that the adapter does not train in that shape": not claimed <= shapes,
    }
    for what in (text for text, bad in wrong.items() if bad):
        raise ConfigurationError(
            f"the {said.mark} mark of {said.client} {what}; claim it anew for this charter"
        )
