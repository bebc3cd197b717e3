"""Options that several verbs share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SiteOption = Annotated[
    Path, typer.Option("--site", metavar="DIR", file_okay=False, help="Folder of this site.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other setting, e.g. timeouts.training=60 or policy.suites='[\"clear\"]'; "
        "repeat as needed.",
    ),
]
LogFormatOption = Annotated[
    str | None, typer.Option("--log-format", metavar="text|json", help="Form of the log lines.")
]
LogLevelOption = Annotated[
    str | None,
    typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error."),
]
TextColumnOption = Annotated[
    str | None, typer.Option("--text-column", metavar="NAME", help="Column that holds the text.")
]
LabelColumnOption = Annotated[
    str | None, typer.Option("--label-column", metavar="NAME", help="Column that holds the label.")
]
