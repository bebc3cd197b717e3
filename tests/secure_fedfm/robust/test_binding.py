"""The check of the opened sum against the encrypted sketches: no liar missed, no honest round void.

A round has 5 to 20 clients with updates of 10^5 values (every twentieth round 10^6). Its sketches
are encrypted, summed and compared with the sketch of the opened sum, as a validator does: once as
everybody sent them, and once with one client whose sketch is not that of its update. Rounds are
drawn by their number alone. ``make soak`` plays 500, in ten blocks of 50 that can be run one by one
(``-k "block and 3"``); the ordinary tests play two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_crypto.lattice.sketch_encryption import SketchEncryption, binding_holds, sum_sketches
from fedfm_crypto.lattice.sketch_format import SketchScale
from fedfm_crypto.lattice.sketch_keys import SketchSecretKey
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.sketch import SketchLayout, sketch

Integers = NDArray[np.int64]
Lie = Callable[[np.random.Generator, Integers, Integers], Integers]

BLOCKS, ROUNDS = 10, 50
SMALL, LARGE = 100_000, 1_000_000
STEPS = 2.0**16
"""Quantisation: integer steps for 1.0."""


def poisoned(random: np.random.Generator, update: Integers, other: Integers) -> Integers:
    """A benign sketch; the update carries poison, of a hundredth of its length to five times it."""
    share = 10 ** random.uniform(-2, 0.7)
    poison: Integers = quantised(share * random.normal(scale=0.01, size=update.size))
    return update + poison


def rescaled(random: np.random.Generator, update: Integers, other: Integers) -> Integers:
    """The update is that of the sketch, times 1.001 to 1.1."""
    sent: Integers = np.rint(update * (1 + 10 ** random.uniform(-3, -1))).astype(np.int64)
    return sent


def one_tensor(random: np.random.Generator, update: Integers, other: Integers) -> Integers:
    """77 to 6144 neighbouring values are others by a few steps."""
    length = int(random.integers(77, 6144))
    start = int(random.integers(update.size - length))
    changed = update.copy()
    changed[start : start + length] += random.integers(1, 4, size=length)
    return changed


def of_another(random: np.random.Generator, update: Integers, other: Integers) -> Integers:
    """The sketch is that of the update; what is sent is another client's."""
    return other


def one_step(random: np.random.Generator, update: Integers, other: Integers) -> Integers:
    """One value is off by one step, the smallest lie that there is."""
    changed = update.copy()
    changed[int(random.integers(update.size))] += random.choice((-1, 1))
    return changed


LIES: dict[str, Lie] = {
    lie.__name__: lie for lie in (poisoned, rescaled, one_tensor, of_another, one_step)
}


@lru_cache(maxsize=1)
def validator() -> tuple[SketchSecretKey, SketchEncryption, SketchScale]:
    secret = SketchSecretKey.generate(SeededRandom(3))
    scale = SketchScale(64 * STEPS)
    return secret, SketchEncryption(secret.public_keys()[0], scale), scale


def quantised(values: NDArray[np.float64]) -> Integers:
    return np.rint(values * STEPS).astype(np.int64)


def play(number: int) -> tuple[str, bool, bool]:
    """One round: (the kind of lie, whether the honest sum passes, whether the liar's does)."""
    random = np.random.default_rng(number)
    count = int(random.integers(5, 21))
    size = LARGE if number % 20 == 19 else SMALL
    layout, beacon = SketchLayout.whole(size), random.bytes(32)
    updates = [quantised(random.normal(scale=0.01, size=size)) for _ in range(count)]
    secret, encryption, scale = validator()
    sketches = [encryption.encrypt(sketch(update, beacon, layout)) for update in updates]
    total = sum_sketches(sketches)
    opened = np.sum(updates, axis=0)
    honest = binding_holds(secret, total, sketch(opened, beacon, layout), scale)
    name = list(LIES)[number % len(LIES)]
    liar = int(random.integers(count))
    sent = LIES[name](random, updates[liar], updates[liar - 1])
    opened = opened - updates[liar] + sent
    return name, honest, binding_holds(secret, total, sketch(opened, beacon, layout), scale)


def play_all(numbers: range) -> tuple[int, Counter[str], Counter[str]]:
    """(honest rounds that passed; lies that were told, and those that were missed, by kind)."""
    passed, told, missed = 0, Counter[str](), Counter[str]()
    for number in numbers:
        name, honest, fooled = play(number)
        passed += honest
        told[name] += 1
        missed[name] += fooled
    return passed, told, +missed


@pytest.mark.parametrize("number", [0, 4], ids=["poisoned", "one-step"])
def test_a_round_is_void_with_a_liar_and_only_then(number: int) -> None:
    assert play(number)[1:] == (True, False)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_block_of_rounds(block: int, capsys: pytest.CaptureFixture[str]) -> None:
    passed, told, missed = play_all(range(block * ROUNDS, (block + 1) * ROUNDS))
    with capsys.disabled():
        print(f"\nblock {block}: {passed} of {ROUNDS} honest rounds pass, lies {dict(told)}, "
              f"missed {dict(missed)}")  # fmt: skip
    assert passed == ROUNDS
    assert sum(told.values()) == ROUNDS
    assert not missed
