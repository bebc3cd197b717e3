"""`evaluate`: how good an exported adapter is on given rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secure_fedfm.cli.options import JsonOption, LabelColumnOption, TextColumnOption
from secure_fedfm.cli.outcome import Exit, require
from secure_fedfm.cli.output import emit, say


def evaluate(
    adapter: Annotated[
        Path,
        typer.Option(
            "--adapter", metavar="DIR", exists=True, file_okay=False, help="Exported adapter."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DATA",
            help="A file (all its rows), a folder (its test rows) or a hub data set.",
        ),
    ],
    text_column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first so many rows.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="DIR",
            file_okay=False,
            help="Folder of the base model, where it is not found by its name.",
        ),
    ] = None,
    at_least: Annotated[
        float | None,
        typer.Option(
            "--at-least", min=0.0, max=1.0, help="End with 1 if the accuracy is below this."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure an exported adapter: accuracy and loss, loaded through PEFT's public API."""
    require("torch", "transformers", "peft")
    from secure_fedfm.learning.data import load_data, load_training_rows  # noqa: PLC0415
    from secure_fedfm.learning.evaluate import evaluate_folder  # noqa: PLC0415
    from secure_fedfm.learning.export import read_manifest  # noqa: PLC0415

    labelled = read_manifest(adapter).task.kind == "classification"
    if Path(data).is_file():
        rows = load_training_rows(
            data, text_column=text_column, label_column=label_column, labelled=labelled
        )
    else:
        rows = load_data(
            data, text_column=text_column, label_column=label_column, labelled=labelled
        ).test
    if limit is not None:
        rows = rows.rows(range(min(limit, len(rows))))
    found = evaluate_folder(adapter, rows, model)
    say(f"accuracy {found.accuracy:.4f}, loss {found.loss:.4f} on {found.rows} rows")
    if as_json:
        emit(
            {
                "adapter": str(adapter),
                "data": data,
                "accuracy": found.accuracy,
                "loss": found.loss,
                "rows": found.rows,
            }
        )
    if at_least is not None and found.accuracy < at_least:
        say(f"below the bar of {at_least:.4f}")
        raise typer.Exit(Exit.CHECK_FAILED)
