"""A site's own policy: it can only be stricter than the charter.

A client refuses a charter, or the opening of a round, that falls short of its policy, and names
the line that was broken.  Source: protocols/README.md, section "Charter".
"""

from __future__ import annotations

from dataclasses import dataclass

from fedfm_protocols.charter import Charter
from fedfm_protocols.errors import PolicyViolation


@dataclass(frozen=True, slots=True)
class SitePolicy:
    """What this site insists on, whatever the charter says.

    ``charter_hash`` pins the agreed charter (hex SHA-256, empty accepts any that is validly
    signed); ``suites`` are the protection suites it takes part in.

    Source: protocols/README.md, section "Charter".
    """

    suites: tuple[str, ...] = ("layered",)
    min_clients: int = 3
    min_colluding: int = 1
    min_accepted: int = 3
    max_rounds: int = 1000
    privacy_modes: tuple[str, ...] = ("none", "local", "client", "shared-noise")
    model_sha256: str = ""
    charter_hash: str = ""

    def check_charter(self, charter: Charter) -> None:
        """Refuse a charter below this policy.

        Raises
        ------
        PolicyViolation
            naming the policy line, what it demands and what the charter has.
        """
        thresholds = charter.thresholds
        if self.charter_hash and charter.hash.hex() != self.charter_hash:
            self._refuse("charter_hash", self.charter_hash, charter.hash.hex())
        if charter.suite not in self.suites:
            self._refuse("suites", "one of " + ", ".join(self.suites), charter.suite)
        if thresholds.clients < self.min_clients:
            self._refuse("min_clients", f"at least {self.min_clients}", thresholds.clients)
        if thresholds.colluding < self.min_colluding:
            self._refuse("min_colluding", f"at least {self.min_colluding}", thresholds.colluding)
        if thresholds.min_accepted < self.min_accepted:
            self._refuse("min_accepted", f"at least {self.min_accepted}", thresholds.min_accepted)
        if charter.rounds > self.max_rounds:
            self._refuse("max_rounds", f"at most {self.max_rounds}", charter.rounds)
        if charter.privacy.mode not in self.privacy_modes:
            self._refuse(
                "privacy_modes", "one of " + ", ".join(self.privacy_modes), charter.privacy.mode
            )
        if self.model_sha256 and charter.model.sha256 != self.model_sha256:
            self._refuse("model_sha256", self.model_sha256, charter.model.sha256)

    @staticmethod
    def _refuse(line: str, demanded: str, found: object) -> None:
        raise PolicyViolation(
            f"local policy {line}: {demanded} is demanded, the charter has {found}; "
            "ask the founders for another charter, or change the policy file of this site"
        )
