"""`log rotate-key`: another key for the transparency log, at a coordinator that is stopped."""

from __future__ import annotations

import typer

from fedfm_protocols.federation import Federation
from secure_fedfm.cli.options import JsonOption, SiteOption
from secure_fedfm.cli.outcome import EPILOG
from secure_fedfm.cli.output import emit, say
from secure_fedfm.cli.settings import load_config, require_role
from secure_fedfm.services.log_rotation import rotate_log_key
from secure_fedfm.storage.site import Site

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """The transparency log of a coordinator."""


@app.command("rotate-key", epilog=EPILOG)
def rotate_key(site: SiteOption, as_json: JsonOption = False) -> None:
    """Give the log a new key; the old one signs that, inside the log, and nothing more after it.

    Stop the coordinator first. The new private key replaces DIR/keys/log.pem (mode 0600). Clients
    learn the change from the log when the coordinator runs again; the charter stays as it is, and
    auditors follow the change from the charter's key.
    """
    folder = Site(site)
    config = load_config(folder)
    require_role(config, "coordinator", folder)
    found = rotate_log_key(folder, Federation.of(folder.charter().charter))
    say(f"the log's key changed at leaf {found.index}")
    say(f"  before  {found.before}")
    say(f"  now     {found.after}")
    if as_json:
        emit({"leaf": found.index, "before": found.before, "after": found.after})
