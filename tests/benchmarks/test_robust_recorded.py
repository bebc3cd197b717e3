"""What the robustness benchmark says of recorded updates, on made-up ones."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("tenseal")

from benchmarks.attacks.crafting import Vector
from benchmarks.attacks.zoo import ATTACKS
from benchmarks.robust_recorded import Sent, exclusions, look_table, looks
from benchmarks.robust_runs import Setting
from benchmarks.robust_scoring import plain_scoring
from benchmarks.robustness import rules
from fedfm_crypto.sketch import SketchLayout
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.robust.drafting import two_groups

WIDTH = 65_536
LAYOUT = TensorLayout(
    ("attention.output.dense.lora_B", "attention.self.key.lora_B", "head.weight"),
    ((16_384,), (16_384,), (32_768,)),
)


def rounds(boost: float = 1.0) -> list[Sent]:
    """Three rounds of five clients; one repeats itself in the first tensor, and is longer there."""
    random = np.random.default_rng(5)
    poison = random.normal(size=16_384)
    found: list[Sent] = []
    for _ in range(3):
        common = random.normal(size=WIDTH)
        sent: dict[str, Vector] = {
            f"client-{i}": common + random.normal(size=WIDTH) for i in range(5)
        }
        sent["client-4"][:16_384] = boost * np.sqrt(2) * poison
        found.append(sent)
    return found


def test_who_works_more_in_a_tensor_and_repeats_itself_there_is_seen() -> None:
    found = [one for one in looks(rounds(boost=1.5), LAYOUT) if one.round > 1]
    for one in found:
        odd = one.name == "client-4"
        assert one.shares["output and value"] == pytest.approx(1.5 if odd else 1, abs=0.05)
        assert one.again == pytest.approx(1 if odd else 0, abs=0.1)
        assert (one.towards < 0.42) == odd
    assert len(look_table(found).splitlines()) == 2 + len(found)


def test_exclusions_are_counted_over_rounds_and_draws() -> None:
    rule = rules()["every-group"]
    assert rule is not None
    scoring = plain_scoring(SketchLayout(WIDTH, two_groups(WIDTH)))
    excluded, judged = exclusions(rule, rounds(boost=3.0), scoring, 2, "test")
    assert judged == 2 * 3 * 5
    assert excluded == 2 * 3  # the long one, in every round of every draw


def test_some_attackers_are_never_honest() -> None:
    setting = Setting(rounds=6, attacked=range(3, 5))
    assert setting.attacked_by(ATTACKS["replacement"]) == range(3, 5)
    assert setting.attacked_by(ATTACKS["replacement-from-first"]) == range(1, 5)
    assert {name for name in ATTACKS if ATTACKS[name].never_honest} == {
        f"{name}-from-first" for name in ("replacement", "edge-case", "constrain-and-scale")
    }
