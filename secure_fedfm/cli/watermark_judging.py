"""`watermark verify`, `dispute` and `trace`: what marks say about a suspect (base install)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedfm_audit.report import printable
from fedfm_audit.watermark.adapter_suspect import AdapterSuspect
from fedfm_audit.watermark.claim import Claim
from fedfm_audit.watermark.commitment import CommittedClaim, MarkKey, Opening
from fedfm_audit.watermark.dispute import Standing, resolve
from fedfm_audit.watermark.errors import CaseError, ClaimError, MarkCapacityError, SuspectError
from fedfm_audit.watermark.judge import Finding, judge
from fedfm_audit.watermark.merged_suspect import MergedSuspect
from fedfm_audit.watermark.statistic import Trials
from fedfm_audit.watermark.suspect import Suspect
from fedfm_audit.watermark.trace import DEFAULT_ALPHA, accusation_threshold, trace
from secure_fedfm.cli.options import JsonOption
from secure_fedfm.cli.outcome import Exit, explain
from secure_fedfm.cli.output import emit, say
from secure_fedfm.errors import ConfigurationError, ModelError, StorageError
from secure_fedfm.learning.weights import weights_sha256
from secure_fedfm.storage.keys import load_identity
from secure_fedfm.storage.site import Site
from secure_fedfm.watermark.case_file import read_bounded, read_case, read_recipients
from secure_fedfm.watermark.fingerprints import open_fingerprints

SuspectArgument = Annotated[
    Path,
    typer.Argument(
        metavar="SUSPECT",
        exists=True,
        help="PEFT adapter folder; with --base, merged safetensors: a file, or a folder of shards.",
    ),
]
BaseOption = Annotated[
    Path | None,
    typer.Option(
        "--base",
        metavar="PATH",
        exists=True,
        help="Base model of a merged suspect: file or folder.",
    ),
]
AlignmentsOption = Annotated[
    int,
    typer.Option("--alignments", min=1, help="How many ways to lay it over the base you tried."),
]
_FileOption = {"metavar": "FILE", "exists": True, "dir_okay": False}
ClaimOption = Annotated[
    Path | None, typer.Option("--claim", **_FileOption, help="Your own claim; with --key.")
]
KeyOption = Annotated[
    Path | None, typer.Option("--key", **_FileOption, help="The claim's secret key file.")
]
LoggedOption = Annotated[
    int | None,
    typer.Option(
        "--logged",
        min=1,
        metavar="COUNT",
        help="You found the commitment in a verified log before round 1, among so many.",
    ),
]
SuspectsOption = Annotated[
    int, typer.Option("--suspects", min=1, help="How many suspects you looked at in all.")
]


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors about marks as those that have an exit code: a suspect like an adapter, a claim that
    does not hold like a failed check."""
    try:
        yield
    except SuspectError as error:
        raise ModelError(str(error)) from error
    except (CaseError, MarkCapacityError) as error:
        raise ConfigurationError(str(error)) from error
    except ClaimError as error:
        say(f"FAILED  {explain(error)}")
        raise typer.Exit(Exit.CHECK_FAILED) from error


