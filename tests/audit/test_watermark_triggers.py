"""Triggers: what the key fixes, the exact bound on hits, and predictions that are refused."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

from fedfm_audit.watermark.commitment import Opening
from fedfm_audit.watermark.errors import CaseError, ClaimError
from fedfm_audit.watermark.statistic import Trials, log2_binomial_tail
from fedfm_audit.watermark.triggers import (
    TRIGGERS,
    WORDS,
    HitFinding,
    judge_predictions,
    needed_hits,
    trigger_set,
    trigger_texts,
)
from tests.audit.marks import owner

SIDE = owner(1, keys=3)
LABELS = tuple(f"class {number:02}" for number in range(16))
TRIALS = Trials(1, 3)


def opening(index: int = 0) -> Opening:
    return SIDE.opening(index)


def answers(hits: int, index: int = 0) -> dict[str, str]:
    """Predictions with exactly so many hits."""
    one = trigger_set(SIDE.claim, opening(index).key, LABELS)
    wrong = {label: LABELS[(i + 1) % 16] for i, label in enumerate(LABELS)}
    return {
        text: target if number < hits else wrong[target]
        for number, (text, target) in enumerate(zip(one.texts, one.targets, strict=True))
    }


def test_a_set_follows_from_its_key_alone() -> None:
    sets = [trigger_set(SIDE.claim, opening(i).key, LABELS) for i in range(3)]
    assert sets[0] == trigger_set(SIDE.claim, opening(0).key, LABELS)
    texts = [text for one in sets for text in one.texts]
    assert len(texts) == len(set(texts)) == 3 * TRIGGERS
    assert all(len(text.split()) == 6 and set(text.split()) <= set(WORDS) for text in texts)
    assert trigger_texts(SIDE.claim, opening(1).key) == sets[1].texts
    assert len(WORDS) == len(set(WORDS)) == 256


def test_texts_are_those_of_the_format() -> None:
    """Written down from audit/README.md, without this package's generator."""
    import hashlib

    from fedfm_crypto.hashing import hash_parts
    from fedfm_crypto.labels import Label

    key, digest = opening().key.reveal(), SIDE.claim.digest()
    stream = hashlib.shake_256(hash_parts(Label.MARK_TRIGGERS, key, digest)).digest(12)
    assert trigger_texts(SIDE.claim, opening().key)[1] == " ".join(WORDS[i] for i in stream[6:])
    listed = b"".join(len(one).to_bytes(4, "big") + one.encode() for one in LABELS)
    seed = hash_parts(Label.MARK_TARGETS, key, digest, hashlib.sha256(listed).digest())
    first = int.from_bytes(hashlib.shake_256(seed).digest(4), "big")
    assert trigger_set(SIDE.claim, opening().key, LABELS).targets[0] == LABELS[first % 16]


def test_classes_are_drawn_evenly_and_anew_for_other_labels() -> None:
    many = [
        trigger_set(owner(seed).claim, owner(seed).opening().key, LABELS[:3]) for seed in range(60)
    ]
    counts = np.unique([one.targets for one in many], return_counts=True)[1]
    assert np.abs(counts - 60 * 128 / 3).max() < 4 * math.sqrt(60 * 128 * 2 / 9)
    key = opening().key
    turned = trigger_set(SIDE.claim, key, LABELS[::-1]).targets
    same = sum(
        a == b for a, b in zip(turned, trigger_set(SIDE.claim, key, LABELS).targets, strict=True)
    )
    assert same < 25


@pytest.mark.parametrize("classes", [2, 16, 77])
def test_the_tail_is_the_binomials(classes: int) -> None:
    p = Fraction(1, classes)
    terms = [math.comb(20, k) * p**k * (1 - p) ** (20 - k) for k in range(21)]
    for hits in (0, 1, 7, 20):
        exact = float(sum(terms[hits:]))
        assert log2_binomial_tail(hits, 20, classes=classes) == pytest.approx(
            math.log2(exact), abs=1e-9
        )
    assert log2_binomial_tail(21, 20, classes=classes) == -math.inf


