"""What every robust rule must do, whichever it is; new rules are picked up from the registry."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from secure_fedfm.errors import RobustnessError
from secure_fedfm.robust.memory import NOTHING
from secure_fedfm.robust.registry import RULES, make_rule
from secure_fedfm.robust.rule import Rule, Scaling, Verdict
from secure_fedfm.robust.score_matrix import GroupScores, ScoreMatrix
from tests.secure_fedfm.robust.oracles import ORACLES

Vectors = NDArray[np.float64]
WIDTH = 40
NAMES = (
    "north", "south", "east", "west", "centre", "harbour", "hill", "lake", "mill", "park", "quay",
)  # fmt: skip

every_rule = pytest.mark.parametrize("rule", [make_rule(n, {}) for n in RULES], ids=list(RULES))


def clients(seed: int, count: int = 9, spread: float = 0.8) -> tuple[Vectors, Vectors]:
    """Benign vectors around a common direction, of unequal length, and a root direction."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=WIDTH)
    vectors = common + spread * generator.normal(size=(count, WIDTH))
    vectors *= generator.uniform(0.6, 1.6, size=(count, 1))
    return vectors, common + 0.3 * generator.normal(size=WIDTH)


def scores_of(vectors: Vectors, root: Vectors) -> ScoreMatrix:
    products = np.array([[float(a @ b) for b in vectors] for a in vectors])
    return ScoreMatrix(
        NAMES[: len(vectors)], (products + products.T) / 2, np.append(vectors @ root, root @ root)
    )


def judge(rule: Rule, vectors: Vectors, root: Vectors) -> Verdict:
    return rule.judge(scores_of(vectors, root))


@every_rule
@pytest.mark.parametrize("seed", range(12))
def test_it_equals_the_rule_on_the_vectors(rule: Rule, seed: int) -> None:
    vectors, root = clients(seed, count=5 + seed % 6, spread=0.5 + 0.2 * (seed % 4))
    if seed % 3 == 0:
        vectors[1] = 4 * vectors[1] - 3 * vectors[0]
    if seed % 3 == 1:
        vectors[2] = -vectors[2]
    assert list(judge(rule, vectors, root).accepted) == ORACLES[rule.name](vectors, root)


@every_rule
def test_a_client_as_the_root_is_its_vector_as_the_root(rule: Rule) -> None:
    """In a federation the root direction is a client's own row of the matrix."""
    vectors, _ = clients(11)
    vectors[4] *= -1
    scores = scores_of(vectors, np.zeros(WIDTH))
    groups = (GroupScores("head", scores.gram), GroupScores("rest", 2 * scores.gram))
    rooted = ScoreMatrix(scores.names, scores.gram, None, groups).rooted_at("west")
    verdict = rule.judge(rooted)
    assert list(verdict.accepted) == ORACLES[rule.name](vectors, vectors[3])
    assert verdict.accepted[3] or not rule.needs_root
    assert rooted.group("rest").root_cosines == pytest.approx(rooted.root_cosines)
    assert rooted.ordered([3, 0]).root_cosines[0] == pytest.approx(1)
    with pytest.raises(RobustnessError, match="root client park is not among the 9"):
        rooted.rooted_at("park")


@every_rule
@pytest.mark.parametrize("seed", range(4))
def test_order_of_clients_plays_no_part(rule: Rule, seed: int) -> None:
    vectors, root = clients(seed)
    vectors[3] *= 5
    vectors[4] = vectors[5]  # equal ones too
    scores = scores_of(vectors, root)
    before = rule.judge(scores)
    order = [int(i) for i in np.random.default_rng(seed).permutation(len(vectors))]
    after = rule.judge(scores.ordered(order))
    assert set(after.accepted_names) == set(before.accepted_names)
    assert after.weights == pytest.approx(before.weights[order], abs=1e-9)
    assert dict(zip(after.names, after.reasons, strict=True)) == dict(
        zip(before.names, before.reasons, strict=True)
    )
    assert after.memory.pairs == pytest.approx(before.memory.pairs)


@every_rule
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_a_common_factor_changes_nothing(rule: Rule, factor: float) -> None:
    vectors, root = clients(5)
    vectors[3] *= 5
    before, after = judge(rule, vectors, root), judge(rule, factor * vectors, root)
    assert after.accepted == before.accepted
    assert after.reasons == pytest.approx(before.reasons) or rule.name == "minimum-diameter"


@every_rule
def test_factors_for_each_vector_change_what_is_stated(rule: Rule) -> None:
    changed = False
    for seed in range(6):
        vectors, root = clients(seed)
        factors = 10 ** np.random.default_rng(seed).uniform(-2, 2, size=(len(vectors), 1))
        before, after = judge(rule, vectors, root), judge(rule, factors * vectors, root)
        changed |= after.accepted != before.accepted
    assert changed is (rule.scaling is not Scaling.EACH)


@every_rule
@pytest.mark.parametrize("together", [False, True], ids=["apart", "together"])
def test_attackers_far_away_are_excluded_up_to_the_breakdown_point(
    rule: Rule, together: bool
) -> None:
    for count in (5, 8, 11):
        far = rule.tolerates(count)
        vectors, root = clients(count, count)
        away = np.random.default_rng(100 + count).normal(size=(far, WIDTH))
        if together and far:
            away[:] = away[0] + 1e-3 * away
        vectors[:far] = 1e6 * away
        verdict = judge(rule, vectors, root)
        assert not any(verdict.accepted[:far]), (rule.name, count)
        assert any(verdict.accepted)
        # Weights: what the attackers together can do to the average stays a bounded step.
        moved = float(verdict.weights[:far].sum()) * 1e6
        assert moved < 50, (rule.name, count)