def verify(
    suspect: SuspectArgument,
    opening: Annotated[
        Path | None,
        typer.Option(
            "--opening", **_FileOption, help="A claim with one of its keys, shown by its owner."
        ),
    ] = None,
    claim: ClaimOption = None,
    key: KeyOption = None,
    sub_key: Annotated[int, typer.Option("--sub-key", min=0, help="With --key: which one.")] = 0,
    base: BaseOption = None,
    logged: LoggedOption = None,
    suspects: SuspectsOption = 1,
    alignments: AlignmentsOption = 1,
    reveal: Annotated[
        Path | None,
        typer.Option(
            "--reveal",
            metavar="FILE",
            dir_okay=False,
            help="With --key: write the opening for a judge. Its readers can remove this mark.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look for a mark in a suspect.

    Without --logged the claim counts as unlogged, and the bar is 2^-128 instead of 2^-40 over the
    number of tries. Ends with 0 if the mark is there, with 1 if not or if the claim does not hold.
    """
    if reveal is not None and opening is not None:
        raise typer.BadParameter("--reveal makes an opening; it goes with --key")
    with plain_errors():
        shown = shown_opening(claim, key, sub_key, opening)
        trials = Trials(logged, shown.claim.keys, suspects, alignments)
        found = judge(shown, _suspect(suspect, base, shown.claim), trials)
    if reveal is not None:
        write_private(reveal, shown.encode() + b"\n")
    say(_described(found, shown.claim))
    if as_json:
        emit(
            {
                "claim_hash": shown.claim.digest().hex(),
                "identity": shown.claim.identity.hex,
                "federation": shown.claim.federation,
                "sub_key": shown.index,
                **found.to_json(),
            }
        )
    raise typer.Exit(Exit.OK if found.present else Exit.CHECK_FAILED)


def dispute(
    suspect: SuspectArgument,
    case: Annotated[
        Path, typer.Argument(metavar="CASE", exists=True, dir_okay=False, help="JSON; see below.")
    ],
    base: BaseOption = None,
    alignments: AlignmentsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Decide between owners that claim one suspect: the earliest witnessed commitment wins.

    CASE is {"version": 1, "contenders": [{"name", "opening": FILE, "commitments": COUNT,
    "committed": {"log", "leaf", "time"} or null, "release": {"adapter": DIR, "tensors": HEX,
    "log", "leaf", "time"} or null}, ...]}; what it says about logs you have verified yourself
    (`audit verify`, `audit inclusion`). Ends with 0 if somebody's claim prevails, else with 1.
    """
    with plain_errors():
        contenders = read_case(case)
        claims = [one.opening.claim for one in contenders]
        if base is not None and len({one.base_model for one in claims}) > 1:
            raise CaseError("the claims name different base models; judge them one by one")
        found = resolve(_suspect(suspect, base, claims[0]), contenders, alignments=alignments)
    for one in found.standings:
        say(f"{printable(one.name)}: {printable(one.refused) or 'its claim stands'}")
    say(f"{'nobody' if found.winner is None else printable(found.winner)}: {found.reason}")
    if as_json:
        emit(
            {
                "winner": found.winner,
                "reason": found.reason,
                "contenders": [_standing(one) for one in found.standings],
            }
        )
    raise typer.Exit(Exit.CHECK_FAILED if found.winner is None else Exit.OK)


def trace_copy(
    suspect: SuspectArgument,
    site: Annotated[
        Path | None,
        typer.Option(
            "--site",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Site whose `export` made the copies: claim, key and recipients are there.",
        ),
    ] = None,
    claim: Annotated[
        Path | None, typer.Option("--claim", **_FileOption, help="Claim of purpose fingerprint.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", **_FileOption, help="Its secret key file.")
    ] = None,
    recipients: Annotated[
        Path | None,
        typer.Option(
            "--recipients", **_FileOption, help="JSON object of names and sub-keys; default: all."
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option("--alpha", help="Probability of accusing an innocent.")
    ] = DEFAULT_ALPHA,
    base: BaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find out whose copy a suspect was made from.

    Accuses a recipient if n exp(-T^2 / 2) <= alpha, n being the claim's sub-keys. Averaging copies
    weakens their marks: three or four colluders are still named, depending on the mark's size; more
    may not be, and then nobody is cleared. Whoever holds the key can frame any recipient. Ends with
    0 if somebody is accused, with 1 if nobody is or the claim does not hold.
    """
    if site is not None and (claim or key or recipients):
        raise typer.BadParameter("--site has claim, key and recipients; leave those options out")
    with plain_errors():
        if site is not None:
            prints = open_fingerprints(Site(site))
            committed, secret, names = prints.committed, prints.key, prints.recipients
        else:
            committed, secret = own_claim(claim, key)
            names = (
                {f"sub-key {i}": i for i in range(committed.claim.keys)}
                if recipients is None
                else read_recipients(recipients)
            )
        judged = _suspect(suspect, base, committed.claim)
        found = trace(committed, secret, names, judged, alpha)
    bar = accusation_threshold(found.keys, alpha)
    say(f"{len(found.accused)} of {len(names)} accused; alpha {alpha:g}, T must reach {bar:.2f}")
    for one in found.recipients[: max(len(found.accused), 3)]:
        word = "ACCUSED" if one.accused else "not accused"
        say(f"  {word}  {printable(one.recipient)}  T {one.evidence.statistic:.2f}")
    if as_json:
        emit(
            {
                "accused": list(found.accused),
                "alpha": alpha,
                "keys": found.keys,
                "threshold": round(bar, 4),
                "recipients": [
                    {
                        "name": one.recipient,
                        "sub_key": one.index,
                        "statistic": round(one.evidence.statistic, 4),
                        "corrected_p": one.corrected,
                        "accused": one.accused,
                    }
                    for one in found.recipients
                ],
            }
        )
    raise typer.Exit(Exit.OK if found.accused else Exit.CHECK_FAILED)


def shown_opening(
    claim: Path | None, key: Path | None, sub_key: int, opening: Path | None
) -> Opening:
    """A claim with one of its keys, checked: from an opening, or from this site's own files."""
    if (opening is None) == (claim is None or key is None) or (opening and (claim or key)):
        raise typer.BadParameter("give --opening alone, or --claim and --key")
    if opening is not None:
        shown = Opening.decode(read_bounded(opening, "opening"))
    else:
        committed, secret = own_claim(claim, key)
        shown = secret.open(committed, sub_key)
    shown.check()
    return shown


def own_claim(claim: Path | None, key: Path | None) -> tuple[CommittedClaim, MarkKey]:
    """A claim of this site's own with its key, from their files; they must belong together."""
    if claim is None or key is None:
        raise typer.BadParameter("give --claim and --key")
    committed = CommittedClaim.decode(read_bounded(claim, "claim"))
    secret = MarkKey(load_identity(key).secret)
    secret.check(committed)
    return committed, secret


def _suspect(place: Path, base: Path | None, claim: Claim) -> Suspect:
    if base is None:
        if not place.is_dir():
            raise SuspectError(f"{place} is no adapter folder; for merged weights add --base")
        return AdapterSuspect.open(place)
    pinned = weights_sha256(base) if base.is_dir() else _sha256(base)
    if pinned != claim.base_model:
        raise SuspectError(
            f"{base} has SHA-256 {pinned}, the claim is about changes to {claim.base_model}; give "
            "the weights that the claim names"
        )
    return MergedSuspect.open(place, base)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _described(found: Finding, claim: Claim) -> str:
    evidence, trials = found.evidence, found.trials
    kind = "a logged" if trials.logged else "an unlogged"
    verdict = "MARKED" if found.present else "NOT SHOWN"
    return "\n".join(
        [
            f"{verdict}  T {evidence.statistic:.2f}, {kind} claim needs {trials.threshold:.2f}",
            f"chance of it by accident at most 2^{evidence.log2_p:.1f}; "
            f"{evidence.matches} of {evidence.size} signs agree (2^{evidence.log2_p_matches:.1f})",
            f"claim of {claim.identity.hex}, federation {claim.federation}; "
            f"{found.modules} of {found.of} modules found",
        ]
    )


def _standing(one: Standing) -> dict[str, object]:
    return {
        "name": one.name,
        "stands": not one.refused,
        "refused": one.refused,
        "suspect": None if one.in_suspect is None else one.in_suspect.to_json(),
        "release": None if one.in_release is None else one.in_release.to_json(),
    }


def write_private(path: Path, data: bytes) -> None:
    """A new file that only its owner can read.

    Raises:
        StorageError: there is one already.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise StorageError(f"{path} exists already; an opening is never overwritten") from None
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
