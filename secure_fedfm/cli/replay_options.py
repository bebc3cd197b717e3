"""`--replay` and `--replay-rounds` of the verbs that verify a bundle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

ReplayOption = Annotated[
    Path | None,
    typer.Option(
        "--replay",
        metavar="ARCHIVE",
        exists=True,
        file_okay=False,
        help="Replay archive: repeat the coordinator's sums from it, bit for bit.",
    ),
]
ReplayRoundsOption = Annotated[
    str | None,
    typer.Option(
        "--replay-rounds",
        metavar="A-B",
        help="Repeat these rounds only, where an archive keeps just the latest.",
    ),
]


def rounds_asked(text: str | None) -> range | None:
    """``7`` or ``7-12`` as round numbers, the last one included.

    Raises
    ------
    typer.BadParameter
        if it is neither.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,5})(?:-([1-9][0-9]{0,5}))?", text)
    first, last = (0, 0) if found is None else (int(found[1]), int(found[2] or found[1]))
    if not 0 < first <= last:
        raise typer.BadParameter(f"{text!r}; expected a round or A-B", param_hint="--replay-rounds")
    return range(first, last + 1)
