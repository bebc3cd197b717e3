"""The scenarios that ship with the package."""

from __future__ import annotations

from importlib.resources import files

from fedfm_protocols.errors import ScenarioError
from fedfm_protocols.scenario.form import Scenario, parse_scenario

_FOLDER = "fedfm_protocols.scenarios"
_SUFFIX = ".toml"


def shipped_names() -> tuple[str, ...]:
    """Names of all shipped scenarios, sorted."""
    found = (entry.name for entry in files(_FOLDER).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)))


def shipped(name: str) -> Scenario:
    """One shipped scenario by name.

    Raises
    ------
    ScenarioError
        if there is none of this name.
    """
    if name not in shipped_names():
        raise ScenarioError(
            f"no scenario called {name!r} ships with this version; "
            "`secure-fedfm protocol list` names them all"
        )
    text = files(_FOLDER).joinpath(name + _SUFFIX).read_text("utf-8")
    return parse_scenario(text, name=name)
