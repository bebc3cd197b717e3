"""How the demo deals one data set out to n clients; a real federation has its rows already.

Both splits are partitions of the rows in which every client has at least one, and functions of
(data, clients, seed) only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secure_fedfm.errors import DataError
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.seeds import generator


def iid_split(data: Dataset, clients: int, seed: int) -> tuple[Dataset, ...]:
    """Shuffle and deal like cards: sizes differ by at most one.

    Raises:
        DataError: fewer rows than clients.
    """
    _check(data, clients)
    order = generator("iid split", seed).permutation(len(data))
    return tuple(data.rows(sorted(order[i::clients].tolist())) for i in range(clients))


def dirichlet_split(data: Dataset, clients: int, alpha: float, seed: int) -> tuple[Dataset, ...]:
    """Label skew (Hsu et al. 2019, arXiv 1909.06335): for each label, draw the clients' shares
    from a symmetric Dirichlet(alpha) and cut the label's shuffled rows accordingly.

    alpha -> infinity approaches equal shares, .1 gives most clients a few labels only. A client
    left without rows gets one from the client with the most.

    Raises:
        DataError: fewer rows than clients, or alpha not positive.
    """
    _check(data, clients)
    if not 0 < alpha < float("inf"):
        raise DataError(f"Dirichlet alpha is {alpha}; expected a positive number such as 0.5")
    random = generator("dirichlet split", seed)
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in data.label_names():
        rows = np.array([i for i, found in enumerate(data.labels) if found == label])
        random.shuffle(rows)
        shares = random.dirichlet(np.full(clients, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(int)
        for part, piece in zip(parts, np.split(rows, cuts), strict=True):
            part.extend(piece.tolist())
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return tuple(data.rows(sorted(part)) for part in parts)


def label_counts(parts: Sequence[Dataset], labels: Sequence[str]) -> list[list[int]]:
    """Rows per client and label, to show how skewed a split is."""
    return [[part.labels.count(label) for label in labels] for part in parts]


def _check(data: Dataset, clients: int) -> None:
    if clients < 1 or len(data) < clients:
        raise DataError(f"{len(data)} rows for {clients} clients; every client needs at least one")
