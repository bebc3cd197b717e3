"""Robust rules by the name that a charter gives, and where each can work.

In every suite, ``clear`` too, rules see inner products of sketches and decide by accept bits: that
is what the protocol sums by. So a rule that needs the vectors, or that accepts one client (whose
update the "sum" would then be), is a baseline of benchmarks and works in no federation. Where a
single update carries only its share of the noise (modes ``client`` and ``shared-noise``) no score
may be taken of it at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.robust.clusters import CosineMemory, Flame
from secure_fedfm.robust.composed import EveryGroup
from secure_fedfm.robust.directions import FLTrust, FoolsGold
from secure_fedfm.robust.distances import GeometricMedian, LeastDiameter, NearestNeighbourMixing
from secure_fedfm.robust.krum import Krum, MultiKrum
from secure_fedfm.robust.norms import NormBound
from secure_fedfm.robust.rule import Rule

__all__ = ["DEFAULT", "RULES", "VECTOR_RULES", "check_works_in", "make_rule", "working_rules"]

RULES: Mapping[str, type[Rule]] = {
    rule.name: rule
    for rule in (
        NormBound, Krum, MultiKrum, FLTrust, Flame, FoolsGold, GeometricMedian, LeastDiameter,
        NearestNeighbourMixing, CosineMemory,
    )
}  # fmt: skip
"""Rules on the Gram matrix."""
VECTOR_RULES = ("coordinate-median", "trimmed-mean")
"""Rules on the vectors themselves (``coordinatewise``): baselines."""
DEFAULT = CosineMemory.name

_HIDING = ("masked", "sealed", "layered")
_SUITES = (*_HIDING, "clear")
_SHARES_OF_NOISE = ("client", "shared-noise")
_MODES = ("none", "local", *_SHARES_OF_NOISE)


def make_rule(name: str, parameters: Mapping[str, Any], every_group: bool = False) -> Rule:
    """Return the rule of this name.

    Args:
        name: a key of :data:`RULES`.
        parameters: by name, exactly typed (an integer serves as a float); the rest have defaults.
        every_group: apply it to each group of values as well (``EveryGroup``).

    Raises:
        ConfigurationError: an unknown rule or parameter, a value of another type or out of range.
    """
    if name not in RULES:
        known = ", ".join(sorted(RULES))
        hint = ""
        if name in VECTOR_RULES:
            hint = " (it needs the vectors themselves, and is a baseline of benchmarks only)"
        raise ConfigurationError(f"robust rule {name!r} is unknown{hint}; known: {known}")
    made = RULES[name](**_checked(RULES[name], parameters))
    return EveryGroup(made) if every_group else made


def check_works_in(name: str, suite: str, mode: str, root: bool = False) -> None:
    """Refuse a rule where it cannot work, naming what can.

    Args:
        name: a key of :data:`RULES` or one of :data:`VECTOR_RULES`.
        suite: ``masked``, ``sealed``, ``layered`` or ``clear``.
        mode: privacy mode: ``none``, ``local``, ``client`` or ``shared-noise``.
        root: whether the charter names a client as the root that the others are compared with.

    Raises:
        ConfigurationError: the pairing cannot work, or a name is unknown.
    """
    if suite not in _SUITES or mode not in _MODES:
        raise ConfigurationError(
            f"suite {suite!r} with privacy mode {mode!r}: expected one of {', '.join(_SUITES)} "
            f"and one of {', '.join(_MODES)}"
        )
    if name not in RULES and name not in VECTOR_RULES:
        raise ConfigurationError(f"robust rule {name!r} is unknown; known: {', '.join(RULES)}")
    if mode in _SHARES_OF_NOISE:
        raise ConfigurationError(
            f"robust rule {name} with privacy mode {mode}: a single update carries only its share "
            "of the noise there, and scores of it would break what the mode promises; no robust "
            "rule works with it; choose mode local or none, or no rule"
        )
    if name in working_rules():
        _check_root(name, root)
        return
    others = ", ".join(working_rules())
    if name in VECTOR_RULES:
        why = "it needs every value of every update and gives no sum of whole updates"
    else:
        why = "it accepts a single client, so the sum would be that client's update"
    raise ConfigurationError(f"robust rule {name} in suite {suite}: {why}; these work: {others}")


def _check_root(name: str, root: bool) -> None:
    if RULES[name].needs_root and not root:
        raise ConfigurationError(
            f"robust rule {name} compares with the direction of one client whose data is vetted, "
            "and the charter names none: give --robust-root CLIENT (robustness.root), or take "
            f"{DEFAULT}"
        )
    if root and not RULES[name].needs_root:
        needing = ", ".join(other for other, rule in RULES.items() if rule.needs_root)
        raise ConfigurationError(
            f"robust rule {name} compares clients with each other and would not look at a root: "
            f"leave --robust-root (robustness.root) away, or take a rule that needs one ({needing})"
        )


def working_rules() -> tuple[str, ...]:
    """Return the names of the rules that a federation can have, in any suite, the default first."""
    found = (n for n, rule in RULES.items() if not rule.selects_one and n != DEFAULT)
    return (DEFAULT, *found)


def _checked(rule: type[Rule], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments; every one known, every type exact."""
    name = rule.name
    types = get_type_hints(rule)
    known = {field.name for field in fields(rule)}  # type: ignore[arg-type]
    for parameter in parameters:
        if parameter not in known:
            raise ConfigurationError(
                f"robust rule {name} has no parameter {parameter!r}; it has: "
                + (", ".join(sorted(known)) or "none")
            )
    checked: dict[str, Any] = {}
    for field in fields(rule):  # type: ignore[arg-type]
        if field.name not in parameters:
            if field.default is MISSING:
                raise ConfigurationError(f"robust rule {name} needs {field.name!r}")
            continue
        value, wanted = parameters[field.name], types[field.name]
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise ConfigurationError(
                f"robust rule {name}: {field.name} is {value!r}, expected {wanted.__name__}"
            )
        checked[field.name] = value
    return checked
