"""What single rules do that others do not: reasons, memory, clones, clusters, groups, limits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from secure_fedfm.errors import RobustnessError
from secure_fedfm.robust.clusters import CosineMemory, Flame, majority_component
from secure_fedfm.robust.composed import EveryGroup
from secure_fedfm.robust.coordinatewise import coordinate_median, trimmed_mean
from secure_fedfm.robust.directions import FLTrust, FoolsGold
from secure_fedfm.robust.distances import GeometricMedian, LeastDiameter
from secure_fedfm.robust.krum import MultiKrum
from secure_fedfm.robust.memory import NOTHING, Memory
from secure_fedfm.robust.norms import NormBound
from secure_fedfm.robust.rule import Verdict
from secure_fedfm.robust.score_matrix import GroupScores, ScoreMatrix

VECTORS = Path(__file__).parents[2] / "vectors"

Vectors = NDArray[np.float64]


def scores_of(
    vectors: Vectors, names: str = "abcdefghijk", root: Vectors | None = None
) -> ScoreMatrix:
    row = None if root is None else np.append(vectors @ root, root @ root)
    products = vectors @ vectors.T
    return ScoreMatrix(tuple(names[: len(vectors)]), (products + products.T) / 2, row)


def benign(seed: int, count: int = 5, spread: float = 0.5) -> Vectors:
    generator = np.random.default_rng(seed)
    common = np.random.default_rng(0).normal(size=60)
    made: Vectors = common + spread * generator.normal(size=(count, 60))
    return made


def test_reasons_are_for_people() -> None:
    vectors = benign(1)
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    vectors *= np.array([[0.8], [0.9], [1.0], [1.9], [5.1]])
    verdict = NormBound().judge(scores_of(vectors))
    assert verdict.reasons == ("", "", "", "", "norm: 5.1 times the median, allowed 2")
    assert verdict.accepted_names == ("a", "b", "c", "d")


def test_a_root_direction_overrules_a_majority() -> None:
    vectors = benign(1, 7)
    root = vectors[0].copy()
    vectors[1:] = -vectors[1:]
    verdict = FLTrust().judge(scores_of(vectors, root=root))
    assert verdict.accepted_names == ("a",)
    assert "to the root client's update, expected above 0" in verdict.reasons[3]
    with pytest.raises(RobustnessError, match="and there is none; name a client"):
        FLTrust().judge(scores_of(vectors))
    with pytest.raises(RobustnessError, match="root direction is zero"):
        FLTrust().judge(scores_of(vectors, root=0 * root))


def test_fltrust_weighs_as_the_paper_does() -> None:
    vectors, root = benign(2), benign(3)[0]
    weights = FLTrust().judge(scores_of(vectors, root=root)).weights
    unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    trust = np.maximum(unit @ (root / np.linalg.norm(root)), 0)
    expected = (trust[:, None] * unit).sum(axis=0)
    found = weights @ vectors
    assert found / np.linalg.norm(found) == pytest.approx(expected / np.linalg.norm(expected))


def test_foolsgold_excludes_clones_and_keeps_the_different() -> None:
    different = np.random.default_rng(4).normal(size=(5, 60))
    attack = np.random.default_rng(5).normal(size=60)
    sybils = attack + 0.05 * np.random.default_rng(6).normal(size=(4, 60))
    verdict = FoolsGold().judge(scores_of(np.vstack([different, sybils])))
    assert verdict.accepted == (True,) * 5 + (False,) * 4
    assert "resembles another client (cosine 1.00): weight" in verdict.reasons[8]


def test_the_cluster_step_is_hdbscan() -> None:
    """scikit-learn's answers (``tests/vectors/hdbscan_majorities.py``)."""
    cases = json.loads((VECTORS / "hdbscan_majorities.json").read_text(encoding="utf-8"))["cases"]
    for case in cases:
        inside, _ = majority_component(np.array(case["distances"]) / 1e6)
        assert inside.tolist() == [bool(member) for member in case["majority"]]
    assert len({tuple(case["majority"]) for case in cases}) == 12


