"""`audit split-view`: what the evidence of two histories of a log proves, on the base install."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedfm_audit.bundle import read_bundle
from fedfm_audit.errors import ProofError
from fedfm_audit.split_view import (
    MAX_DOCUMENT_BYTES,
    SplitViewDocument,
    Verdict,
    judge_split_view,
)
from fedfm_crypto.errors import FedFMError
from secure_fedfm.cli.options import JsonOption
from secure_fedfm.cli.outcome import Exit, explain
from secure_fedfm.cli.output import emit, say


def split_view(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            exists=True,
            dir_okay=False,
            help="SITE/split-view/*.json, of one institution or of several.",
        ),
    ],
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            metavar="BUNDLE",
            exists=True,
            help="A bundle of the federation, to hold the heads against.",
        ),
    ] = None,
    charter_hash: Annotated[
        str | None,
        typer.Option(
            "--charter-hash", metavar="HEX", help="SHA-256 of the charter that you expect."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a client that was shown two histories of the log can prove, offline.

    Ends with 0 if it is PROVEN that the log's key signed two histories, with 1 if it is only
    CLAIMED (by the signature of a party, whose own file decides), NOT SHOWN, or not signed.
    """
    try:
        found = judge_split_view(
            [SplitViewDocument.decode(_read(path)) for path in files],
            bundle=None if bundle is None else read_bundle(bundle),
            charter_sha256=None if charter_hash is None else charter_hash.lower(),
        )
    except FedFMError as error:
        say(f"FAILED  {explain(error)}")
        raise typer.Exit(Exit.CHECK_FAILED) from error
    say(found.to_text().rstrip("\n"))
    if as_json:
        emit(found.to_json())
    raise typer.Exit(Exit.OK if found.verdict is Verdict.PROVEN else Exit.CHECK_FAILED)


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ProofError(f"{path} has more than {MAX_DOCUMENT_BYTES} bytes")
    return data
