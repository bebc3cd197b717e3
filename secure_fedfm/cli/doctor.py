"""`doctor`: what is missing or wrong on this machine, and how to put it right."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secure_fedfm.cli.checks import Check, Level, machine_checks
from secure_fedfm.cli.options import JsonOption
from secure_fedfm.cli.outcome import Exit
from secure_fedfm.cli.output import emit, say
from secure_fedfm.cli.site_checks import read_site, site_checks


class MachineRole(StrEnum):
    """What this machine is to be used for."""

    auditor = "auditor"
    client = "client"
    coordinator = "coordinator"
    validator = "validator"
    demo = "demo"


def doctor(
    site: Annotated[
        Path | None,
        typer.Option("--site", metavar="DIR", file_okay=False, help="Also check this site."),
    ] = None,
    role: Annotated[
        MachineRole | None,
        typer.Option(
            "--role",
            help="Check for this role [default: the site's; without a site, auditor: the base "
            "install only].",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine, and a site on it, for what a role needs.

    Looks at the Python version, packages of each extra, the base model and its hash, key files,
    charter and data of the site, clock, port, disk and locale. Ends with 1 if something that the
    role needs is missing or wrong; warnings do not count.
    """
    checks: list[Check] = []
    of_site: list[Check] = []
    chosen = None if role is None else role.value
    if site is not None:
        folder, config, opened = read_site(site)
        of_site.append(opened)
        if config is not None:
            chosen = chosen or config.role
            of_site += site_checks(folder, config)
    chosen = chosen or MachineRole.auditor.value
    checks = [*machine_checks(chosen, site or Path()), *of_site]
    failed = sum(check.level is Level.FAILED for check in checks)
    for check in checks:
        say(f"{check.level.value:<7}  {check.name}: {check.found}")
        if check.fix and check.level is not Level.OK:
            say(f"         -> {check.fix}")
    say(
        f"{failed} of {len(checks)} checks failed for the role {chosen}"
        if failed
        else f"ready for the role {chosen}"
    )
    if as_json:
        emit(
            {
                "role": chosen,
                "ok": not failed,
                "checks": [check.to_json() for check in checks],
            }
        )
    if failed:
        raise typer.Exit(Exit.CHECK_FAILED)
