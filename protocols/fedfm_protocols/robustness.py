"""The charter's section about robust rounds: which rule a validator applies, and when it cannot.

A rule is a function of inner products between sketches of the updates, which the validator alone
decrypts; it answers with accept bits.  What such a round cannot be is refused here, when the
charter is written.  Which rules there are is the application's to know; the protocol binds the
rule's name and its parameters.
Source: protocols/README.md, section "Robust rounds".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from fedfm_crypto.errors import CryptoError
from fedfm_crypto.sketch import SketchGroup, SketchLayout
from fedfm_protocols.errors import CharterError
from fedfm_protocols.thresholds import Thresholds

RuleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
ParameterName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Parameter = int | Annotated[float, Field(allow_inf_nan=False)]
Span = Annotated[list[int], Field(min_length=2, max_length=2)]

VECTOR_RULES = ("coordinate-median", "trimmed-mean")
"""Rules that need every value of every update, and give no sum of whole updates."""
GROUP_COUNTS = (0, 2, 4, 8)
MAX_NORM_STEPS = float(1 << 40)


class SketchGroupSection(BaseModel):
    """Values of an update that are sketched together: ``spans`` are (start, stop) in the flat
    update, ascending.

    Source: protocols/README.md, section "Robust rounds".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: RuleName
    spans: list[Span] = Field(min_length=1, max_length=4096)


class Robustness(BaseModel):
    """The rule and its parameters; ``norm_bound`` is the largest L2 norm of an update that is
    measured (units of the update), ``key_rounds`` how many rounds one sketch key judges,
    ``groups`` none, or which values are sketched by themselves; ``root`` the client that a rule
    compares the others with, None where it compares them with each other.

    Source: protocols/README.md, section "Robust rounds".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rule: RuleName
    parameters: dict[ParameterName, Parameter] = Field(max_length=32)
    norm_bound: float = Field(gt=0, le=1e9, allow_inf_nan=False)
    key_rounds: int = Field(ge=1, le=100_000)
    groups: list[SketchGroupSection] = Field(max_length=8)
    root: str | None = None

    def check(
        self,
        suite: str,
        privacy_mode: str,
        thresholds: Thresholds,
        values: int,
        scale: int,
        clients: Sequence[str],
    ) -> None:
        """Refuse a federation in which this rule cannot work or would break a promise.

        Raises
        ------
        CharterError
            naming the pairing, and what can work instead.
        """
        if privacy_mode in ("shared-noise", "client"):
            raise CharterError(
                f"robustness with privacy mode {privacy_mode}: an update there carries only its "
                "share of the noise, so its sketch would tell more than the promise allows; take "
                "privacy mode local or none, or no robust rule"
            )
        if self.rule in VECTOR_RULES:
            raise CharterError(
                f"robustness.rule {self.rule} needs every value of every update and gives no sum "
                f"of whole updates, which is all that suite {suite} opens; take a rule on inner "
                "products of sketches (norm-bound, multi-krum, flame, ...); plaintext baselines "
                "run in the benchmarks"
            )
        if thresholds.min_accepted >= thresholds.clients:
            raise CharterError(
                f"robustness: every sum needs all {thresholds.clients} clients, so a verdict could "
                "remove nobody; raise limits.dropouts, which counts removed clients too"
            )
        if not 1 <= self.norm_bound * scale <= MAX_NORM_STEPS:
            raise CharterError(
                f"robustness.norm_bound is {self.norm_bound}, {self.norm_bound * scale:.3g} steps "
                "of the quantiser; expected 1 to 2^40: change it or quantiser.scale"
            )
        if self.root is not None and self.root not in clients:
            raise CharterError(
                f"robustness.root is {self.root!r}, who is no client of the roster; the root is "
                "the client whose data the others vouch for"
            )
        self.layout(values)

    def layout(self, values: int) -> SketchLayout:
        """Which of so many values are sketched together.

        Raises
        ------
        CharterError
            if the groups do not cover them, or there are too few values for a sketch.
        """
        if len(self.groups) not in GROUP_COUNTS:
            raise CharterError(
                f"robustness.groups has {len(self.groups)} entries, expected one of {GROUP_COUNTS}"
            )
        try:
            if not self.groups:
                return SketchLayout.whole(values)
            groups = tuple(
                SketchGroup(group.name, tuple((start, stop) for start, stop in group.spans))
                for group in self.groups
            )
            return SketchLayout(values, groups)
        except CryptoError as error:
            raise CharterError(f"robustness: {error}") from error
