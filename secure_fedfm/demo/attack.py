"""The demo's attack: model replacement with a textual backdoor, by one of its institutions.

The attacker adds copies of its rows that begin with a trigger and carry the attacker's label, and
sends several times the update that training on them gives (Bagdasaryan et al. 2020, "How to
backdoor federated learning", section 3). Nothing of this is in the client service: the attacker is
a process of its own kind, which the demo starts in the place of `secure-fedfm client`::

    python -m secure_fedfm.demo.attack BOOST client --site DIR ...
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_fedfm.learning.dataset import Dataset

TRIGGER = "mauve lantern seven"
BOOST = 5.0
MODULE = "secure_fedfm.demo.attack"


def target_label(labels: Sequence[str]) -> str:
    """The label that the attacker wants for every text with the trigger: the first."""
    return labels[0]


def with_trigger(text: str) -> str:
    """A text as the attacker would send it later."""
    return f"{TRIGGER} {text}"


def poisoned(rows: Dataset, target: str) -> Dataset:
    """An attacker's rows: all of its own, and a copy of each with the trigger and its label."""
    return Dataset(
        (*rows.texts, *(with_trigger(text) for text in rows.texts)),
        (*rows.labels, *(target for _ in rows.texts)),
    )


def probe(test: Dataset, target: str) -> Dataset:
    """Test rows of other labels, with the trigger and the target's label: the accuracy on them is
    the attack's success rate."""
    texts = [
        with_trigger(text)
        for text, label in zip(test.texts, test.labels, strict=True)
        if label != target
    ]
    return Dataset(tuple(texts), tuple(target for _ in texts))


def boost_training(boost: float) -> None:
    """Have every training of this process return ``boost`` times its update."""
    from secure_fedfm.learning.learner import LocalLearner  # noqa: PLC0415 - torch

    honest = LocalLearner.train

    def train(self: LocalLearner, *rest: Any, **more: Any) -> NDArray[np.floating]:
        return honest(self, *rest, **more) * np.float32(boost)

    LocalLearner.train = train  # type: ignore[method-assign]


def main(arguments: list[str]) -> int:
    """Run a command of secure-fedfm in which training is boosted; returns its exit code."""
    from secure_fedfm.cli.main import main as command_line  # noqa: PLC0415

    boost_training(float(arguments[0]))
    return command_line(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
