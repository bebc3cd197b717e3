"""`watermark probe` and `watermark verify-predictions`: a mark that shows in predictions alone
(base install; whoever has the suspect asks it)."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated

import typer

from fedfm_audit.storage import write_durably
from fedfm_audit.watermark.errors import CaseError
from fedfm_audit.watermark.statistic import Trials
from fedfm_audit.watermark.triggers import (
    TRIGGERS,
    HitFinding,
    judge_predictions,
    needed_hits,
    trigger_texts,
)
from secure_fedfm.cli.charter_files import read_charter_file
from secure_fedfm.cli.options import JsonOption
from secure_fedfm.cli.outcome import Exit
from secure_fedfm.cli.output import emit, say
from secure_fedfm.cli.watermark_judging import (
    ClaimOption,
    KeyOption,
    LoggedOption,
    SuspectsOption,
    plain_errors,
    shown_opening,
    write_private,
)
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.watermark.case_file import read_bounded
from secure_fedfm.watermark.shown_sets import check_shown, show

_FILE = {"metavar": "FILE", "exists": True, "dir_okay": False}
SubKeyOption = Annotated[int, typer.Option("--sub-key", min=0, help="With --key: which set.")]
OpeningOption = Annotated[
    Path | None,
    typer.Option("--opening", **_FILE, help="Instead: a claim with one of its keys, as shown."),
]
SuspectOption = Annotated[
    str, typer.Option("--suspect", metavar="NAME", help="Who is asked; a set is for one alone.")
]
RecordOption = Annotated[
    Path | None,
    typer.Option(
        "--record",
        metavar="FILE",
        dir_okay=False,
        help="Which set was shown to whom [default: beside the key or opening, .shown.json].",
    ),
]
CharterOption = Annotated[
    Path, typer.Option("--charter", **_FILE, help="The federation's charter, for its labels.")
]


def probe(
    suspect: SuspectOption,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", dir_okay=False, help="CSV of the texts.")
    ],
    claim: ClaimOption = None,
    key: KeyOption = None,
    sub_key: SubKeyOption = 0,
    opening: OpeningOption = None,
    record: RecordOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the trigger texts of one sub-key, to put to a suspect that gives predictions only.

    The file has one column, text, and says nothing of the classes that show the mark. Whoever has
    seen the texts can refuse them later, so a set that was shown to one suspect is refused for
    another one: each showing uses one sub-key up.
    """
    with plain_errors():
        shown = shown_opening(claim, key, sub_key, opening)
        if out.exists():
            raise ConfigurationError(f"{out} exists already; choose another --out")
        place = _record(record, key, opening)
        texts = trigger_texts(shown.claim, shown.key)
        show(place, shown.claim, shown.index, suspect)
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([["text"], *([text] for text in texts)])
    write_durably(out, written.getvalue().encode(), out.parent)
    left = shown.claim.keys - shown.index - 1
    say(f"{len(texts)} texts of set {shown.index} for {suspect} in {out}")
    say(f"  add a column `label` with what it answers; {left} sets after this one")
    if as_json:
        emit({"texts": str(out), "sub_key": shown.index, "sets": shown.claim.keys,
              "record": str(place)})  # fmt: skip


def verify_predictions(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS", exists=True, dir_okay=False, help="CSV: text, label."
        ),
    ],
    suspect: SuspectOption,
    charter: CharterOption,
    claim: ClaimOption = None,
    key: KeyOption = None,
    sub_key: SubKeyOption = 0,
    opening: OpeningOption = None,
    record: RecordOption = None,
    logged: LoggedOption = None,
    suspects: SuspectsOption = 1,
    reveal: Annotated[
        Path | None,
        typer.Option(
            "--reveal", metavar="FILE", dir_okay=False, help="With --key: write the opening."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look for a mark in a suspect's answers to the texts of `watermark probe`.

    Counts answers that are the class which the key gives each text. Any model that was made without
    the key has each with probability 1 / classes, so their number is binomial. Ends with 0 if it is
    as improbable as a claim needs (2^-40 over the tries, logged), with 1 if not.
    """
    if reveal is not None and opening is not None:
        raise typer.BadParameter("--reveal makes an opening; it goes with --key")
    with plain_errors():
        shown = shown_opening(claim, key, sub_key, opening)
        agreed = read_charter_file(charter).charter
        if agreed.federation != shown.claim.federation:
            raise CaseError(
                f"the charter is of federation {agreed.federation}, the claim of "
                f"{shown.claim.federation}; give the charter that the claim was logged for"
            )
        labels = tuple(getattr(agreed.task, "labels", None) or ())
        check_shown(_record(record, key, opening), shown.claim, shown.index, suspect)
        trials = Trials(logged, shown.claim.keys, suspects)
        found = judge_predictions(shown, labels, _answers(predictions), trials)
    if reveal is not None:
        write_private(reveal, shown.encode() + b"\n")
    say(_described(found))
    if as_json:
        emit({"claim_hash": shown.claim.digest().hex(), "sub_key": shown.index, "suspect": suspect,
              **found.to_json()})  # fmt: skip
    raise typer.Exit(Exit.OK if found.present else Exit.CHECK_FAILED)


def _record(record: Path | None, key: Path | None, opening: Path | None) -> Path:
    if record is not None:
        return record
    beside = key or opening
    assert beside is not None  # noqa: S101 - _opening has seen to it
    return beside.with_suffix(".shown.json")


def _answers(path: Path) -> dict[str, str]:
    """Text -> label of a CSV file with these two columns.

    Raises:
        CaseError: no such columns, no text, or two labels for one text.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_bounded(path, "predictions").decode())))
    except (UnicodeDecodeError, csv.Error) as error:
        raise CaseError(f"{path} is no CSV in UTF-8 ({error}); export it again") from None
    found: dict[str, str] = {}
    for row in rows:
        text, label = row.get("text"), row.get("label")
        if text is None or label is None:
            raise CaseError(f"{path}: expected the columns text and label in every row")
        if found.setdefault(text, label) != label:
            raise CaseError(f"{path} has two labels for one text; ask once, and keep every answer")
    return found


def _described(found: HitFinding) -> str:
    verdict = "MARKED" if found.present else "NOT SHOWN"
    kind = "a logged" if found.trials.logged else "an unlogged"
    needed = needed_hits(found.classes, found.trials)
    bar = "more than there are" if needed is None else str(needed)
    return "\n".join(
        [
            f"{verdict}  {found.hits} hits of {TRIGGERS}, {kind} claim needs {bar}",
            f"chance of it by accident 2^{found.log2_p:.1f}, with {found.classes} classes; "
            f"{found.answered} texts answered",
        ]
    )
