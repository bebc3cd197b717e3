"""Poisson sampling: every row is in a step with probability q, independently of everything else.

Independence is what the accountant's amplification rests on: batches of a fixed size, or passes
over shuffled rows, cost several times more privacy than a ledger of Poisson steps says (the table
in PRIVACY.md). So an empty batch is a step like any other and is never drawn again.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from fedfm_crypto.random_source import RandomSource, draw
from secure_fedfm.errors import ConfigurationError

_WORD = 8
_WORDS = 1 << 64


def poisson_sample(rows: int, rate: float, random: RandomSource) -> npt.NDArray[np.int64]:
    """The rows of one step: sorted indices, int64 (B,), possibly none.

    Each row takes eight bytes of the stream of its own, in row order, whatever becomes of the
    others: with a seeded stream, one more row at the end changes no other row's fate. A row is in
    iff its 64-bit word is below floor(q 2^64), so the true rate is q or up to 2^-64 less.

    Args:
        rows: how many there are. rate: q, in (0, 1].

    Raises:
        ConfigurationError: a rate outside (0, 1].
    """
    if not 0 < rate <= 1:
        raise ConfigurationError(f"sampling rate {rate}; expected a number in (0, 1]")
    threshold = int(Fraction(rate) * _WORDS)
    words = np.frombuffer(draw(random, _WORD * rows), dtype="<u8")
    if threshold == _WORDS:  # q = 1 does not fit a word
        return np.arange(rows, dtype=np.int64)
    return np.flatnonzero(words < np.uint64(threshold)).astype(np.int64)