def test_flame_clips_by_weight_and_excludes_beyond_its_multiple() -> None:
    vectors = benign(7, 7, spread=0.1)
    vectors[:3] *= [[1.5], [3.0], [1.0]]
    verdict = Flame(multiple=2.0).judge(scores_of(vectors))
    lengths = np.linalg.norm(vectors, axis=1)
    assert not verdict.accepted[1]
    kept = verdict.weights * lengths
    assert kept[0] == pytest.approx(np.sort(lengths)[3] * verdict.weights.max())


def rounds(rule: CosineMemory, shown: int, quiet: int) -> list[Verdict]:
    """An attacker ("e") that shows itself in the first rounds and then does as the others do."""
    verdicts, memory = [], NOTHING
    attack = np.random.default_rng(1000).normal(size=60)
    for number in range(shown + quiet):
        vectors = benign(number)
        if number < shown:
            vectors[4] = attack + 0.5 * vectors[4]
        verdicts.append(rule.judge(scores_of(vectors), memory))
        memory = verdicts[-1].memory
    return verdicts


def test_memory_keeps_an_attacker_out_and_forgives_in_time() -> None:
    with_memory = [v.accepted[4] for v in rounds(CosineMemory(), 3, 25)]
    without = [v.accepted[4] for v in rounds(CosineMemory(newest=1.0), 3, 25)]
    assert not any(with_memory[:7])
    assert not any(without[:3])
    assert without[3:].count(True) > 12
    assert any(with_memory[7:])


def late_in_training(number: int) -> Vectors:
    """Honest updates with little in common: cosines of .2, and of next to nothing by chance."""
    common = np.random.default_rng(0).normal(size=4000)
    noise = np.random.default_rng(100 + number).normal(size=(5, 4000))
    made: Vectors = common + 2.0 * noise
    return made


def test_good_behaviour_buys_no_trust() -> None:
    """An attacker of ordinary length, honest for six rounds, is out in its first bad one; the
    average over rounds alone would have let it in."""
    memory, bits = NOTHING, []
    for number in range(7):
        vectors = late_in_training(number)
        if number == 6:
            vectors[4] = -vectors[4]
        before, verdict = memory, CosineMemory().judge(scores_of(vectors), memory)
        memory = verdict.memory
        bits.append(verdict.accepted)
    assert bits == [(True,) * 5] * 6 + [(True,) * 4 + (False,)]
    assert "in this round" in verdict.reasons[4]
    assert CosineMemory(latest_reach=10.0).judge(scores_of(vectors), before).accepted[4]


def test_poison_on_top_of_honest_work_shows_in_its_length() -> None:
    """Where honest updates are nearly orthogonal, no direction tells it."""
    vectors = late_in_training(1)
    vectors[4] += 2.5 * np.random.default_rng(9).normal(size=4000)
    verdict = CosineMemory().judge(scores_of(vectors))
    assert verdict.accepted == (True,) * 4 + (False,)
    assert verdict.reasons[4].startswith("norm: ")
    assert CosineMemory(multiple=2.0).judge(scores_of(vectors)).accepted[4]


def test_who_suddenly_works_more_is_excluded_though_others_are_as_long() -> None:
    """A client with few rows that adds poison is still no longer than one with many."""
    rule, memory = CosineMemory(), NOTHING
    lengths = np.array([1.25, 1.0, 1.0, 0.95, 0.8])
    for number in range(3):
        verdict = rule.judge(scores_of(lengths[:, None] * late_in_training(number)), memory)
        memory = verdict.memory
        assert all(verdict.accepted)
    lengths[4] = 1.25
    grown = scores_of(lengths[:, None] * late_in_training(4))
    verdict = rule.judge(grown, memory)
    assert verdict.accepted == (True,) * 4 + (False,)
    assert "on the average over rounds; allowed 1.15 times as much" in verdict.reasons[4]
    assert all(CosineMemory(growth=2.0).judge(grown, memory).accepted)
    assert CosineMemory(growth=1.2).in_group() == CosineMemory(growth=1.4)
    assert all(rule.judge(grown).accepted), "of a new client nothing is known"
    # It is accepted again when this has become its usual length, and not at once.
    rounds = 0
    while not verdict.accepted[4] and rounds < 50:
        verdict, rounds = rule.judge(grown, verdict.memory), rounds + 1
    assert 10 <= rounds <= 40


