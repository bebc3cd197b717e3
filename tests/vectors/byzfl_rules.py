"""Generator of ``byzfl_rules.json``: what byzfl 0.0.11 answers on seeded vectors.

Never install byzfl beside the project (it pulls torchvision, which breaks peft). In an environment
of its own:

    python3 -m venv /tmp/byzfl && /tmp/byzfl/bin/pip install byzfl==0.0.11
    /tmp/byzfl/bin/python tests/vectors/byzfl_rules.py > tests/vectors/byzfl_rules.json

Vectors are integers, so that the file holds them exactly. byzfl's Krum and Multi-Krum sum over
n - f - 1 neighbours where Blanchard's has n - f - 2: its f is Blanchard's f + 1.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

CASES = ((5, 1), (7, 2), (9, 2), (10, 4), (11, 3))
WIDTH = 8


def vectors(count: int, far: int, seed: int) -> Any:
    """Integers around a common direction, ``far`` of them displaced."""
    generator = np.random.default_rng(seed)
    made = generator.integers(-40, 41, size=(count, WIDTH)) + generator.integers(-90, 91, WIDTH)
    made[:far] += generator.integers(-300, 301, size=(far, WIDTH))
    return made[generator.permutation(count)].astype(np.float64)


def answers(made: Any, byzantine: int) -> dict[str, list[float] | list[list[float]]]:
    """byzfl's outputs by name of the rule."""
    import byzfl  # type: ignore[import-not-found]

    rules = {
        "krum": byzfl.Krum(byzantine),
        "multi-krum": byzfl.MultiKrum(byzantine),
        "minimum-diameter": byzfl.MDA(byzantine),
        "geometric-median, 3 iterations": byzfl.GeometricMedian(nu=0.1, T=3),
        "geometric-median, 100 iterations": byzfl.GeometricMedian(nu=0.1, T=100),
        "nearest-neighbour-mixing": byzfl.NNM(byzantine),
        "coordinate-median": byzfl.Median(),
        "trimmed-mean": byzfl.TrMean(byzantine),
    }
    return {name: np.asarray(rule(made)).tolist() for name, rule in rules.items()}


def main() -> None:
    """Write the JSON to standard output."""
    cases = []
    for seed, (count, byzantine) in enumerate(CASES * 2):
        made = vectors(count, byzantine, seed)
        outputs = answers(made, byzantine)
        rounded = {name: np.round(value, 9).tolist() for name, value in outputs.items()}
        cases.append(
            {"byzantine": byzantine, "vectors": made.astype(int).tolist(), "outputs": rounded}
        )
    json.dump({"byzfl": "0.0.11", "cases": cases}, sys.stdout, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
