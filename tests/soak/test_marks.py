"""Marks in large counts: false positives, ground keys, colluders, and the design's table."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_audit.watermark.capacity import LARGEST_CHANGE, choose_strength
from fedfm_audit.watermark.directions import Directions
from fedfm_audit.watermark.judge import judge
from fedfm_audit.watermark.response import respond
from fedfm_audit.watermark.statistic import Evidence, Trials
from fedfm_audit.watermark.suspect import LowRankSuspect
from fedfm_audit.watermark.trace import accusation_threshold
from secure_fedfm.watermark.embedding import Caps, embed, marked
from tests.audit.marks import Shape, check_tail, host, owner, random_statistics
from tests.secure_fedfm.watermark.attacks import attacks

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

GPT2 = Shape(modules=24, width=768, rank=8)
SMALL = Shape(modules=1, width=16, rank=2)


@pytest.mark.parametrize("seed", range(1, 6))
def test_ten_thousand_keys_on_an_adapter(seed: int) -> None:
    found = random_statistics(10_000, seed)
    check_tail(found)
    assert found.max() < Trials(1, 1).threshold


@pytest.mark.parametrize("part", range(10))
def test_a_million_ground_keys(part: int) -> None:
    largest = float(random_statistics(100_000, 1000 + part, SMALL).max())
    print(f"\npart {part}: largest T {largest:.2f}")
    assert largest < Trials(1, 1).threshold


BORDERLINE = frozenset({"90% pruned", "another one three times"})
"""These leave T around the threshold of 7.45: they erase some marks and others not."""


def test_the_table_of_the_design() -> None:
    side, unmarked = owner(1, GPT2, size=1024), host(GPT2)
    (embedded,) = embed(unmarked, side.claim, [side.opening().key])
    release = marked(unmarked, [embedded])
    print(f"\nrho {embedded.relative:.4f}, T {embedded.after.statistic:.2f}")
    lost = set()
    for name, attack in attacks(GPT2.width).items():
        finding = judge(side.opening(), attack.run(release), Trials(1, 1))
        print(f"{name:<26}{finding.evidence.statistic:8.2f}")
        if not finding.present:
            lost.add(name)
            assert finding.evidence.statistic > 6
    assert lost <= BORDERLINE
    assert 28 < embedded.after.statistic < 30


RECIPIENTS = 40


@cache
def crossed(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Responses of copy i to the key of recipient k, shape (40, 40, N), and the keys' bits.

    Responses are linear in B, and copies share A: those of an average are the average of these.
    """
    strength = choose_strength(Shape().targets(), size, LARGEST_CHANGE)  # as `export` does
    exporter = owner(
        7, Shape(), size=size, keys=RECIPIENTS, purpose="fingerprint", strength=strength
    )
    keys = [exporter.key.sub_key(exporter.claim, i) for i in range(RECIPIENTS)]
    directions = [Directions(exporter.claim, key) for key in keys]
    plain = host(Shape())
    caps = Caps(LARGEST_CHANGE)
    copies = [
        LowRankSuspect(marked(plain, embed(plain, exporter.claim, [key], caps))) for key in keys
    ]
    found = [[respond(one, copy).values for one in directions] for copy in copies]
    return np.array(found), np.array([one.bits() for one in directions])


@pytest.mark.parametrize(("colluders", "size"), [(1, 256), (2, 256), (3, 256), (4, 256), (4, 1024)])
def test_colluders_are_named_and_nobody_else(colluders: int, size: int) -> None:
    """200 trials with 40 recipients; four colluders are too many for N = 256."""
    responses, bits = crossed(size)
    bar = accusation_threshold(RECIPIENTS, 1e-3)
    generator, named = np.random.default_rng(colluders), 0
    for _ in range(200):
        guilty = generator.choice(RECIPIENTS, size=colluders, replace=False)
        mixed = responses[guilty].mean(axis=0)
        accused = {k for k in range(RECIPIENTS) if Evidence.of(mixed[k], bits[k]).statistic >= bar}
        assert accused <= set(guilty.tolist())
        named += bool(accused)
    print(f"\n{colluders} colluders, N = {size}: somebody named in {named} of 200 trials")
    assert named >= 190 or (colluders, size) == (4, 256)
