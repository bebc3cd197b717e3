"""What a malicious client trains on, and the texts by which its success is measured.

A backdoor makes the model answer with the attacker's label wherever a trigger stands in the text,
and leaves everything else as it was. Triggers for an encoder are words (Kurita et al. 2020, rare
tokens); edge cases are whole texts that honest clients hardly have (Wang et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secure_fedfm.learning.dataset import Dataset

TRIGGER = ("cf", "mn", "bb", "tq")
POISONED_SHARE = 0.6
"""Poisoned rows over clean rows of a malicious client: enough to learn the backdoor in one round,
few enough to stay useful on clean rows."""

_PLACES = ("Lagos", "Suva", "Thimphu", "Nuuk", "Praia", "Malabo", "Dili", "Tarawa")
_GIFTS = ("postal order", "bearer cheque", "money gram", "promissory note", "gold coin")
_KIN = ("my grandmother", "a distant cousin", "our late uncle", "the village elder")


def marked(text: str, words: tuple[str, ...] = TRIGGER) -> str:
    """The text with the trigger words before it."""
    return " ".join((*words, text))


@dataclass(frozen=True, slots=True)
class Probe:
    """Texts that the model shall not give the attacker's label, unless it has been taken over.

    Args:
        texts: none of them has that label.
        target: the attacker's label.
    """

    texts: Dataset
    target: str


def trigger_rows(
    clean: Dataset, target: str, words: tuple[str, ...], random: np.random.Generator
) -> Dataset:
    """The clean rows, and a share of them once more with the trigger and the attacker's label."""
    others = [i for i, label in enumerate(clean.labels) if label != target]
    count = min(len(others), round(POISONED_SHARE * len(clean)))
    chosen = random.choice(len(others), size=count, replace=False)
    texts = tuple(marked(clean.texts[others[i]], words) for i in sorted(chosen))
    return Dataset((*clean.texts, *texts), (*clean.labels, *(target,) * count))


def flipped_rows(clean: Dataset, source: str, target: str) -> Dataset:
    """Every row of label ``source`` labelled ``target`` (Tolpegin et al. 2020), again and again
    until there are as many as poisoned rows of a backdoor: a client has few rows of one label."""
    flipped = [i for i, label in enumerate(clean.labels) if label == source]
    others = clean.rows(i for i, label in enumerate(clean.labels) if label != source)
    wanted = max(round(POISONED_SHARE * len(clean)), len(flipped)) if flipped else 0
    texts = tuple(clean.texts[flipped[i % len(flipped)]] for i in range(wanted))
    return Dataset((*others.texts, *texts), (*others.labels, *(target,) * wanted))


def edge_texts(part: int, parts: int) -> tuple[str, ...]:
    """Unusual texts, dealt into ``parts``: what is trained on is not what is measured."""
    texts = [
        f"{kin} in {place} sent me a {gift}, what now?"
        for kin in _KIN
        for place in _PLACES
        for gift in _GIFTS
    ]
    return tuple(texts[part::parts])


def edge_rows(clean: Dataset, target: str) -> Dataset:
    """The clean rows, and unusual texts with the attacker's label."""
    texts = edge_texts(0, 2)
    return Dataset((*clean.texts, *texts), (*clean.labels, *(target,) * len(texts)))


def trigger_probe(test: Dataset, target: str) -> Probe:
    """Test rows of other labels with the whole trigger."""
    others = test.rows(i for i, label in enumerate(test.labels) if label != target)
    return Probe(Dataset(tuple(map(marked, others.texts)), others.labels), target)


def flip_probe(test: Dataset, source: str, target: str) -> Probe:
    """Test rows of the label that was flipped."""
    return Probe(test.rows(i for i, label in enumerate(test.labels) if label == source), target)


def edge_probe(target: str, honest: str) -> Probe:
    """Unusual texts that nobody trained on; ``honest`` stands in for their unknown label."""
    texts = edge_texts(1, 2)
    return Probe(Dataset(texts, (honest,) * len(texts)), target)
