"""Rounds of marks: nothing but the length of what each client adds is judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from secure_fedfm.robust.rule import Verdict

__all__ = ["judge_lengths"]


def judge_lengths(
    names: tuple[str, ...], gram: NDArray[np.float64], bounds: Sequence[float], least: float
) -> Verdict:
    """Exclude whoever adds more than its bound.

    Args:
        names: of the n clients.
        gram: float64 [n, n], inner products; only the squared lengths count.
        bounds: largest L2 norm of each, in the unit of the vectors; 0 for who has no mark.
        least: a length that cannot be told from none, in that unit.

    Source: protocols/README.md, section "Watermark rounds".
    """
    lengths = np.sqrt(np.maximum(np.diag(gram), 0.0))
    reasons = tuple(
        _why_excluded(float(length), bound, least)
        for length, bound in zip(lengths, bounds, strict=True)
    )
    accepted = tuple(not reason for reason in reasons)
    weights = np.array(accepted, np.float64) / max(1, sum(accepted))
    return Verdict(names, accepted, weights, reasons)


def _why_excluded(length: float, bound: float, least: float) -> str:
    if length <= max(bound, least):
        return ""
    return f"norm: {length / bound:.2f} times its bound" if bound else "norm: it has no mark"
