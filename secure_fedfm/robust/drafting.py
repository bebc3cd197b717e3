"""The sections of a charter that make a federation robust, drafted from what founders say."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedfm_crypto.sketch import LEAST_VALUES_PER_SLOT, SLOTS, SketchGroup
from fedfm_protocols.enrolment import Enrolment
from fedfm_protocols.errors import EnrolmentError
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.robust.registry import DEFAULT, check_works_in, make_rule

__all__ = [
    "DEFAULT_KEY_ROUNDS",
    "DEFAULT_NORM_BOUND",
    "RobustRequest",
    "read_parameters",
    "two_groups",
]

DEFAULT_NORM_BOUND = 64.0
"""An update of LoRA matrices and a head after a local epoch has a norm of 1 to 10; scores keep
their precision down to a 256th of the bound."""
DEFAULT_KEY_ROUNDS = 100
LEAST_VALUES = LEAST_VALUES_PER_SLOT * SLOTS
"""Of an update that is sketched."""


@dataclass(frozen=True, slots=True)
class RobustRequest:
    """Who judges, and by which rule.

    Args:
        validator: its verified enrolment.
        rule: by name.
        parameters: of the rule, by name; the rest have defaults.
        norm_bound: largest L2 norm of an update that is measured.
        key_rounds: rounds judged under one sketch key.
        root: name of the client that the others are compared with, for a rule that does.
    """

    validator: Enrolment
    rule: str = DEFAULT
    parameters: Mapping[str, int | float] = field(default_factory=dict)
    norm_bound: float = DEFAULT_NORM_BOUND
    key_rounds: int = DEFAULT_KEY_ROUNDS
    root: str | None = None

    def __post_init__(self) -> None:
        if self.validator.role != "validator":
            raise EnrolmentError(
                f"the enrolment given for the validator is that of {self.validator.name}, a "
                f"{self.validator.role}; give the enrolment.json of a site made with "
                "`secure-fedfm keygen --role validator`"
            )

    def check(self, suite: str, privacy_mode: str) -> None:
        """Refuse what no roster makes work, before anything slow; raises ConfigurationError."""
        check_works_in(self.rule, suite, privacy_mode, self.root is not None)
        make_rule(self.rule, self.parameters)

    def check_roster(self, names: Collection[str]) -> None:
        """Refuse a root that is no client; raises ConfigurationError."""
        if self.root is not None and self.root not in names:
            raise ConfigurationError(
                f"--robust-root is {self.root!r}, expected one of the clients: "
                + ", ".join(sorted(names))
            )

    def group_count(self, votes: bool) -> int:
        """How many groups of values are sketched by themselves; 1 is the whole update."""
        return 2 if self.rule == DEFAULT and not votes else 1

    @property
    def votes(self) -> bool:
        """Whether clients shall send votes: poison that looks like honest work in every score
        moves nothing by itself then (docs/robust-rules.md)."""
        return self.rule == DEFAULT

    def sections(self, values: int, votes: bool) -> dict[str, Any]:
        """``validator`` and ``robustness`` of a federation with updates of so many values.

        Where clients send no votes the default rule judges two groups of values by themselves too:
        poison that is as long as honest work lies elsewhere (docs/robust-rules.md).
        """
        # Fewer values than any sketch needs: the charter says so.
        groups = (
            two_groups(values) if self.group_count(votes) == 2 and values >= LEAST_VALUES else ()
        )
        return {
            "validator": {
                "name": self.validator.name,
                "identity": self.validator.identity,
                "transport": self.validator.transport,
                "enrolment": self.validator.digest,
            },
            "robustness": {
                "rule": self.rule,
                "parameters": dict(self.parameters),
                "norm_bound": float(self.norm_bound),
                "key_rounds": self.key_rounds,
                "groups": [
                    {"name": group.name, "spans": [list(span) for span in group.spans]}
                    for group in groups
                ],
                **({} if self.root is None else {"root": self.root}),
            },
        }


def two_groups(values: int) -> tuple[SketchGroup, SketchGroup]:
    """As few values as may be sketched by themselves, from the start of the update (in a MiniLM
    those of attention, and some of the first dense layer), and all others with the head."""
    first = LEAST_VALUES // 2
    return SketchGroup("first", ((0, first),)), SketchGroup("rest", ((first, values),))


def read_parameters(texts: Iterable[str]) -> dict[str, int | float]:
    """``["multiple=3", "reach=1.2"]`` as numbers by name.

    Raises:
        ConfigurationError: not NAME=NUMBER, or a name twice.
    """
    found: dict[str, int | float] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        try:
            number: int | float = int(value) if value.lstrip("-").isdigit() else float(value)
        except ValueError:
            equals = ""
        if not equals or not name or name in found:
            raise ConfigurationError(
                f"--robust-parameter is {text!r}, expected NAME=NUMBER, each name once"
            )
        found[name] = number
    return found
