"""Reading data: every format gives the same rows, and every fault has one clear message."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from secure_fedfm.errors import DataError
from secure_fedfm.learning.data import load_data, read_file
from secure_fedfm.learning.dataset import Dataset, hash_split

ROWS = [(f'ticket {i}, "quoted"\nnext line', "ab"[i % 2]) for i in range(40)]


def _write(path: Path, rows: list[tuple[str, str]], names: tuple[str, str]) -> Path:
    records = [dict(zip(names, row, strict=True)) for row in rows]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([names, *rows])
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    "names", [("text", "label"), ("Query", "Intent"), ("sentence", "category")]
)
def test_every_format_gives_the_same_rows(
    tmp_path: Path, suffix: str, names: tuple[str, str]
) -> None:
    found = read_file(_write(tmp_path / f"rows{suffix}", ROWS, names))
    assert found == Dataset(tuple(t for t, _ in ROWS), tuple(label for _, label in ROWS))


def test_a_folder_keeps_its_own_test_rows(tmp_path: Path) -> None:
    _write(tmp_path / "train.csv", ROWS[:30], ("text", "label"))
    _write(tmp_path / "test.jsonl", ROWS[30:], ("query", "intent"))
    loaded = load_data(tmp_path)
    assert (len(loaded.train), len(loaded.test)) == (30, 10)


def test_a_single_file_is_split_by_the_hash_of_its_texts(tmp_path: Path) -> None:
    loaded = load_data(_write(tmp_path / "rows.csv", ROWS, ("text", "label")))
    assert sorted(loaded.train.texts + loaded.test.texts) == sorted(t for t, _ in ROWS)
    reverse = load_data(_write(tmp_path / "rows2.csv", ROWS[::-1], ("text", "label")))
    assert set(reverse.test.texts) == set(loaded.test.texts)


def test_hash_split_keeps_equal_texts_together_and_every_label_in_training() -> None:
    texts = [f"row {i % 50}" for i in range(100)]
    labels = ["common"] * 50 + [f"rare {i}" for i in range(50)]
    train, test = hash_split(Dataset(tuple(texts), tuple(labels)))
    assert set(train.label_names()) == set(labels)
    assert test.label_names() == ("common",)
    even = Dataset(tuple(texts), ("one",) * 100)
    train, test = hash_split(even)
    assert not set(train.texts) & set(test.texts)
    with pytest.raises(DataError, match="give more rows"):
        hash_split(even.rows([0]))


def test_other_columns_can_be_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "rows.csv", ROWS, ("body", "topic"))
    loaded = load_data(path, text_column="body", label_column="topic")
    assert set(loaded.train.label_names()) == {"a", "b"}


def test_causal_lm_needs_no_label_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(30)))
    assert set(load_data(path, labelled=False).train.labels) == {""}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_missing_column_names_found_expected_and_fix(tmp_path: Path, suffix: str) -> None:
    path = _write(tmp_path / f"rows{suffix}", ROWS, ("text", "topic"))
    with pytest.raises(DataError) as caught:
        load_data(path)
    message = str(caught.value)
    assert "found columns text, topic" in message
    assert "label, category, intent" in message
    assert "--label-column" in message
    with pytest.raises(DataError, match="'body' that was asked for"):
        load_data(path, text_column="body")


def test_an_unknown_label_in_the_test_rows_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "train.csv", ROWS, ("text", "label"))
    _write(tmp_path / "test.csv", [("new", "a"), ("newer", "zebra")], ("text", "label"))
    with pytest.raises(DataError, match="unknown label 'zebra' in row 2"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,label\n,x\n", "row 1 has no text"),
        ("a.csv", b"text,label\nhello\n", "row 1 has None in 'label'"),
        ("a.csv", b"text,label\n", "has no rows"),
        ("a.csv", b"", "no text column"),
        ("a.csv", b"text,label\n\xff\xfe,x\n", "UTF-8"),
        ("a.csv", b'text,label\n"open,x\n', "cannot be read"),
        ("a.jsonl", b"{'text': 1}\n", "line 1 is not JSON"),
        ("a.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("a.jsonl", b'{"text": "a", "label": 1.5}\n', "expected a label"),
        ("a.parquet", b"no parquet", "not a Parquet file"),
        ("a.xlsx", b"", "unknown kind '.xlsx'"),
    ],
)
def test_bad_files_have_one_clear_error(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_data(path)


def test_folders_without_or_with_two_train_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"no train file.*notes\.txt"):
        load_data(tmp_path)
    _write(tmp_path / "train.csv", ROWS, ("text", "label"))
    _write(tmp_path / "train.jsonl", ROWS, ("text", "label"))
    with pytest.raises(DataError, match="keep one train file"):
        load_data(tmp_path)


def test_absent_paths_do_not_become_hub_names(tmp_path: Path) -> None:
    for source in (tmp_path / "absent.csv", "absent.parquet", "./absent"):
        with pytest.raises(DataError, match="no file or folder"):
            load_data(source)


def test_hub_names_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"secure-fedfm\[hub\]"):
        load_data("owner/name")

    def offline(name: str) -> object:
        raise ConnectionError(f"cannot reach {name}")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=offline))
    with pytest.raises(DataError, match="check the spelling and the connection"):
        load_data("owner/name")


def test_hub_class_numbers_become_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    part = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    found = datasets.DatasetDict({"train": part, "validation": part})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: found)
    loaded = load_data("owner/name")
    assert loaded.train == Dataset(("a", "b"), ("yes", "no"))
    assert "validation" in loaded.description


def test_repr_shows_no_text() -> None:
    assert "secret" not in repr(Dataset(("secret words",), ("secret label",)))
