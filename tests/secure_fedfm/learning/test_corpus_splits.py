"""The generated corpus and the splits: functions of a seed, and partitions."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fedfm.errors import DataError
from secure_fedfm.learning.corpus import demo_corpus
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.seeds import generator, public_uniform
from secure_fedfm.learning.splits import dirichlet_split, iid_split, label_counts


def test_corpus_is_a_function_of_its_seed() -> None:
    assert demo_corpus(1) == demo_corpus(1)
    assert demo_corpus(1).train.texts != demo_corpus(2).train.texts


def test_corpus_has_the_promised_shape() -> None:
    corpus = demo_corpus()
    assert (len(corpus.train), len(corpus.test)) == (4200, 600)
    names = corpus.train.label_names()
    assert len(names) == 12
    assert label_counts([corpus.train, corpus.test], names) == [[350] * 12, [50] * 12]
    texts = corpus.train.texts + corpus.test.texts
    assert len(set(texts)) == 4800
    assert not any("{" in text or "}" in text for text in texts)
    assert "synthetic" in corpus.description
    with pytest.raises(DataError, match="up to 20000"):
        demo_corpus(train_rows=1_000_000)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[Dataset, int]:
    clients = draw(st.integers(1, 8))
    labels = draw(st.lists(st.sampled_from("abc"), min_size=clients, max_size=60))
    return Dataset(tuple(f"t{i}" for i in range(len(labels))), tuple(labels)), clients


def _is_partition(data: Dataset, parts: tuple[Dataset, ...]) -> bool:
    rows = sorted((t, la) for part in parts for t, la in zip(part.texts, part.labels, strict=True))
    return rows == sorted(zip(data.texts, data.labels, strict=True))


@settings(deadline=None)
@given(labelled(), st.integers(0, 1000))
def test_iid_split_is_an_even_partition(case: tuple[Dataset, int], seed: int) -> None:
    data, clients = case
    parts = iid_split(data, clients, seed)
    assert _is_partition(data, parts)
    sizes = [len(part) for part in parts]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert parts == iid_split(data, clients, seed)


@settings(deadline=None)
@given(labelled(), st.sampled_from([0.01, 0.1, 1.0, 100.0]), st.integers(0, 1000))
def test_dirichlet_split_is_a_partition_that_leaves_nobody_empty(
    case: tuple[Dataset, int], alpha: float, seed: int
) -> None:
    data, clients = case
    parts = dirichlet_split(data, clients, alpha, seed)
    assert _is_partition(data, parts)
    assert min(len(part) for part in parts) >= 1
    assert parts == dirichlet_split(data, clients, alpha, seed)


def test_small_alpha_skews_labels_and_large_alpha_does_not() -> None:
    corpus = demo_corpus().train
    names = corpus.label_names()

    def mean_largest_share(alpha: float) -> float:
        counts = label_counts(dirichlet_split(corpus, 5, alpha, 3), names)
        columns = list(zip(*counts, strict=True))
        return float(np.mean([max(column) / sum(column) for column in columns]))

    assert mean_largest_share(0.1) > 0.6
    assert mean_largest_share(1000.0) < 0.25


def test_splits_refuse_what_cannot_be() -> None:
    data = Dataset(("a",), ("x",))
    with pytest.raises(DataError, match="at least one"):
        iid_split(data, 2, 1)
    with pytest.raises(DataError, match="alpha"):
        dirichlet_split(data, 1, 0.0, 1)


def test_public_values_are_pinned_for_ever() -> None:
    """A change here would give new clients another initial adapter than old ones."""
    values = public_uniform((64, 32), 0.5, "initial adapter", 1, "x")
    assert hashlib.sha256(values.tobytes()).hexdigest() == (
        "cd4589953a58e9c0f38d2d2540e63e935c3f3c1628e5fde99655e4fd023dca95"
    )
    assert float(abs(values).max()) < 0.5
    assert abs(float(values.mean())) < 0.02
    assert float(values.std()) == pytest.approx(1 / 12**0.5, rel=0.05)


def test_stream_names_do_not_run_together() -> None:
    assert generator("ab", "c").integers(2**60) != generator("a", "bc").integers(2**60)
