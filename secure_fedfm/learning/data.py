"""Reading labelled text: CSV, JSONL, Parquet, a folder of train/test files, or a hub data set."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from secure_fedfm.errors import DataError
from secure_fedfm.learning.dataset import UNLABELLED, Dataset, TrainTest, hash_split

TEXT_COLUMNS = ("text", "sentence", "query", "utterance", "question", "content", "message")
LABEL_COLUMNS = ("label", "category", "intent", "class", "target", "label_text")
Row = Mapping[str, object]

# A ticket or a report can be long; the csv module's default limit of 128 KiB refuses some.
csv.field_size_limit(16 * 1024 * 1024)


def load_data(
    source: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    labelled: bool = True,
) -> TrainTest:
    """Load `source` and bring it into train and test rows.

    Args:
        source: a .csv, .tsv, .jsonl or .parquet file; a folder with train.* and, if it has one,
            test.* of these kinds; otherwise the name of a data set on the hub ("owner/name").
        text_column, label_column: column names; by default the first of TEXT_COLUMNS and
            LABEL_COLUMNS that is there, compared without case.
        labelled: False for a causal-lm task, which needs no label column.

    Without test rows of its own the data set is split by `hash_split`.

    Raises:
        DataError: nothing there, unknown kind of file, missing column, empty text, unknown label.
    """
    wanted = _Columns(text_column, label_column, labelled)
    path = Path(source)
    if path.is_dir():
        train_file = _one_file(path, "train")
        if train_file is None:
            raise DataError(
                f"folder {path} has no train file; expected train.csv, train.tsv, train.jsonl or "
                f"train.parquet, found {', '.join(sorted(p.name for p in path.iterdir())[:10])}"
            )
        train = read_file(train_file, wanted)
        test_file = _one_file(path, "test")
        if test_file is not None:
            return TrainTest(train, read_file(test_file, wanted), f"folder {path.name}")
        return TrainTest(*hash_split(train), f"folder {path.name}, split by hash")
    if path.is_file():
        return TrainTest(*hash_split(read_file(path, wanted)), f"file {path.name}, split by hash")
    if path.suffix.lower() in _READERS or path.is_absolute() or str(source).startswith("."):
        raise DataError(f"no file or folder {path}; check the path")
    return _from_hub(str(source), wanted)


def load_training_rows(
    source: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    labelled: bool = True,
) -> Dataset:
    """All training rows of a client: a single file is used whole, nothing is held out for tests.

    Arguments and errors as for `load_data`.
    """
    path = Path(source)
    if path.is_file():
        return read_file(path, _Columns(text_column, label_column, labelled))
    return load_data(
        source, text_column=text_column, label_column=label_column, labelled=labelled
    ).train


class _Columns:
    """Finds the text and the label column among the names of a table."""

    def __init__(self, text: str | None, label: str | None, labelled: bool) -> None:
        self._text, self._label, self.labelled = text, label, labelled

    def find(self, names: Sequence[str], where: str) -> tuple[str, str | None]:
        text = self._pick(names, self._text, TEXT_COLUMNS, "text", where)
        if not self.labelled:
            return text, None
        return text, self._pick(names, self._label, LABEL_COLUMNS, "label", where)

    @staticmethod
    def _pick(
        names: Sequence[str], given: str | None, usual: Sequence[str], what: str, where: str
    ) -> str:
        if given is not None:
            if given in names:
                return given
            expected = f"the column {given!r} that was asked for"
        else:
            folded = {name.strip().lower(): name for name in names}
            for candidate in usual:
                if candidate in folded:
                    return folded[candidate]
            expected = f"one of {', '.join(usual)}"
        raise DataError(
            f"{where} has no {what} column: found columns {', '.join(names) or '(none)'}; "
            f"expected {expected}. Rename the column or name it with --{what}-column"
        )


def read_file(path: Path, columns: _Columns | None = None) -> Dataset:
    """All rows of one CSV, TSV, JSONL or Parquet file, in file order.

    Raises:
        DataError: see `load_data`.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path.name} is of unknown kind {path.suffix!r}; expected {', '.join(_READERS)}"
        )
    try:
        names, rows = reader(path)
        return _to_dataset(names, rows, columns or _Columns(None, None, True), path.name)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} cannot be read ({error}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror}") from error


