"""Rules by name: strict parameters, and refusals that name what would work."""

from __future__ import annotations

from typing import Any

import pytest

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.robust.clusters import CosineMemory
from secure_fedfm.robust.composed import EveryGroup
from secure_fedfm.robust.registry import (
    DEFAULT,
    RULES,
    VECTOR_RULES,
    check_works_in,
    make_rule,
    working_rules,
)


def test_parameters_have_defaults_and_are_set_by_name() -> None:
    assert make_rule("cosine-memory", {"newest": 0.5, "multiple": 3}) == CosineMemory(
        0.5, 1.25, 3.0
    )
    assert make_rule(DEFAULT, {}, every_group=True) == EveryGroup(CosineMemory())


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("krumm", {}, "'krumm' is unknown; known: cosine-memory, flame"),
        ("trimmed-mean", {}, "needs the vectors themselves"),
        ("krum", {"f": 1}, "no parameter 'f'; it has: byzantine"),
        ("krum", {"byzantine": 1.0}, "byzantine is 1.0, expected int"),
        ("krum", {"byzantine": True}, "byzantine is True, expected int"),
        ("krum", {"byzantine": -1}, "byzantine is -1, expected 0 to 10000"),
        ("multi-krum", {"keep": -1}, "keep is -1"),
        ("norm-bound", {"multiple": 0.5}, "multiple is 0.5, expected 1 to 100"),
        ("norm-bound", {"multiple": float("nan")}, "multiple is nan"),
        ("norm-bound", {"multiple": "2"}, "multiple is '2', expected float"),
        ("fltrust", {"least_cosine": 1.5}, "least_cosine is 1.5, expected -1 to 1"),
        ("cosine-memory", {"newest": 0.0}, "newest is 0.0"),
        ("cosine-memory", {"reach": 0.9}, "reach is 0.9"),
        ("foolsgold", {"least_weight": 2.0}, "least_weight is 2.0"),
        ("nearest-neighbour-mixing", {"inner": "flame"}, "inner is 'flame', expected average"),
    ],
)
def test_what_is_wrong_is_named(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_rule(name, parameters)


@pytest.mark.parametrize("suite", ["masked", "sealed", "layered", "clear"])
def test_every_suite_needs_rules_on_inner_products(suite: str) -> None:
    for name in VECTOR_RULES:
        with pytest.raises(ConfigurationError, match="these work: cosine-memory, norm-bound"):
            check_works_in(name, suite, "none")
    with pytest.raises(ConfigurationError, match="a single client, so the sum would be"):
        check_works_in("krum", suite, "local")
    assert set(RULES) - set(working_rules()) == {"krum"}
    for name in working_rules():
        check_works_in(name, suite, "local", root=RULES[name].needs_root)


def test_a_root_is_named_for_the_rule_that_looks_at_it_and_for_no_other() -> None:
    with pytest.raises(ConfigurationError, match="names none: give --robust-root CLIENT"):
        check_works_in("fltrust", "layered", "local")
    for name in working_rules():
        if name != "fltrust":
            with pytest.raises(ConfigurationError, match="take a rule that needs one"):
                check_works_in(name, "layered", "local", root=True)


@pytest.mark.parametrize("mode", ["client", "shared-noise"])
def test_modes_whose_updates_carry_shares_of_noise_allow_no_rule(mode: str) -> None:
    for name in RULES:
        with pytest.raises(ConfigurationError, match="choose mode local or none"):
            check_works_in(name, "layered", mode, root=True)


def test_unknown_names_are_refused() -> None:
    for suite, mode in (("open", "none"), ("layered", "global")):
        with pytest.raises(ConfigurationError, match="expected one of masked"):
            check_works_in(DEFAULT, suite, mode)
    with pytest.raises(ConfigurationError, match="'majority' is unknown"):
        check_works_in("majority", "layered", "none")
