"""`rounds show`: who was left out of which sum, in which round and step, by which rule, and why.

A verdict is signed and public: a bundle shows it to an auditor, the coordinator's site while the
federation runs. A client's site has what that client was told, the validator's the figures too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedfm_audit.bundle import CHARTER, read_bundle
from fedfm_audit.charter_view import CharterView, open_charter
from fedfm_audit.exclusions import Exclusion, exclusions_in
from fedfm_audit.transcript import Transcript
from secure_fedfm.cli.options import JsonOption
from secure_fedfm.cli.outcome import EPILOG
from secure_fedfm.cli.output import emit, say
from secure_fedfm.cli.settings import load_config
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.storage.site import Site

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Rounds of a federation: who was left out, and why."""


@app.command("show", epilog=EPILOG)
def show(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE]", help="Evidence bundle, folder or zip.")
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option("--site", metavar="DIR", file_okay=False, help="Or a site's folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show who was left out of a sum: in which round and step, by which rule, with what reason.

    From a bundle or a coordinator's site everybody's, verdicts and drop-outs alike; from a
    client's site what it was told; from the validator's the rule's figures too. This reads, it
    verifies nothing: `audit verify` does.
    """
    if (bundle is None) == (site is None):
        raise ConfigurationError("name one of both: a bundle, or a site with --site DIR")
    if bundle is not None:
        files = read_bundle(bundle)
        charter = open_charter(files[CHARTER])
        texts = [data for name, data in files.items() if name.startswith("transcripts/")]
        found = _from_transcripts(charter, texts)
        own: list[dict[str, object]] = []
    else:
        folder = Site(Path(str(site)))
        charter = open_charter(folder.charter().envelope)
        found, own = _of_site(folder, charter)
    _tell(charter, found, own)
    if as_json:
        emit(
            {
                "source": str(bundle or site),
                "federation": charter.federation,
                "rule": charter.rule,
                "exclusions": [asdict(one) for one in found],
                "own_verdicts": own,
            }
        )


def _from_transcripts(charter: CharterView, texts: Iterable[bytes]) -> list[Exclusion]:
    transcripts = sorted((Transcript.decode(data) for data in texts), key=lambda t: t.round)
    return [
        one
        for transcript in transcripts
        for one in exclusions_in(transcript, rule=charter.rule, encrypted=charter.encrypted)
    ]


def _of_site(site: Site, charter: CharterView) -> tuple[list[Exclusion], list[dict[str, object]]]:
    if load_config(site).role == "coordinator":
        texts = [path.read_bytes() for path in sorted(site.rounds_folder.glob("*.json"))]
        return _from_transcripts(charter, texts), []
    from secure_fedfm.services.verdicts import read_verdicts  # noqa: PLC0415 - not for auditors

    seen = read_verdicts(site.root)
    removed = [
        Exclusion(one.round, one.step, client.client, client.code, client.reason)
        for one in seen
        for client in one.removed
    ]
    own = [{"round": one.round, "step": one.step, "own": one.own} for one in seen if one.own]
    return removed, own


def _tell(
    charter: CharterView, found: list[Exclusion], own: Iterable[Mapping[str, object]]
) -> None:
    rule = f"rule {charter.rule}" if charter.rule else "no robust rule"
    say(f"federation {charter.federation}, {rule}: {len(found)} exclusions")
    for one in found:
        code = f"{one.code}: " if one.code else ""
        say(f"  round {one.round} step {one.step}  {one.client}  {code}{one.reason}")
    for verdict in own:
        say(f"  this site in round {verdict['round']}: {verdict['own']}")