def test_a_short_update_makes_nobody_else_look_grown() -> None:
    """It moves the median of lengths, which lie far apart, from 1 to 0.82."""
    rule, memory = CosineMemory(), NOTHING
    lengths = np.array([1.1, 1.1, 0.82, 0.82, 1.0])
    for number in range(3):
        memory = rule.judge(scores_of(lengths[:, None] * late_in_training(number)), memory).memory
    lengths[4] = 0.2
    verdict = rule.judge(scores_of(lengths[:, None] * late_in_training(4)), memory)
    assert verdict.accepted[:4] == (True,) * 4, verdict.reasons


def test_what_is_nearer_than_honest_work_was_made_of_estimates() -> None:
    """A little poison on the others' mean, of ordinary length (ALIE, or anchored to the mean)."""
    vectors = late_in_training(2)
    poison = np.random.default_rng(9).normal(size=4000)
    vectors[4] = vectors[:4].mean(axis=0) + poison
    vectors[4] *= np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[4])
    verdict = CosineMemory().judge(scores_of(vectors))
    assert verdict.accepted == (True,) * 4 + (False,)
    assert "nearer to everybody" in verdict.reasons[4]
    # Left in, it is the middle of the majority, and honest clients look far away.
    left_in = CosineMemory(closest=0.0, reach=1.15)
    assert left_in.judge(scores_of(vectors)).accepted.count(False) == 2


def test_memory_follows_names_through_changing_cohorts() -> None:
    rule, vectors = CosineMemory(newest=0.5), benign(1)
    first = rule.judge(scores_of(vectors)).memory
    absent = rule.judge(scores_of(vectors[[0, 2, 4]], "ace"), first).memory
    assert absent.pairs[("cosine", "a", "b")] == first.pairs[("cosine", "a", "b")]
    shuffled = rule.judge(scores_of(-vectors[[4, 0, 2]] + 1, "eac"), first).memory
    fresh = scores_of(-vectors[[4, 0, 2]] + 1, "eac").cosines[0, 1]
    expected = 0.5 * first.pairs[("cosine", "a", "e")] + 0.5 * fresh
    assert shuffled.pairs[("cosine", "a", "e")] == pytest.approx(expected)
    assert not any("c" in key for key in first.without("c").pairs)


def test_a_memory_is_a_value() -> None:
    source = {("cosine", "a", "b"): 0.5}
    memory = Memory(source)
    source["cosine", "a", "c"] = 1.0
    assert dict(memory.pairs) == {("cosine", "a", "b"): 0.5}
    with pytest.raises(TypeError):
        memory.pairs["cosine", "a", "c"] = 1.0  # type: ignore[index]
    for pairs in ({("cosine", "b", "a"): 0.5}, {("cosine", "a", "b"): float("nan")}):
        with pytest.raises(RobustnessError, match="ascending order"):
            Memory(pairs)


def test_clones_do_not_capture_the_majority() -> None:
    """Two of five attackers at no distance from each other, of ordinary length."""
    vectors = benign(3)
    vectors[:2] = np.random.default_rng(8).normal(size=60)
    for rule in (CosineMemory(reach=1.4), Flame(), MultiKrum(1, keep=3)):
        expected = ("c", "d", "e") if not isinstance(rule, MultiKrum) else None
        if expected:
            assert rule.judge(scores_of(vectors)).accepted_names == expected


def in_groups(head: Vectors, rest: Vectors) -> ScoreMatrix:
    parts = [scores_of(head), scores_of(rest)]
    groups = tuple(GroupScores(n, p.gram) for n, p in zip(("head", "rest"), parts, strict=True))
    return ScoreMatrix(parts[0].names, parts[0].gram + parts[1].gram, None, groups)


