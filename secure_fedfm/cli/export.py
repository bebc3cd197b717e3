"""`export`: a recipient's own copy of the finished adapter (base install, no torch)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fedfm_crypto.random_source import system_random
from secure_fedfm.cli.options import JsonOption, SiteOption
from secure_fedfm.cli.output import emit, say
from secure_fedfm.cli.watermark_judging import plain_errors
from secure_fedfm.enrolling import check_name
from secure_fedfm.storage.site import Site
from secure_fedfm.watermark.fingerprints import (
    DEFAULT_RECIPIENTS,
    begin_fingerprints,
    collusion_limit,
    export_copy,
)


def export(
    site: SiteOption,
    recipient: Annotated[
        str, typer.Option("--recipient", metavar="NAME", help="Whose copy it is.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", file_okay=False, help="The copy to write.")
    ],
    adapter: Annotated[
        Path | None,
        typer.Option(
            "--adapter",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="The release to copy [default: SITE/export].",
        ),
    ] = None,
    recipients: Annotated[
        int,
        typer.Option(
            "--recipients",
            min=2,
            max=4096,
            help="At the first export: for how many recipients sub-keys are made.",
        ),
    ] = DEFAULT_RECIPIENTS,
    as_json: JsonOption = False,
) -> None:
    """Write a copy of the adapter that carries its recipient's fingerprint.

    The fingerprint lies on top of the marks in the release, which stays as it is. The first export
    makes the claim and its key in SITE/fingerprints and SITE/keys; every copy is recorded there,
    signed by this site, and `watermark trace --site` finds out later whose copy leaked. Whoever
    holds that key could write any recipient's fingerprint: the records say that this site does.
    """
    check_name(recipient)
    folder = Site(site)
    release = folder.export_folder if adapter is None else adapter
    charter = folder.charter().charter
    with plain_errors():
        prints = begin_fingerprints(
            folder, release, charter.federation, charter.model.sha256, recipients, system_random
        )
        made = export_copy(folder, prints, release, recipient, out, int(time.time()))
    limit = collusion_limit(prints.claim.size, prints.claim.keys)
    reached = f"{made.embedding.after.statistic:.1f}"
    say(f"wrote {out} for {recipient}: sub-key {made.sub_key}, T {reached}")
    say(f"  adapter changed by {made.embedding.relative:.3f} of its norm; record {made.record}")
    say(f"  keys of all fingerprints are with this site ({prints.claim.identity.hex[:16]})")
    say(f"  {limit}")
    if as_json:
        emit(
            {
                "copy": str(out),
                "recipient": recipient,
                "sub_key": made.sub_key,
                "tensors": made.tensors.hex(),
                "statistic": round(made.embedding.after.statistic, 4),
                "relative_change": round(made.embedding.relative, 4),
                "holder": prints.claim.identity.hex,
                "record": str(made.record),
                "collusion_limit": limit,
            }
        )
