"""Labelled texts in memory: the form every source is brought into."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secure_fedfm.errors import DataError
from secure_fedfm.learning.seeds import fraction

UNLABELLED = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Texts and their labels, row by row. For a causal-lm task every label is UNLABELLED.

    The texts are private data: repr shows only counts.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise DataError(f"{len(self.texts)} texts but {len(self.labels)} labels; need as many")

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Dataset({len(self)} rows, {len(self.label_names())} labels)"

    def digest(self) -> bytes:
        """SHA-256 of all rows, in order. PRIVATE: whoever can guess the rows can check a guess."""
        digest = hashlib.sha256()
        for text, label in zip(self.texts, self.labels, strict=True):
            for part in (text.encode(), label.encode()):
                digest.update(len(part).to_bytes(8, "big") + part)
        return digest.digest()

    def label_names(self) -> tuple[str, ...]:
        """The distinct labels, sorted."""
        return tuple(sorted(set(self.labels)))

    def rows(self, indices: Iterable[int]) -> Dataset:
        """The rows with these indices, in this order."""
        chosen = list(indices)
        return Dataset(tuple(self.texts[i] for i in chosen), tuple(self.labels[i] for i in chosen))

    def label_indices(self, labels: Sequence[str]) -> tuple[int, ...]:
        """Each row's class number in `labels`.

        Raises:
            DataError: a row's label is not among `labels`; names it and the row.
        """
        index = {name: number for number, name in enumerate(labels)}
        for row, label in enumerate(self.labels, start=1):
            if label not in index:
                known = ", ".join(list(labels)[:8]) + (", ..." if len(labels) > 8 else "")
                raise DataError(
                    f"unknown label {label!r} in row {row}; the task knows {len(labels)} labels "
                    f"({known}): correct the row or agree on a charter that lists the label"
                )
        return tuple(index[label] for label in self.labels)


@dataclass(frozen=True, slots=True)
class TrainTest:
    """A data set with its test rows kept apart, and one line on what it is (for the model card)."""

    train: Dataset
    test: Dataset
    description: str

    def __post_init__(self) -> None:
        if not len(self.train) or not len(self.test):
            raise DataError(
                f"{len(self.train)} training and {len(self.test)} test rows; need some of each"
            )
        # Refuse now, with the row, rather than in the first evaluation an hour later.
        try:
            self.test.label_indices(self.train.label_names())
        except DataError as error:
            raise DataError(f"test rows: {error}") from None


def hash_split(data: Dataset, test_share: float = 0.2) -> tuple[Dataset, Dataset]:
    """Split without a seed: a row is a test row if the hash of its text says so.

    Adding rows later never moves old ones, equal texts land on the same side, and no order matters.
    Rows of a label that would have no training row stay in training.

    Returns:
        (train, test), both non-empty.

    Raises:
        DataError: the data are too few to give both parts a row.
    """
    is_test = [fraction("train-test", text) < test_share for text in data.texts]
    trained = {label for label, test in zip(data.labels, is_test, strict=True) if not test}
    chosen = [i for i, test in enumerate(is_test) if test and data.labels[i] in trained]
    taken = set(chosen)
    rest = [i for i in range(len(data)) if i not in taken]
    if not chosen or not rest:
        raise DataError(
            f"{len(data)} rows gave {len(chosen)} test rows; give more rows, or a folder with "
            "train.* and test.* files"
        )
    return data.rows(rest), data.rows(chosen)
