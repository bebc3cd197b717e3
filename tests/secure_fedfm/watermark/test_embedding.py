"""Embedding, and what a mark survives: the rows of the design's table on small random hosts.

Here N = 256 over 16 modules of 256 x 256; ``python -m pytest -m soak`` has the table itself, at
N = 1024 over 24 modules of GPT-2-small's shape.
"""

from __future__ import annotations

import numpy as np
import pytest

from fedfm_audit.watermark.capacity import check_capacity
from fedfm_audit.watermark.judge import judge
from fedfm_audit.watermark.statistic import Trials
from fedfm_audit.watermark.suspect import LowRank, LowRankSuspect
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from secure_fedfm.errors import ModelError
from secure_fedfm.watermark.embedding import Caps, embed, marked, measure
from tests.audit.marks import CARRIER, Owner, Shape, host, owner
from tests.secure_fedfm.watermark.attacks import attacks

SIDE = owner(1)
HOST = host()
(EMBEDDED,) = embed(HOST, SIDE.claim, [SIDE.opening().key])
MARKED = marked(HOST, [EMBEDDED])
NEEDED = Trials(1, 1).threshold


def found(side: Owner, adapter: dict[str, LowRank], index: int = 0) -> float:
    return measure(adapter, side.claim, side.opening(index).key).statistic


def test_a_mark_is_written_and_found() -> None:
    assert abs(EMBEDDED.before.statistic) < 4
    assert EMBEDDED.after.statistic == found(SIDE, MARKED) > 0.85 * np.sqrt(256)
    assert EMBEDDED.after.matches == 256
    assert EMBEDDED.scaled == 1
    finding = judge(SIDE.opening(), LowRankSuspect(MARKED), Trials(None, 1))
    assert finding.present
    assert not judge(SIDE.opening(), LowRankSuspect(HOST), Trials(1, 1)).present


def test_the_change_is_as_large_as_it_says_and_as_was_predicted() -> None:
    moved = total = payload = 0.0
    for name, one in HOST.items():
        moved += float(np.sum((MARKED[name].product() - one.product()) ** 2))
        total += float(np.sum(one.product() ** 2))
        payload += float(np.sum((MARKED[name].b - one.b) ** 2))
        assert (MARKED[name].a == one.a).all()
    assert EMBEDDED.relative == pytest.approx(np.sqrt(moved / total), rel=1e-3)
    assert EMBEDDED.norm == pytest.approx(np.sqrt(payload), rel=1e-3)
    predicted = check_capacity(SIDE.claim)
    assert 0.9 * predicted < EMBEDDED.relative < 1.25 * predicted  # what weights cost, at rank 8


def test_responses_end_where_they_were_aimed() -> None:
    """With hardly any ridge, the closed form meets its targets exactly."""
    from fedfm_audit.watermark.directions import Directions
    from fedfm_audit.watermark.response import respond

    directions = Directions(SIDE.claim, SIDE.opening().key)
    before = respond(directions, LowRankSuspect(HOST)).values
    after = respond(directions, LowRankSuspect(MARKED)).values
    bits = directions.bits()
    aimed = 0.6 * np.sqrt(sum(float(np.sum(f.product() ** 2)) for f in HOST.values()))
    short = bits * before < aimed
    assert 0.5 < short.mean() < 0.9
    np.testing.assert_allclose((bits * after)[short], aimed, rtol=0.02)
    np.testing.assert_allclose(after[~short], before[~short], rtol=0.02)


def trained(seed: int) -> dict[str, LowRank]:
    """A host whose A was trained: rows of very different lengths, nearly parallel."""
    generator = np.random.default_rng(seed)
    return {
        name: LowRank(
            one.b,
            (one.a * np.logspace(0, -2, 8)[:, None] + generator.normal(size=256)).astype("f4"),
            one.scale,
        )
        for name, one in host(seed=seed).items()
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_a_trained_a_carries_as_much(seed: int) -> None:
    adapter = trained(seed)
    (one,) = embed(adapter, SIDE.claim, [SIDE.opening().key], Caps(relative=0.25))
    assert one.after.statistic > 0.85 * np.sqrt(256)
    assert one.relative < 0.12


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_fewer_ranks_keep_of_the_mark_what_they_keep_of_the_adapter(rank: int) -> None:
    """Evenly spread over all ranks, T would be 6.1, 6.5 and 9.7."""
    cut = {}
    for name, one in MARKED.items():
        u, s, v = np.linalg.svd(one.product(), full_matrices=False)
        cut[name] = LowRank(u[:, :rank] * s[:rank], v[:rank])
    assert found(SIDE, cut) > {1: 7.5, 2: 8.5, 4: 11.5}[rank]


def test_a_singular_a_is_marked_where_it_can_be() -> None:
    adapter = {n: LowRank(f.b, np.vstack([f.a[:6], f.a[:2]]), f.scale) for n, f in HOST.items()}
    (one,) = embed(adapter, SIDE.claim, [SIDE.opening().key])
    assert one.after.statistic > NEEDED
    assert all(np.isfinite(change).all() for change in one.changes.values())


def test_marks_of_several_owners_add_up() -> None:
    owners = [owner(seed, size=128) for seed in range(1, 6)]
    embedded = [embed(HOST, side.claim, [side.opening().key])[0] for side in owners]
    together = marked(HOST, embedded)
    for side in owners:
        assert found(side, together) > 8.5
    assert abs(found(owner(9, size=128), together)) < 4


def test_all_sub_keys_of_an_owner_are_found() -> None:
    side = owner(4, size=128, keys=2)
    keys = [side.opening(i).key for i in range(2)]
    together = marked(HOST, embed(HOST, side.claim, keys))
    assert min(found(side, together, i) for i in range(2)) > 8.5


def test_caps_scale_the_whole_mark() -> None:
    key = SIDE.opening().key
    (relative,) = embed(HOST, SIDE.claim, [key], Caps(relative=EMBEDDED.relative / 2))
    (norm,) = embed(HOST, SIDE.claim, [key], Caps(norm=EMBEDDED.norm / 2))
    for one in (relative, norm):
        assert one.scaled == pytest.approx(0.5)
        assert one.norm == pytest.approx(EMBEDDED.norm / 2)
        assert one.before.statistic < one.after.statistic < EMBEDDED.after.statistic


def test_what_cannot_be_marked_is_refused() -> None:
    key = SIDE.opening().key
    zero = {n: LowRank(f.b * 0, f.a, f.scale) for n, f in HOST.items()}
    with pytest.raises(ModelError, match="mark it after training"):
        embed(zero, SIDE.claim, [key])
    with pytest.raises(ModelError, match="lacks module"):
        embed(dict(list(HOST.items())[1:]), SIDE.claim, [key])
    with pytest.raises(ModelError, match="expected rank 8"):
        embed(host(Shape(rank=4)), SIDE.claim, [key])


# ---- removal


@pytest.mark.parametrize("name", attacks(CARRIER.width))
def test_marks_survive(name: str) -> None:
    attack = attacks(CARRIER.width)[name]
    evidence = judge(SIDE.opening(), attack.run(MARKED), Trials(1, 1)).evidence
    assert evidence.statistic >= attack.keeps * EMBEDDED.after.statistic, evidence
    assert abs(judge(SIDE.opening(), attack.run(HOST), Trials(1, 1)).evidence.statistic) < 4


def test_a_wrong_key_finds_nothing() -> None:
    """30 keys of others on the marked adapter."""
    random = SeededRandom(5)
    highest = max(measure(MARKED, SIDE.claim, Secret(random(32))).statistic for _ in range(30))
    assert highest < 4.5