def _to_dataset(
    names: Sequence[str], rows: Iterable[Row], columns: _Columns, where: str
) -> Dataset:
    text_name, label_name = columns.find(names, where)
    texts, labels = [], []
    for number, row in enumerate(rows, start=1):
        text = row.get(text_name)
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{where}: row {number} has no text in {text_name!r}; remove or fill it"
            )
        texts.append(text)
        if label_name is None:
            labels.append(UNLABELLED)
            continue
        label = row.get(label_name)
        # bool before str(): "True" from a Parquet bool is surely not what was meant as a class.
        if label is None or isinstance(label, (bool, float)) or not str(label).strip():
            raise DataError(
                f"{where}: row {number} has {label!r} in {label_name!r}; expected a label, "
                "text or whole number"
            )
        labels.append(str(label).strip())
    if not texts:
        raise DataError(f"{where} has no rows; give at least a few per label")
    return Dataset(tuple(texts), tuple(labels))


def _read_separated(path: Path, delimiter: str) -> tuple[list[str], Iterable[Row]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        rows: list[Row] = list(reader)
        return list(reader.fieldnames or []), rows


def _read_jsonl(path: Path) -> tuple[list[str], Iterable[Row]]:
    rows: list[Row] = []
    names: dict[str, None] = {}
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path.name}: line {number} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{path.name}: line {number} is not a JSON object; expected one a line")
        rows.append(row)
        names.update(dict.fromkeys(row))
    return list(names), rows


def _read_parquet(path: Path) -> tuple[list[str], Iterable[Row]]:
    try:
        import pyarrow  # noqa: PLC0415  (heavy, and only Parquet needs it)
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise DataError(
            f"{path.name} needs pyarrow; install secure-fedfm[federation] or give CSV or JSONL"
        ) from error
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path.name} is not a Parquet file ({error})") from error
    return list(table.column_names), table.to_pylist()


_READERS: dict[str, Callable[[Path], tuple[list[str], Iterable[Row]]]] = {
    ".csv": lambda path: _read_separated(path, ","),
    ".tsv": lambda path: _read_separated(path, "\t"),
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _one_file(folder: Path, stem: str) -> Path | None:
    found = [folder / f"{stem}{suffix}" for suffix in _READERS]
    found = [path for path in found if path.is_file()]
    if len(found) > 1:
        raise DataError(
            f"folder {folder} has {' and '.join(p.name for p in found)}; keep one {stem} file"
        )
    return found[0] if found else None


def _from_hub(name: str, columns: _Columns) -> TrainTest:
    try:
        import datasets  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise DataError(
            f"no file or folder {name!r}, and hub data sets need an extra: "
            "pip install 'secure-fedfm[hub]', or give a path"
        ) from error
    try:
        loaded = datasets.load_dataset(name)
    # The library lets anything through, from its own errors to those of four network stacks.
    except Exception as error:
        raise DataError(
            f"no file or folder {name!r}, and no hub data set of that name could be loaded "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no detail'}"
            "); check the spelling and the connection, or give a path"
        ) from error
    if "train" not in loaded:
        raise DataError(f"hub data set {name!r} has splits {', '.join(loaded)}; expected train")
    train = _hub_split(loaded["train"], columns, f"{name} (train)")
    for split in ("test", "validation"):
        if split in loaded:
            test = _hub_split(loaded[split], columns, f"{name} ({split})")
            return TrainTest(train, test, f"hub data set {name}, {split} rows as test")
    return TrainTest(*hash_split(train), f"hub data set {name}, split by hash")


def _hub_split(table: Any, columns: _Columns, where: str) -> Dataset:
    names = list(table.column_names)
    _, label_name = columns.find(names, where)
    feature = table.features.get(label_name) if label_name is not None else None
    if label_name is not None and feature is not None and hasattr(feature, "int2str"):
        # ClassLabel stores numbers; people know the names.
        rows: Iterable[Row] = (
            {**row, label_name: feature.int2str(row[label_name])} for row in table
        )
    else:
        rows = table
    return _to_dataset(names, rows, columns, where)
