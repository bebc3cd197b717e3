"""Deterministic numbers without global state: every stream is named by what it is for.

Two kinds, kept apart on purpose:

* `public_uniform` gives the *public* initial values (LoRA's A, a native head). Every client must
  get the same bits on any machine, so it is SHAKE-256 turned into floats by exact arithmetic only;
  NumPy does not promise that its streams stay the same between versions.
* `generator` gives a NumPy generator for choices that stay local or are made once (batch order, the
  demo corpus, splitting a file among demo clients).

Neither is for keys, masks or noise: those come from the RandomSource of fedfm_crypto.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_BITS = 24  # a float32 significand: every value below is exact before the one final rounding


def _digest_input(parts: Sequence[object]) -> bytes:
    """Parts as length-prefixed text, so that ("ab", "c") and ("a", "bc") differ."""
    encoded = [str(part).encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def generator(*parts: object) -> np.random.Generator:
    """A NumPy generator that is a function of `parts` only (compared as text)."""
    seed = hashlib.sha256(_digest_input(parts)).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))


def fraction(*parts: object) -> float:
    """A number in [0, 1) that is a function of `parts` only; used to split by content."""
    digest = hashlib.sha256(_digest_input(parts)).digest()
    return int.from_bytes(digest[:6], "big") / float(1 << 48)


def public_uniform(shape: Sequence[int], bound: float, *parts: object) -> npt.NDArray[np.float32]:
    """float32 values uniform on the open interval (-bound, bound), bit-identical everywhere.

    Args:
        shape: shape of the result, filled in C order.
        bound: half width; for LoRA's A it is 1/sqrt(fan_in), which is PEFT's own
            kaiming_uniform(a=sqrt(5)).
        parts: what the values are for (seed, tensor name).
    """
    count = math.prod(shape)
    stream = hashlib.shake_256(_digest_input(parts)).digest(3 * count)
    raw = np.frombuffer(stream, dtype=np.uint8).reshape(count, 3).astype(np.int64)
    integers = raw[:, 0] | (raw[:, 1] << 8) | (raw[:, 2] << 16)
    centred = (2 * integers + 1 - (1 << _BITS)) / float(1 << _BITS)
    return (centred * bound).astype(np.float32).reshape(tuple(shape))
