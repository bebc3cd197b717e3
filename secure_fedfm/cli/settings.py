"""Configuration as the command line sees it: flags, `--set`, and where each value came from."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from secure_fedfm.config import PREFIX, SiteConfig, read_config
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.storage.site import Site


def load_config(site: Site, flags: Mapping[str, Any] | None = None) -> SiteConfig:
    """The configuration of a site folder, with these flags on top.

    Raises
    ------
    ConfigurationError
        no such folder or site.toml, or what ``read_config`` refuses.
    """
    if not site.root.is_dir():
        raise ConfigurationError(
            f"no site folder {site.root}; make one with `secure-fedfm keygen --site {site.root} "
            "--role client|coordinator|validator --name NAME`"
        )
    return read_config(site.config_file, flags=flags)


def require_role(config: SiteConfig, role: str, site: Site) -> None:
    """Refuse a verb that is not for this site; raises ConfigurationError."""
    if config.role != role:
        raise ConfigurationError(
            f"{site.root} is the site of {config.name}, a {config.role}; this command is for a "
            f"{role}: give another --site"
        )


def given(**flags: Any) -> dict[str, Any]:
    """The flags that were given on the command line."""
    return {name: value for name, value in flags.items() if value is not None}


def with_settings(flags: Mapping[str, Any], settings: Sequence[str] | None) -> dict[str, Any]:
    """Flags extended by ``--set KEY=VALUE`` items; a dot in KEY goes into a table.

    Raises
    ------
    ConfigurationError
        an item without ``=``, or a key that was given twice.
    """
    merged = dict(flags)
    for item in settings or ():
        key, equals, text = item.partition("=")
        *tables, last = key.strip().split(".")
        if not equals or not last or not all(tables):
            raise ConfigurationError(
                f"--set {item!r}; expected KEY=VALUE, for example timeouts.training=60"
            )
        place = merged
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ConfigurationError(f"--set {item!r}: {table} is a value, not a table")
        if last in place:
            raise ConfigurationError(f"{key} is given twice on the command line; give it once")
        place[last] = _value(text)
    return merged


def _value(text: str) -> object:
    """A TOML value where it reads as one (numbers, lists, booleans), otherwise the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # also numbers and nestings without end
        return text


def value_sources(
    config: SiteConfig, file: Path | None, flags: Mapping[str, Any]
) -> Iterator[tuple[str, object, str]]:
    """(key, value in force, source) of every setting; keys of tables with a dot.

    A source is ``flag``, the name of the environment variable, the name of the file, or
    ``default``.
    """
    in_file = {} if file is None else tomllib.loads(file.read_text("utf-8"))
    for path, value in _leaves(config.model_dump(mode="json"), ()):
        variable = PREFIX + "__".join(path).upper()
        if _has(flags, path):
            source = "flag"
        elif variable in os.environ:
            source = variable
        elif file is not None and _has(in_file, path):
            source = file.name
        else:
            source = "default"
        yield ".".join(path), value, source


def _leaves(
    fields: Mapping[str, Any], above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _has(fields: Mapping[str, Any], path: Sequence[str]) -> bool:
    place: object = fields
    for name in path:
        if not isinstance(place, Mapping) or name not in place:
            return False
        place = place[name]
    return True
