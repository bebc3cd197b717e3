"""`config check`: the configuration in force, and where each value comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secure_fedfm.cli.options import JsonOption, SetOption
from secure_fedfm.cli.outcome import EPILOG
from secure_fedfm.cli.output import emit, say
from secure_fedfm.cli.settings import value_sources, with_settings
from secure_fedfm.config import read_config
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.storage.site import Site

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Look at the configuration of a site."""


@app.command("check", epilog=EPILOG)
def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A site.toml.", dir_okay=False)
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option("--site", metavar="DIR", file_okay=False, help="A site folder instead."),
    ] = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the effective configuration and the source of every value, or what is wrong with it.

    Precedence: flag > environment (SECURE_FEDFM_<KEY>) > FILE > default; --set stands for a flag
    of the service. Keys and passphrases are no configuration and are never read here.
    """
    if (file is None) == (site is None):
        raise ConfigurationError("give either a FILE or --site DIR")
    path = file if site is None else Site(site).config_file
    flags = with_settings({}, settings)
    config = read_config(path, flags=flags)
    rows = list(value_sources(config, path, flags))
    key_width = max(len(key) for key, _, _ in rows)
    value_width = min(40, max(len(str(value)) for _, value, _ in rows))
    say(f"{path} is a valid configuration of {config.role} {config.name}")
    for key, value, source in rows:
        say(f"  {key:<{key_width}}  {value!s:<{value_width}}  {source}")
    if as_json:
        emit(
            {
                "file": str(path),
                "values": {key: value for key, value, _ in rows},
                "sources": {key: source for key, _, source in rows},
            }
        )
