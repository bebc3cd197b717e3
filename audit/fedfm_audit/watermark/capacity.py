"""How large a mark an adapter carries: the change that embedding makes, before it is made.

For a host whose own responses are standard normal in units of the norm of the change, the mark of
N directions at strength kappa moves the adapter, relative to its own change B A, by about

    rho = sqrt(N / D_B * ((1 + kappa^2) Phi(kappa) + kappa phi(kappa)))

with D_B the number of values in all B (what embedding weights by rank changes up to a quarter more:
``secure_fedfm.watermark.embedding``). Source: design of this project (E[max(0, kappa - x)^2] for
standard normal x, spread over D_B orthogonal coordinates).

What somebody who knows no key can do is to move B at random. Noise of n times the norm of B A
leaves T = sqrt(N) m / sqrt(E + n^2) with m = kappa Phi(kappa) + phi(kappa), E = E[max(kappa, x)^2].
For large n that is sqrt(D_B) rho / n times m / sqrt((1 + kappa^2) Phi(kappa) + kappa phi(kappa)),
a factor of 0.68 at kappa 0.5, 0.78 at 1 and 0.90 at 2. So rho decides how much noise a mark stands,
and at the same rho few directions at a great kappa stand more of it than many at a small one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedfm_audit.watermark.claim import Claim, TargetModule
from fedfm_audit.watermark.errors import MarkCapacityError

DEFAULT_CHANGE = 0.15
"""rho of a claim by itself up to which no cost in accuracy was measured, with room for others."""
PRIVATE_CHANGE = 0.08
"""The same of an adapter that was trained with noise: it has less to spare, and paid for large
marks with half a point where others paid nothing (docs/benchmarks.md, "More clients, privacy")."""
LARGEST_CHANGE = 0.25
"""Beyond this no claim is made, whoever asks for it."""
DEFAULT_SIZE = 1024
LARGEST_STRENGTH = 4.0
"""Of any claim."""
WEAKEST_STRENGTH, SIZING_STRENGTH, DEFAULT_STRENGTH = 0.5, 1.0, 2.0
"""Sizes are chosen so that the second fits (the first, where an adapter is too small for that);
what is left of the allowed change goes into strength, up to the third."""
_STEP = 64
_SMALLEST = 128


def relative_change(directions: int, capacity: int, strength: float) -> float:
    """Predicted rho for ``directions`` in ``capacity`` values of B at this strength."""
    cumulative = 0.5 * (1 + math.erf(strength / math.sqrt(2)))
    density = math.exp(-(strength**2) / 2) / math.sqrt(2 * math.pi)
    second_moment = (1 + strength**2) * cumulative + strength * density
    return math.sqrt(directions / capacity * second_moment)


def largest_size(capacity: int, strength: float, copies: int, limit: float) -> int:
    """The largest N, a multiple of 64, with rho <= ``limit`` when ``copies`` sub-keys are embedded
    in one adapter; 0 if there is none."""
    per_direction = relative_change(copies, capacity, strength) ** 2
    return int(limit**2 / per_direction) // _STEP * _STEP


def values_of(modules: Sequence[TargetModule]) -> int:
    """D_B: how many values all B of these modules have."""
    return sum(module.rows * module.rank for module in modules)


def choose_strength(modules: Sequence[TargetModule], directions: int, limit: float) -> float:
    """kappa for a new claim that embeds so many directions: the largest multiple of 0.1 that keeps
    rho <= ``limit``, up to DEFAULT_STRENGTH; where none from WEAKEST_STRENGTH on does, that one."""
    capacity = values_of(modules)
    tried = (k / 10 for k in range(round(DEFAULT_STRENGTH * 10), round(WEAKEST_STRENGTH * 10), -1))
    fits = (kappa for kappa in tried if relative_change(directions, capacity, kappa) <= limit)
    return next(fits, WEAKEST_STRENGTH)


def choose_size(
    modules: Sequence[TargetModule],
    strength: float | None,
    copies: int,
    limit: float = DEFAULT_CHANGE,
) -> int:
    """The size for a new claim: what fits, and 1024 where more would.

    Args:
        modules: to be marked. strength: kappa; None: ``choose_strength`` goes by the size.
        copies: sub-keys in one adapter. limit: largest rho.

    Raises:
        MarkCapacityError: not even 128 directions fit, which is what it takes to show a mark.
    """
    _check_limit(limit)
    if copies < 1 or not (strength is None or 0 < strength <= LARGEST_STRENGTH):
        raise MarkCapacityError(
            f"strength {strength} and {copies} sub-keys; expected a strength above 0 and up to "
            f"{LARGEST_STRENGTH}, and at least one sub-key"
        )
    capacity = values_of(modules)
    if strength is None:
        fits = largest_size(capacity, SIZING_STRENGTH, copies, limit)
        strength = SIZING_STRENGTH if fits >= _SMALLEST else WEAKEST_STRENGTH
    size = min(DEFAULT_SIZE, largest_size(capacity, strength, copies, limit))
    if size < _SMALLEST:
        raise MarkCapacityError(
            f"an adapter with {capacity} values in B carries no {copies} sub-keys of {_SMALLEST} "
            "directions each; train more modules or a higher rank, or ask for fewer sub-keys"
        )
    return size


def _check_limit(limit: float) -> None:
    if not 0 < limit <= LARGEST_CHANGE:
        raise MarkCapacityError(f"largest change {limit}, expected above 0, up to {LARGEST_CHANGE}")


def check_capacity(claim: Claim, limit: float = DEFAULT_CHANGE) -> float:
    """Return rho of a claim.

    Raises:
        MarkCapacityError: rho is above ``limit``; the message says which size fits.
    """
    _check_limit(limit)
    rho = relative_change(claim.embedded_directions, claim.capacity, claim.strength)
    if rho <= limit:
        return rho
    copies = claim.embedded_directions // claim.size
    fits = largest_size(claim.capacity, claim.strength, copies, limit)
    advice = (
        f"choose a size of at most {fits}"
        if fits >= _SMALLEST
        else "choose more modules, a higher rank or fewer sub-keys"
    )
    raise MarkCapacityError(
        f"a mark of {claim.embedded_directions} directions changes an adapter with "
        f"{claim.capacity} values in B by {rho:.3f} of its norm, at most {limit} is allowed; "
        f"{advice}"
    )
