"""Generator of ``hdbscan_majorities.json``: scikit-learn's HDBSCAN, as FLAME uses it.

    python tests/vectors/hdbscan_majorities.py > tests/vectors/hdbscan_majorities.json

scikit-learn is no dependency of the project; the file was made with the version that it names.
Distances are cosine distances in steps of 1e-6, so that the file holds them exactly.
"""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np


def main() -> None:
    """Write the JSON to standard output."""
    sklearn = importlib.import_module("sklearn")
    cluster = importlib.import_module("sklearn.cluster")
    cases = []
    for seed in range(12):
        count, generator = 5 + seed, np.random.default_rng(seed)
        vectors = generator.normal(size=60) + 0.3 * (1 + seed % 4) * generator.normal(
            size=(count, 60)
        )
        far = seed % 5
        vectors[:far] = generator.normal(size=60) + 0.2 * generator.normal(size=(far, 60))
        unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
        steps = np.rint(1e6 * (1 - unit @ unit.T)).astype(int)
        np.fill_diagonal(steps, 0)
        labels = cluster.HDBSCAN(
            min_cluster_size=count // 2 + 1,
            min_samples=1,
            metric="precomputed",
            allow_single_cluster=True,
            copy=True,
        ).fit_predict(steps / 1e6)
        cases.append({"distances": steps.tolist(), "majority": [int(x == 0) for x in labels]})
    found = {"scikit-learn": sklearn.__version__, "cases": cases}
    json.dump(found, sys.stdout, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
