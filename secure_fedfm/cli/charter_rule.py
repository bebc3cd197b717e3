"""The options of `charter new` that make a federation robust."""

from __future__ import annotations

from typing import Any

from fedfm_protocols.enrolment import Enrolment
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.robust.drafting import RobustRequest, read_parameters


def choose_rule(
    validator: Enrolment | None,
    *,
    rule: str | None,
    parameters: list[str] | None,
    norm_bound: float | None,
    key_rounds: int | None,
    root: str | None = None,
) -> RobustRequest | None:
    """What the options ask for; None where nobody is to judge.

    Raises
    ------
    ConfigurationError
        settings of a rule without a validator, or parameters that are no numbers by name.
    EnrolmentError
        the enrolment of another role.
    """
    given: dict[str, Any] = {
        "rule": rule,
        "norm_bound": norm_bound,
        "key_rounds": key_rounds,
        "root": root,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if parameters:
        given["parameters"] = read_parameters(parameters)
    if validator is None:
        if given:
            raise ConfigurationError(
                "a robust rule needs somebody who applies it: give --validator-enrolment too"
            )
        return None
    return RobustRequest(validator, **given)
