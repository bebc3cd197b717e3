"""What the demo can be asked for (no torch: the command line reads this)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedfm_protocols.charter import Suite
from secure_fedfm.errors import ConfigurationError

DEFAULT_OUT = Path("runs/demo")
# More processes than this on one machine would only wait for each other.
MOST_CLIENTS = 64


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """One run of the demo.

    Fields:
        clients: size of the federation.
        rounds: rounds of training, or sessions where noise is shared; None takes what the recipe
            was measured with for so many rows.
        suite: protection of updates. privacy: its mode; epsilon: the budget (at delta 1e-5) in a
            mode that has one: each institution's, or with shared noise that of every row.
        data: file, folder or hub data set; None takes the generated support tickets.
        text_column, label_column: columns of `data`; None takes the first usual name.
        out: folder that gets adapter/, bundle/ and metrics.json.
        seed: seed of the split, of the batches and of the initial adapter.
        split, alpha: how rows are dealt to clients; alpha is Dirichlet's concentration.
        central: whether the centrally trained baseline is measured too.
        archive: whether the coordinator keeps a replay archive and every sum is repeated from it.
        robust: whether a validator judges every update, by the default rule.
        attackers: so many of the institutions, the last ones, replace the model (attack.py).
        marks: whether owners commit to marks and write them after training, if the adapter can
            carry any.
        json: whether metrics are printed as one JSON document on stdout at the end.
    """

    clients: int = 5
    rounds: int | None = None
    suite: Suite = "layered"
    privacy: Literal["none", "local", "client", "shared-noise"] = "local"
    epsilon: float = 8.0
    data: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    out: Path = DEFAULT_OUT
    seed: int = 1
    split: Literal["iid", "dirichlet"] = "iid"
    alpha: float = 0.5
    central: bool = True
    archive: bool = False
    robust: bool = False
    attackers: int = 0
    marks: bool = True
    json: bool = False

    def __post_init__(self) -> None:
        checks: tuple[tuple[str, object, bool, str], ...] = (
            (
                "clients",
                self.clients,
                3 <= self.clients <= MOST_CLIENTS,
                f"3 to {MOST_CLIENTS}: the sum of two updates shows each of them to the other",
            ),
            ("rounds", self.rounds, self.rounds is None or self.rounds >= 1, "at least 1"),
            ("seed", self.seed, 0 <= self.seed < 1 << 32, "from 0 to 2**32 - 1"),
            ("epsilon", self.epsilon, 0 < self.epsilon < float("inf"), "a positive number"),
            ("alpha", self.alpha, 0 < self.alpha < float("inf"), "a positive number"),
        )
        for name, value, good, expected in checks:
            if not good:
                raise ConfigurationError(f"--{name} is {value}; expected {expected}")
        self._check_attack()
        if self.out.exists() and not self.out.is_dir():
            raise ConfigurationError(f"--out is {self.out}, a file; expected a folder")

    def _check_attack(self) -> None:
        if not 0 <= self.attackers < self.clients / 2:
            raise ConfigurationError(
                f"--attackers is {self.attackers}; expected fewer than half of {self.clients}"
            )
        if self.robust and self.privacy in ("client", "shared-noise"):
            raise ConfigurationError(
                f"--robust with --privacy {self.privacy}: an update carries only its share of the "
                "noise there, and scores of it would break the promise; take none"
            )
        if self.robust and self.privacy == "local":
            raise ConfigurationError(
                "--robust with --privacy local: this demo's private recipe (two matrices of rank 8 "
                "and the head) trains fewer than the 65,536 values that a sketch needs; take "
                "--privacy none, or draft a charter with both and an [adapter] that is large "
                "enough (`charter new`)"
            )
        if self.attackers and self.privacy != "none":
            raise ConfigurationError(
                "--attackers goes with --privacy none: what is shown is the rule, and an attacker "
                "keeps to no clip and adds no noise"
            )
