"""The robustness table's figures, recomputed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.robust_plot import cells, draw
from benchmarks.robust_summary import minimax, summaries, summary_table
from benchmarks.robust_table import exclusions, figures, lifespan, table

EVERYBODY = ["honest-1", "honest-2", "malicious-1"]
HONEST = EVERYBODY[:2]


def row(attack: str, rule: str, rounds: list[tuple[float | None, list[str]]], **more: Any) -> Any:
    """A row with two honest clients; rounds 2 and 3 are attacked."""
    entries = [
        {"round": number, "asr": asr, "accepted": accepted}
        for number, (asr, accepted) in enumerate(rounds, start=1)
    ]
    success = [asr for asr, _ in rounds[1:3] if asr is not None]
    return {
        "benchmark": "robustness", "attack": attack, "dose": 1.0, "rule": rule, "alpha": 1.0,
        "seed": 1, "scoring": "plain", "honest": 2, "malicious": int(attack != "none"),
        "attacked": [2, 3], "per_round": entries, "asr": max(success) if success else None,
        "accuracy": 0.8,
    } | more  # fmt: skip


ALONE = row("none", "none", [(None, HONEST)] * 5, accuracy=0.82)
OPEN = row("scaled", "none", [(0.0, EVERYBODY), (0.4, EVERYBODY), (0.9, EVERYBODY),
                              (0.6, EVERYBODY), (0.3, EVERYBODY)])  # fmt: skip
HELD = row("scaled", "ours", [(0.0, EVERYBODY), (0.1, HONEST), (0.05, EVERYBODY),
                              (0.0, ["honest-1", "malicious-1"]), (0.0, EVERYBODY)])  # fmt: skip


def test_exclusions_are_counted_in_client_rounds() -> None:
    # The attacker is out in one of its two rounds, honest clients in one of 5 * 2.
    assert exclusions(HELD) == (1, 2, 1, 10)
    assert exclusions(ALONE) == (0, 0, 0, 10)


def test_a_backdoor_lives_until_it_fails_every_other_time() -> None:
    assert lifespan(OPEN) == 1
    assert lifespan(HELD) == 0


def test_a_cell_is_the_mean_of_its_seeds() -> None:
    second = HELD | {"seed": 2, "asr": 0.3, "accuracy": 0.7}
    found = {(f.attack, f.rule): f for f in figures([ALONE, OPEN, HELD, second])}
    cell = found["scaled", "ours"]
    assert cell.seeds == 2
    assert cell.asr == pytest.approx(0.2)
    assert cell.caught == pytest.approx(0.5)
    assert cell.wrongly == pytest.approx(0.1)
    assert cell.accuracy == pytest.approx(0.75)
    assert cell.alone is None, "seed 2 has no federation of the honest clients alone"
    assert found["scaled", "none"].difference == pytest.approx(-0.02)
    assert found["none", "none"].asr is None


def test_the_minimax_is_over_the_cells_that_all_rules_met() -> None:
    rounds: list[tuple[float | None, list[str]]] = [(0.95, EVERYBODY)] * 5
    worse = row("clones", "none", rounds)
    best = minimax([ALONE, OPEN, worse, HELD])
    assert best is not None
    assert [cell[0] for cell in best.cells] == ["scaled"], "ours was not tried against clones"
    assert [(rule, asr) for rule, asr, _ in best.worst] == [("ours", 0.1), ("none", 0.9)]
    best = minimax([ALONE, OPEN, worse, HELD, row("clones", "ours", rounds, asr=0.4)])
    assert best is not None
    assert best.worst[0] == ("ours", 0.4, ("clones", 1.0, 1.0, 1))
    assert "over 2 cells that 2 rules met (clones, scaled): **ours**" in best.to_text()
    only = minimax([OPEN, worse, HELD], rules=("none",))
    assert only is not None
    assert len(only.cells) == 2
    assert minimax([]) is None
    assert minimax([OPEN, row("clones", "ours", rounds, asr=0.4)]) is None


def test_a_line_of_the_summary_says_the_worst_of_its_doses_and_seeds() -> None:
    second = HELD | {"seed": 2, "asr": 0.3, "accuracy": 0.7}
    alone = ALONE | {"seed": 2, "accuracy": 0.75}
    double = HELD | {"dose": 2.0, "asr": 0.2, "scoring": "encrypted"}
    rows = [ALONE, HELD, second, alone, double, OPEN, HELD | {"dose": 2.0, "asr": 0.9}]
    lines = summaries(rows)
    assert [(line.rule, line.attack) for line in lines] == [
        ("none", "none"), ("none", "scaled"), ("ours", "scaled"),
    ]  # fmt: skip
    line = lines[-1]
    assert (line.doses, line.seeds, line.cases, line.encrypted) == ((1.0, 2.0), (1, 2), 3, 1)
    assert (line.mean, line.worst) == pytest.approx((0.2, 0.3)), "the encrypted row of x2 counts"
    assert (line.difference, line.least) == pytest.approx((-0.03, -0.05))
    assert (line.caught, line.wrongly) == (0.5, 0.1)
    text = summary_table(lines).splitlines()[-1]
    assert text.startswith("| scaled | ours | 1 | 1, 2 | 2 | 1/3 | 20.0 | 30.0 |")


def test_the_table_has_a_line_for_each_cell() -> None:
    lines = table(figures([ALONE, OPEN, HELD])).splitlines()
    assert len(lines) == 2 + 3
    assert (
        "| scaled | 1 | none | plain | 1 | 1 | 90.0 | 30.0 | 1.0 | 80.0 | 82.0 | -2.0 |" in lines[3]
    )


def test_the_picture_prefers_encrypted_rows(tmp_path: Path) -> None:
    encrypted = HELD | {"scoring": "encrypted", "asr": 0.25}
    found = figures([ALONE, OPEN, HELD, encrypted])
    rows, columns, values = cells(found)
    assert rows == ["scaled x1"]
    assert columns == ["none\nalpha 1", "ours\nalpha 1"]
    assert values == [[0.9, 0.25]]
    pytest.importorskip("matplotlib", reason="the picture needs the extra bench")
    draw(found, tmp_path / "one.svg")
    draw(found, tmp_path / "two.svg")
    assert b"<svg" in (tmp_path / "one.svg").read_bytes()
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
