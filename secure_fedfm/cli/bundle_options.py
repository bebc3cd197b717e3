"""The bundle and what is held against it, as every verb that verifies one takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedfm_audit.watermark.claim import MAX_CLAIM_BYTES

BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Bundle folder or zip.", exists=True)
]
PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Your own tlog-policy: the log and witness keys that you trust.",
    ),
]
CharterHashOption = Annotated[
    str | None,
    typer.Option("--charter-hash", metavar="HEX", help="SHA-256 of the charter that you expect."),
]
TsaRootOption = Annotated[
    Path | None,
    typer.Option(
        "--tsa-root",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="PEM certificates of the time-stamping authority that must have stamped it.",
    ),
]
AdapterOption = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Adapter folder that must be the one the log ends with.",
    ),
]
OpeningOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--opening",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="A mark that its owner shows (`watermark verify --reveal`), to be measured in the "
        "folder of --adapter; repeat for more.",
    ),
]
FullOption = Annotated[
    bool,
    typer.Option(
        "--full", help="Recompute privacy ledgers by PLD too (seconds for each distinct state)."
    ),
]


def read_openings(paths: list[Path] | None) -> tuple[bytes, ...]:
    """The openings in these files, without the line end that `watermark verify` writes."""
    found = []
    for path in paths or ():
        with path.open("rb") as stream:
            found.append(stream.read(MAX_CLAIM_BYTES + 2).removesuffix(b"\n"))
    return tuple(found)