@every_rule
def test_it_breaks_beyond_the_breakdown_point(rule: Rule) -> None:
    """The bound is no understatement: a majority of like attackers gets in."""
    if rule.name == "foolsgold":
        pytest.skip("Sybils are what it excludes; tested by itself")
    vectors, root = clients(3, 9)
    attack = np.random.default_rng(3).normal(size=WIDTH)
    attack *= np.sign(attack @ root)  # the root direction does not help
    vectors[:6] = 20 * (attack + 0.01 * vectors[:6])
    assert any(judge(rule, vectors, root).accepted[:6])


@every_rule
def test_equal_vectors_are_treated_equally(rule: Rule) -> None:
    vectors, root = clients(1)
    vectors[:] = vectors[0]
    verdict = judge(rule, vectors, root)
    if rule.name == "foolsgold":
        assert not any(verdict.accepted)  # all clones
    elif rule.name in ("krum", "multi-krum", "minimum-diameter", "nearest-neighbour-mixing"):
        # A fixed number is kept; of equals the first by name.
        kept = sum(verdict.accepted)
        assert set(verdict.accepted_names) == set(sorted(verdict.names)[:kept])
    else:
        assert all(verdict.accepted)


@every_rule
def test_zero_vectors_are_judged_without_an_error(rule: Rule) -> None:
    vectors, root = clients(2)
    vectors[:2] = 0
    judge(rule, vectors, root)
    verdict = judge(rule, 0 * vectors, root)
    assert np.isfinite(verdict.weights).all()


@every_rule
def test_few_clients_are_judged_or_refused_by_number(rule: Rule) -> None:
    for count in (1, 2, 3, 4):
        vectors, root = clients(7, count)
        if count < rule.fewest:
            with pytest.raises(RobustnessError, match=f"needs {rule.fewest} clients, found"):
                judge(rule, vectors, root)
        else:
            judge(rule, vectors, root)


@every_rule
def test_a_client_with_impossible_scores_is_excluded_not_the_round(rule: Rule) -> None:
    vectors, root = clients(8)
    scores = scores_of(vectors, root)
    without = rule.judge(scores.ordered([i for i in range(9) if i not in (2, 5)]))
    gram = scores.gram.copy()
    gram[2, 2] = -gram[2, 2]  # imaginary parts
    gram[5, 5] /= 400  # a square that wrapped around
    verdict = rule.judge(ScoreMatrix(scores.names, gram, scores.root))
    assert set(verdict.accepted_names) == set(without.accepted_names)
    assert "negative" in verdict.reasons[2]
    assert "above the product of the norms" in verdict.reasons[5]


@every_rule
def test_noise_of_decryption_is_not_impossible(rule: Rule) -> None:
    vectors, root = clients(9)
    vectors[0] *= 1e-9
    scores = scores_of(vectors, root)
    noise = np.random.default_rng(1).normal(size=scores.gram.shape)
    gram = scores.gram + 1e-5 * float(np.median(np.diagonal(scores.gram))) * (noise + noise.T)
    verdict = rule.judge(ScoreMatrix(scores.names, gram, scores.root))
    assert not any("sketch" in reason for reason in verdict.reasons)


@every_rule
def test_verdicts_are_complete_and_pure(rule: Rule) -> None:
    vectors, root = clients(4)
    scores = scores_of(vectors, root)
    before = scores.gram.copy()
    one, other = rule.judge(scores), rule.judge(scores)
    assert (one.accepted, one.reasons, dict(one.memory.pairs)) == (
        other.accepted, other.reasons, dict(other.memory.pairs),
    )  # fmt: skip
    assert (scores.gram == before).all()
    assert not NOTHING.pairs
    assert one.weights.min() >= 0
    assert one.weights.sum() == pytest.approx(1 if any(one.accepted) else 0)
    for bit, reason in zip(one.accepted, one.reasons, strict=True):
        assert bit == (not reason)


@every_rule
def test_every_rule_says_what_it_is(rule: Rule) -> None:
    assert len(rule.source) > 3
    assert len(rule.breakdown) > 20
    assert set(ORACLES) == set(RULES)
    for count in range(3, 12):
        assert 0 <= rule.tolerates(count) < count / 2


def test_matrices_that_are_no_scores_are_refused() -> None:
    good = np.eye(3)
    cases = [
        (np.eye(3, dtype=np.float32), None, "expected float64"),
        (np.eye(4), None, "expected float64"),
        (good * np.nan, None, "NaN or infinite"),
        (good, np.array([1, 1, np.inf, 1]), "NaN or infinite"),
        (good, np.ones(3), "root row"),
        (good + np.triu(good + 1, 1), None, "not symmetric"),
    ]
    for gram, root, message in cases:
        with pytest.raises(RobustnessError, match=message):
            ScoreMatrix(("a", "b", "c"), gram, root)  # type: ignore[arg-type]
    with pytest.raises(RobustnessError, match="distinct names"):
        ScoreMatrix(("a", "b", "a"), good)
