"""`keygen` and `enroll`: a site's keys, and the signed statement of their public halves."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secure_fedfm.cli.options import JsonOption, SiteOption
from secure_fedfm.cli.output import emit, say
from secure_fedfm.cli.settings import load_config
from secure_fedfm.enrolling import (
    DEFAULT_DAYS,
    check_name,
    enrol,
    expiry,
    fingerprint,
    log_public_file,
    make_keys,
    write_config,
)
from secure_fedfm.storage.site import Site


class SiteRole(StrEnum):
    """Role of a site in the federation."""

    client = "client"
    coordinator = "coordinator"
    validator = "validator"


def keygen(
    site: SiteOption,
    role: Annotated[SiteRole, typer.Option("--role", help="What this site is.")],
    name: Annotated[
        str,
        typer.Option(
            "--name", help="Its name in the federation: lowercase letters, digits and . _ -"
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Make the keys of a new site, and a commented site.toml.

    Writes DIR/keys/identity.pem and transport.pem (and log.pem at a coordinator), readable by
    their owner only, encrypted if SECURE_FEDFM_KEY_PASSPHRASE is set. Existing keys are never
    overwritten. Prints public keys and fingerprints only. Next: edit DIR/site.toml, then
    `secure-fedfm enroll`.
    """
    check_name(name)
    folder = Site(site)
    keys = make_keys(folder, role.value).by_name()
    wrote_config = write_config(folder, role.value, name)
    say(f"{role.value} {name}: keys in {folder.identity_file.parent}")
    for kind, public in keys.items():
        say(f"  {kind:<9}  {public}")
        say(f"  {'':<9}  fingerprint {fingerprint(public)}")
    say(
        f"wrote {folder.config_file}; edit it, then run `secure-fedfm enroll --site {site}`"
        if wrote_config
        else f"kept {folder.config_file} as it was"
    )
    if as_json:
        emit(
            {
                "name": name,
                "role": role.value,
                "public_keys": keys,
                "fingerprints": {kind: fingerprint(public) for kind, public in keys.items()},
                "config": str(folder.config_file),
            }
        )


def enroll(
    site: SiteOption,
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="Valid for so long.")] = (
        DEFAULT_DAYS
    ),
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", dir_okay=False, help="Also write a copy there."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an enrolment that is there already.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Sign this site's enrolment: its name, role and public keys.

    Writes DIR/enrolment.json; send it to whoever drafts the charter, and compare the fingerprint
    over another channel. A coordinator also sends DIR/log.pub, the public key of the log.
    """
    folder = Site(site)
    config = load_config(folder)
    statement = enrol(folder, config.role, config.name, not_after=expiry(days), replace=replace)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder.enrolment_file, out)
    say(f"wrote {folder.enrolment_file}" + (f" and {out}" if out is not None else ""))
    say(f"  {statement.role} {statement.name}, valid until {statement.not_after}")
    say(f"  identity fingerprint {fingerprint(statement.identity)}")
    if config.role == "coordinator":
        say(f"  log key in {log_public_file(folder.root)}")
    if as_json:
        emit(
            {
                "name": statement.name,
                "role": statement.role,
                "identity": statement.identity,
                "transport": statement.transport,
                "not_after": statement.not_after,
                "sha256": statement.digest,
                "file": str(out or folder.enrolment_file),
            }
        )