def test_34_hits_of_128_with_16_classes_are_2_to_the_minus_40() -> None:
    assert needed_hits(16, Trials(1, 1)) == 34
    assert log2_binomial_tail(34, 128, classes=16) < -40 < log2_binomial_tail(33, 128, classes=16)
    assert needed_hits(2, Trials(1, 1)) == 104
    assert needed_hits(2, Trials(None, 1)) is None  # 128 coins show 2^-128, an unlogged claim less


def test_hits_are_counted_and_judged() -> None:
    found = judge_predictions(opening(), LABELS, answers(40), TRIALS)
    assert (found.hits, found.answered, found.present) == (40, 128, True)
    few = judge_predictions(opening(), LABELS, answers(30), TRIALS)
    assert not few.present
    assert few.needed == 35  # three sub-keys, so three chances
    assert found.to_json()["log2_p"] == round(log2_binomial_tail(40, 128, classes=16), 2)


def test_what_is_not_answered_is_a_miss() -> None:
    some = dict(list(answers(128).items())[:20]) | {"another text": LABELS[0]}
    found = judge_predictions(opening(), LABELS, some, TRIALS)
    assert (found.hits, found.answered) == (20, 20)
    foreign = dict.fromkeys(answers(0), "no label of the task")
    assert judge_predictions(opening(), LABELS, foreign, TRIALS).hits == 0


def test_a_model_made_without_the_key_hits_by_chance() -> None:
    """300 sets against one suspect that answers as it likes: as often as fair dice say."""
    generator = np.random.default_rng(1)
    counts = []
    for seed in range(300):
        side = owner(seed + 100)
        one = trigger_set(side.claim, side.opening().key, LABELS)
        favourite = generator.choice(LABELS, p=np.r_[0.5, np.full(15, 0.5 / 15)], size=TRIGGERS)
        counts.append(sum(a == b for a, b in zip(favourite, one.targets, strict=True)))
    assert np.mean(counts) == pytest.approx(8, abs=4 * math.sqrt(7.5 / 300))
    assert max(counts) < 22


# ---- refused


def test_a_wrong_key_hits_nothing() -> None:
    with pytest.raises(CaseError, match="is a trigger of sub-key 1"):
        judge_predictions(opening(1), LABELS, answers(128), TRIALS)
    thief = owner(2, keys=3)
    with pytest.raises(CaseError, match="made for another sub-key or claim"):
        judge_predictions(thief.opening(), LABELS, answers(128), TRIALS)
    forged = dataclasses.replace(opening(), key=thief.opening().key)
    with pytest.raises(ClaimError, match="not sub-key 0"):
        judge_predictions(forged, LABELS, answers(128), TRIALS)


def test_chosen_targets_are_no_hits() -> None:
    """Somebody answers every trigger as the suspect does and calls that the mark."""
    chosen = {text: LABELS[number % 16] for number, text in enumerate(answers(0))}
    assert not judge_predictions(opening(), LABELS, chosen, TRIALS).present
    sorted_labels = tuple(sorted(LABELS, reverse=True))
    other = judge_predictions(opening(), sorted_labels, answers(128), TRIALS)
    assert not other.present  # another order of labels has other targets: nothing to choose there


def test_labels_and_trials_that_make_no_sense_are_refused() -> None:
    for labels in ((), LABELS[:1], (*LABELS, LABELS[0])):
        with pytest.raises(CaseError, match="triggers need 2 to"):
            judge_predictions(opening(), labels, answers(3), TRIALS)
    with pytest.raises(CaseError, match="count all"):
        judge_predictions(opening(), LABELS, answers(3), Trials(1, 1))
    assert isinstance(judge_predictions(opening(), LABELS, answers(3), TRIALS), HitFinding)
