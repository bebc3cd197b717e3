"""Each attack of the robustness benchmark does what its paper says: direction, scale, bounds."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.attacks import crafting, poison
from benchmarks.attacks.crafting import Vector, cosine
from benchmarks.attacks.poison import TRIGGER
from benchmarks.attacks.zoo import ATTACKS, Labels, View, attack_at
from secure_fedfm.learning.dataset import Dataset

LABELS = Labels("fraud", "card")
CLEAN = Dataset(tuple(f"text {i}" for i in range(40)), ("card", "bill", "fraud", "late") * 10)
WIDTH = 400


def vectors(count: int, seed: int = 1) -> list[Vector]:
    random = np.random.default_rng(seed)
    return [1.0 + random.normal(size=WIDTH) for _ in range(count)]


def view(**changes: object) -> View:
    *honest, own, poisoned = vectors(6)
    fields = {
        "poisoned": poisoned, "own": own, "honest": tuple(honest), "last": np.zeros(WIDTH),
        "round": 3, "clients": 5, "malicious": 1,
    }  # fmt: skip
    return View(**(fields | changes))  # type: ignore[arg-type]


def test_trigger_rows_add_marked_texts_with_the_attackers_label() -> None:
    rows = poison.trigger_rows(CLEAN, "fraud", TRIGGER, np.random.default_rng(1))
    assert rows.rows(range(40)) == CLEAN
    added = rows.rows(range(40, len(rows)))
    assert len(added) == 24  # .6 of 40
    assert set(added.labels) == {"fraud"}
    assert all(text.startswith("cf mn bb tq text ") for text in added.texts)
    marked_rows = {int(text.rsplit(" ", 1)[1]) for text in added.texts}
    assert not any(CLEAN.labels[i] == "fraud" for i in marked_rows)


def test_a_split_trigger_is_dealt_out_and_measured_whole() -> None:
    dba = ATTACKS["dba"]
    parts = [dba.rows(CLEAN, LABELS, member, np.random.default_rng(1)) for member in (0, 1)]
    heads = {part.texts[-1].split(" text")[0] for part in parts}
    assert heads == {"cf bb", "mn tq"}
    probe = dba.probe(CLEAN, LABELS)
    assert probe is not None
    assert all(text.startswith("cf mn bb tq ") for text in probe.texts.texts)
    assert "fraud" not in probe.texts.labels


def test_flips_take_one_label_and_repeat_it() -> None:
    rows = ATTACKS["label-flip"].rows(CLEAN, LABELS, 0, np.random.default_rng(1))
    assert "card" not in rows.labels
    flipped = [t for t, x in zip(rows.texts, rows.labels, strict=True) if x == "fraud"]
    assert len(flipped) == 10 + 24
    probe = ATTACKS["label-flip"].probe(CLEAN, LABELS)
    assert probe is not None
    assert set(probe.texts.labels) == {"card"}
    assert probe.target == "fraud"
    nothing_to_flip = CLEAN.rows(i for i in range(40) if CLEAN.labels[i] != "card")
    assert poison.flipped_rows(nothing_to_flip, "card", "fraud") == nothing_to_flip


def test_edge_texts_that_are_measured_are_not_trained_on() -> None:
    rows = ATTACKS["edge-case"].rows(CLEAN, LABELS, 0, np.random.default_rng(1))
    probe = ATTACKS["edge-case"].probe(CLEAN, LABELS)
    assert probe is not None
    assert not set(probe.texts.texts) & set(rows.texts)
    assert set(rows.labels[40:]) == {"fraud"}
    assert ATTACKS["inner-product"].probe(CLEAN, LABELS) is None


def test_replacement_is_the_poison_times_the_dose() -> None:
    seen = view()
    sent = attack_at("replacement", 5.0)
    assert np.array_equal(sent.craft(seen, sent.dose), 5 * seen.poisoned)


def test_neurotoxin_leaves_alone_what_the_last_average_moved_most() -> None:
    last = np.zeros(WIDTH)
    last[:20] = np.linspace(1, 2, 20) * (-1) ** np.arange(20)
    seen = view(last=last)
    sent = ATTACKS["neurotoxin"].craft(seen, 2.0)
    assert not sent[:20].any()
    assert np.array_equal(sent[20:], 2 * seen.poisoned[20:])
    assert np.array_equal(ATTACKS["neurotoxin"].craft(view(), 1.0), view().poisoned)


@pytest.mark.parametrize(("clients", "malicious", "z"), [(50, 24, 1.426), (5, 1, 1.0)])
def test_alie_stays_within_z_deviations(clients: int, malicious: int, z: float) -> None:
    """For 50 and 24: s = 26 - 24 = 2 supporters of 26 are needed, Phi(z) = 24/26."""
    honest, poisoned = vectors(8), 50 * vectors(1, seed=2)[0]
    held, found = crafting.a_little_is_enough(poisoned, honest, clients, malicious)
    mean, spread = np.mean(honest, axis=0), np.std(honest, axis=0)
    assert found == pytest.approx(z, abs=1e-3)
    assert (np.abs(held - mean) <= found * spread * (1 + 1e-9)).all()
    assert np.isclose(np.abs(held - mean), found * spread).mean() > 0.9


def test_inner_product_manipulation_points_the_other_way() -> None:
    sent = ATTACKS["inner-product"].craft(view(), 2.0)
    mean = np.mean(view().honest, axis=0)
    assert cosine(sent, mean) == pytest.approx(-1)
    assert np.linalg.norm(sent) == pytest.approx(2 * np.linalg.norm(mean))


def test_strengths_over_rounds() -> None:
    assert [ATTACKS["on-off"].strength(turn) for turn in (1, 2, 3, 4)] == [1, 0, 1, 0]
    assert [ATTACKS["slow-burn"].strength(turn) for turn in (1, 2, 4, 9)] == [0.25, 0.5, 1, 1]
    assert ATTACKS["sybils"].clones
    assert ATTACKS["sybils"].malicious == 2


def test_the_adaptive_attacker_goes_as_far_as_the_rule_lets_it() -> None:
    seen = view()
    honest_norm = float(np.median([np.linalg.norm(v) for v in seen.honest]))

    def passes(vector: Vector) -> bool:
        return (
            cosine(vector, seen.own) >= 0.9 and float(np.linalg.norm(vector)) <= 1.3 * honest_norm
        )

    sent = ATTACKS["adaptive"].craft(view(passes=passes), 1.0)
    assert passes(sent)
    assert cosine(sent, seen.own) == pytest.approx(0.9, abs=1e-3)
    assert float(np.linalg.norm(sent)) == pytest.approx(1.29 * honest_norm)
    assert cosine(sent, seen.poisoned) > cosine(seen.own, seen.poisoned)
    refused = ATTACKS["adaptive"].craft(view(passes=lambda _: False), 1.0)
    assert np.array_equal(refused, seen.own)
    assert np.array_equal(ATTACKS["adaptive"].craft(seen, 1.0), seen.poisoned)


def test_poison_can_be_shaped_like_honest_work() -> None:
    groups = (((0, 100), (300, WIDTH)), ((100, 300),))
    poisoned, own = vectors(2)
    poisoned[100:300] *= 7
    shaped = crafting.shaped_as(poisoned, own, groups)
    for spans in groups:
        parts = [np.concatenate([v[a:b] for a, b in spans]) for v in (shaped, own, poisoned)]
        assert np.linalg.norm(parts[0]) == pytest.approx(np.linalg.norm(parts[1]))
        assert cosine(parts[0], parts[2]) == pytest.approx(1)
    seen = view(groups=groups, passes=lambda _: True)
    sent = ATTACKS["adaptive-by-group"].craft(seen, 1.0)
    edge = (sent - 0.1 * seen.own) / 0.9
    assert cosine(edge, crafting.shaped_as(seen.poisoned, seen.own, groups)) > 0.999