def test_every_group_sees_what_the_whole_hides() -> None:
    head, rest = benign(1, 7), 10 * benign(2, 7)
    head[3] = 1.5 * np.random.default_rng(9).normal(size=60)
    scores = in_groups(head, rest)
    inner = CosineMemory(reach=2.0, multiple=3.0, latest_reach=2.0)
    whole = ScoreMatrix(scores.names, scores.gram)
    assert all(inner.judge(whole).accepted)
    verdict = EveryGroup(inner, profile=10.0).judge(scores)
    assert verdict.accepted_names == tuple("abcefg")
    assert verdict.reasons[3].startswith("direction: in head: mean cosine distance")
    # Each group remembers its own cosines.
    kinds = {key[0] for key in verdict.memory.pairs}
    parts = ("", "head", "rest")
    assert kinds == {f"{part}/{what}" for part in parts for what in ("cosine", "length")}
    again = EveryGroup(inner, profile=10.0).judge(scores, verdict.memory)
    assert again.memory.pairs == pytest.approx(verdict.memory.pairs)
    with pytest.raises(RobustnessError, match="one group only"):
        EveryGroup(inner, profile=10.0).judge(whole)
    with pytest.raises(RobustnessError, match="the sketches have: head, rest"):
        scores.group("tail")


def test_work_in_the_wrong_place_shows_by_group() -> None:
    """As long as the others, and no direction tells it; but more of it is in the head."""
    head, rest = late_in_training(1), late_in_training(2)
    head[4] *= 1.2
    rest[4] *= np.sqrt(2 - 1.2**2)
    scores = in_groups(head, rest)
    assert all(CosineMemory().judge(ScoreMatrix(scores.names, scores.gram)).accepted)
    assert all(EveryGroup(CosineMemory(), profile=2.0).judge(scores).accepted)
    verdict = EveryGroup(CosineMemory()).judge(scores)
    assert verdict.accepted == (True,) * 4 + (False,)
    assert verdict.reasons[4].startswith("norm: in head: 1.")
    # Working more in all is another matter.
    longer = in_groups(*(np.vstack([v[:4], 1.2 * v[4:] / f]) for v, f in
                         ((head, 1.2), (rest, np.sqrt(2 - 1.2**2)))))  # fmt: skip
    assert all(EveryGroup(CosineMemory()).judge(longer).accepted)


def test_of_four_ordinary_clients_none_stands_out_by_its_profile() -> None:
    """The lower of the middle two would be 0.94 here, and 1.1 of it too much."""
    head, rest = late_in_training(1)[:4], late_in_training(2)[:4]
    lengths = np.linalg.norm(head, axis=1) / np.linalg.norm(rest, axis=1)
    head *= (np.array([0.93, 1.06, 0.94, 1.1]) / lengths)[:, None]
    assert all(EveryGroup(CosineMemory()).judge(in_groups(head, rest)).accepted)
    head[3] *= 1.2
    assert EveryGroup(CosineMemory()).judge(in_groups(head, rest)).accepted == (True,) * 3 + (
        False,
    )


def test_a_far_attacker_does_not_smooth_the_geometric_median_away() -> None:
    vectors = benign(1, 9)
    vectors[:4] = 1e11 * np.random.default_rng(3).normal(size=(4, 60))
    verdict = GeometricMedian().judge(scores_of(vectors))
    assert verdict.accepted == (False,) * 4 + (True,) * 5


def test_too_many_subsets_are_refused_with_what_works() -> None:
    vectors = np.random.default_rng(1).normal(size=(30, 40))
    names = "abcdefghijklmnopqrstuvwxyzABCDEF"
    with pytest.raises(RobustnessError, match=r"142506 subsets.*use multi-krum"):
        LeastDiameter(5).judge(scores_of(vectors, names))


def test_coordinatewise_rules_refuse_what_they_cannot_average() -> None:
    vectors = benign(1)
    vectors[0, 0] = np.nan
    with pytest.raises(RobustnessError, match="NaN"):
        coordinate_median(vectors)
    with pytest.raises(RobustnessError, match="NaN"):
        trimmed_mean(vectors, 1)
    with pytest.raises(RobustnessError, match="at least 7 rows"):
        trimmed_mean(benign(1), 3)


def test_a_verdict_is_consistent() -> None:
    with pytest.raises(RobustnessError, match="different lengths"):
        Verdict(("a", "b"), (True,), np.ones(2), ("", ""))
    with pytest.raises(RobustnessError, match="reason for exactly"):
        Verdict(("a", "b"), (True, False), np.ones(2), ("", ""))
