"""Directions, responses, statistic and bounds against plain loops and closed forms."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from scipy.stats import binom

from fedfm_audit.watermark.claim import Claim, TargetModule
from fedfm_audit.watermark.directions import Directions
from fedfm_audit.watermark.errors import CaseError
from fedfm_audit.watermark.judge import judge
from fedfm_audit.watermark.response import respond
from fedfm_audit.watermark.statistic import (
    Evidence,
    Trials,
    log2_binomial_tail,
    statistic_of,
)
from fedfm_audit.watermark.suspect import DenseSuspect, LowRank, LowRankSuspect
from tests.audit.marks import CARRIER, TINY, Shape, check_tail, host, owner, random_statistics

ODD = Shape(modules=2, width=21, rank=3)
GOLDEN_DIRECTIONS = "62394ba828551591ca4799712251404bbc19af04d536e17a363a79f26661c71e"
GOLDEN_BITS = "-+++-+--+--+-+++----+++--+++---+"


def framed(label: str, *parts: bytes) -> bytes:
    """H of audit/README.md, written out."""
    data = b""
    for part in (b"secure-fedfm/v1/" + label.encode(), *parts):
        data += len(part).to_bytes(8, "big") + part
    return hashlib.sha256(data).digest()


def sign(stream: bytes, place: int) -> int:
    return -1 if stream[place // 8] >> (place % 8) & 1 else 1


def slow_direction(claim: Claim, key: bytes, module: TargetModule, side: int, j: int) -> list[int]:
    """One direction by the words of audit/README.md, one sign at a time."""
    width = (module.rows, module.columns)[side]
    stride = (width + 7) // 8
    seed = framed("mark-directions", key, claim.digest(), module.name.encode(), bytes([side]))
    block, place = divmod(j, 64)
    stream = hashlib.shake_256(seed + block.to_bytes(4, "big")).digest(64 * stride)
    row = stream[place * stride : (place + 1) * stride]
    return [sign(row, c) for c in range(width)]


def slow_bits(claim: Claim, key: bytes) -> list[int]:
    size = (claim.size + 7) // 8
    stream = hashlib.shake_256(framed("mark-bits", key, claim.digest())).digest(size)
    return [sign(stream, j) for j in range(claim.size)]


def test_responses_and_statistic_equal_a_plain_loop() -> None:
    side = owner(3, ODD, size=131)
    key = side.opening().key.reveal()
    suspect = host(ODD)
    expected = []
    for j in range(131):
        total = 0.0
        for module in side.claim.modules:
            u = slow_direction(side.claim, key, module, 0, j)
            v = slow_direction(side.claim, key, module, 1, j)
            change = suspect[module.name].product().astype(np.float64)
            for row in range(module.rows):
                total += u[row] * sum(change[row, c] * v[c] for c in range(module.columns))
        expected.append(total)
    directions = Directions(side.claim, side.opening().key)
    found = respond(directions, LowRankSuspect(suspect))
    assert found.modules == 2
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-6)
    dense = DenseSuspect({name: one.product() for name, one in suspect.items()})
    np.testing.assert_allclose(respond(directions, dense).values, expected, rtol=1e-4, atol=1e-6)
    bits = slow_bits(side.claim, key)
    assert directions.bits().tolist() == bits
    norm = math.sqrt(sum(s * s for s in expected))
    statistic = sum(b * s for b, s in zip(bits, expected, strict=True)) / norm
    agree = sum(b * s > 0 for b, s in zip(bits, expected, strict=True))
    evidence = Evidence.of(found.values, directions.bits())
    assert evidence.statistic == pytest.approx(statistic, rel=1e-5)
    assert (evidence.matches, evidence.size) == (agree, 131)


def test_directions_of_a_known_key_never_change() -> None:
    """Golden values: a change here makes every mark ever embedded unreadable."""
    side = owner(7, TINY, size=128)
    directions = Directions(side.claim, side.opening().key)
    digest = hashlib.sha256(directions.bits().astype("<f8").tobytes())
    for where, u, v in directions.blocks(side.claim.modules[0]):
        assert len(u.signs()) == where.stop - where.start
        digest.update(u.signs().astype("<f4").tobytes() + v.signs().astype("<f4").tobytes())
    drawn = "".join("+" if bit > 0 else "-" for bit in directions.bits()[:32])
    assert drawn == GOLDEN_BITS
    assert digest.hexdigest() == GOLDEN_DIRECTIONS


def test_modules_sides_keys_and_claims_have_directions_of_their_own() -> None:
    first, second = owner(1, ODD, size=128), owner(2, ODD, size=128)
    blocks = [
        Directions(side.claim, key).blocks(module)
        for side in (first, second)
        for key in (first.opening().key, second.opening().key)
        for module in side.claim.modules
    ]
    drawn = [block.packed.tobytes() for one in blocks for _, u, v in one for block in (u, v)]
    assert len(set(drawn)) == len(drawn) == 2 * 2 * 2 * 2 * 2


def test_a_part_of_a_block_is_that_part() -> None:
    side = owner(1, ODD, size=128)
    directions = Directions(side.claim, side.opening().key)
    _, u, _ = next(directions.blocks(side.claim.modules[0]))
    assert (u.part(8, 21) == u.signs()[:, 8:21]).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_suspects_do_not_overflow(scale: float) -> None:
    side = owner(3, ODD, size=128)
    plain = judge(side.opening(), LowRankSuspect(host(ODD)), Trials(1, 1))
    extreme = {
        name: LowRank(one.b * np.float32(scale), one.a * np.float32(scale), one.scale)
        for name, one in host(ODD).items()
    }
    found = judge(side.opening(), LowRankSuspect(extreme), Trials(1, 1))
    assert found.evidence.statistic == pytest.approx(plain.evidence.statistic, rel=1e-4)


def test_a_suspect_that_changes_nothing_shows_nothing() -> None:
    side = owner(3, ODD, size=128)
    zero = {n: LowRank(one.b * 0, one.a) for n, one in host(ODD).items()}
    found = judge(side.opening(), LowRankSuspect(zero), Trials(None, 1))
    assert (found.evidence.statistic, found.evidence.log2_p, found.present) == (0.0, 0.0, False)
    assert found.evidence.log2_p_matches == 0.0


def test_the_binomial_tail_is_that_of_scipy() -> None:
    for size, matches in [(128, 0), (128, 64), (128, 128), (1024, 600), (2048, 1400)]:
        expected = binom.logsf(matches - 1, size, 0.5) / math.log(2)
        assert log2_binomial_tail(matches, size, classes=2) == pytest.approx(
            expected, rel=1e-9, abs=1e-9
        )


def test_thresholds() -> None:
    assert statistic_of(40) == pytest.approx(7.45, abs=0.005)
    assert Trials(1, 1).threshold == statistic_of(40)
    assert Trials(6, 4, 2, 8).threshold == pytest.approx(statistic_of(40 + math.log2(384)))
    assert Trials(None, 1).threshold == 13.33
    unlogged = Trials(None, 4, 2).threshold
    assert math.exp(-(unlogged**2) / 2) * 8 == pytest.approx(math.exp(-(13.33**2) / 2))
    for wrong in [(0, 1, 1, 1), (1, 0, 1, 1), (None, 1, 0, 1), (1, 1, 1, -1)]:
        with pytest.raises(CaseError):
            Trials(*wrong)


def test_too_few_sub_keys_counted() -> None:
    side = owner(3, CARRIER, size=128, keys=3)
    with pytest.raises(CaseError, match="the claim has 3"):
        judge(side.opening(1), LowRankSuspect(host()), Trials(1, 1))


def test_random_keys_stay_under_the_bound() -> None:
    """400 keys here; tests/soak has 10,000 on each of five adapters."""
    found = random_statistics(400, seed=1)
    assert abs(found.mean()) < 4 / math.sqrt(400)
    assert found.std() == pytest.approx(1, abs=0.15)
    check_tail(found)
