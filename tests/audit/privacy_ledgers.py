"""Ledgers for tests: terms, and a synthetic federation whose clients charge every round."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedfm_audit.privacy.budget import Budget
from fedfm_audit.privacy.entries import Adversary, Participants, PrivacyPredicate, Provenance
from fedfm_audit.privacy.events import (
    Charge,
    CompletedRound,
    CompletedSession,
    DiscreteGaussianSteps,
    GaussianSteps,
    least_sensitivity_squared,
)
from fedfm_audit.privacy.ledger import InstitutionLedger, LedgerTerms, MemoryStore
from fedfm_audit.privacy.shared_noise import SharedNoise
from fedfm_audit.statements import open_leaf, privacy_statement, sign_statement
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import SeededRandom
from tests.audit.played_round import Script
from tests.audit.synthetic import NAME, SHARED_NOISE, Federation

KEY = IdentityKey.generate(SeededRandom(b"ledger"))
HASH = "ab" * 32
EVENT = GaussianSteps(noise_multiplier=1.5, clip=1.0, sampling_rate=0.05, steps=20)
"""Five rounds of it cost epsilon 1.879 by RDP at delta 1e-5, six 2.042."""

LOCAL: dict[str, Any] = {
    "mode": "local",
    "epsilon": 2.0,
    "delta": 1e-5,
    "noise_multiplier": 1.5,
    "sampling_rate": 0.05,
    "steps_per_round": 20,
    "clip": 1.0,
}
CLIENT: dict[str, Any] = {
    "mode": "client",
    "epsilon": 6.0,
    "delta": 1e-5,
    "noise_multiplier": 4.0,
    "clip_l2": 1.0,
    "mechanism": "discrete-gaussian",
    "rotation": False,
}
SHARED = DiscreteGaussianSteps(
    share_variance=(4.0 * 4096) ** 2 / 3,
    honest_shares=3,
    clip=1.0,
    scale=4096,
    rounding="vector",
    sensitivity_squared=least_sensitivity_squared(1.0, 4096, 64, "vector"),
    dimension=64,
    sampling_rate=1.0,
    steps=1,
    distance=0.0,
)

SESSION = SharedNoise(
    mechanism="discrete-gaussian",
    clip=SHARED_NOISE["clip"],
    scale=4096,
    dimension=64,
    honest_shares=SHARED_NOISE["honest_shares"],
    sampling_rate=SHARED_NOISE["sampling_rate"],
    steps=SHARED_NOISE["steps_per_round"],
).event(SHARED_NOISE["noise_multiplier"])


def terms(**changes: Any) -> LedgerTerms:
    """Terms of a ledger under KEY; PLD figures off, for speed."""
    usual = LedgerTerms(
        federation=NAME,
        charter=HASH,
        institution="client-01",
        key=KEY.public.hex,
        unit="example",
        adversary=Adversary("everyone-else", 4),
        released="own-update",
        participants=Participants(5, 1),
        hashes=Provenance(HASH, HASH, HASH, HASH, HASH),
        generator="aes-256-ctr",
        budget=Budget(2.0, 1e-5),
        pld=False,
    )
    return replace(usual, **changes)


class PrivateFederation:
    """A synthetic federation with a privacy mode: every client charges, then the round is played.

    ``change`` may replace any entry before it is signed.
    """

    def __init__(self, section: Mapping[str, Any], *, pld: bool = False, **options: Any) -> None:
        self.federation = Federation(
            change_charter=lambda fields: fields.update(privacy=dict(section)), **options
        )
        events: dict[str, Charge] = {"local": EVENT, "client": SHARED, "shared-noise": SESSION}
        self.event = events[section["mode"]]
        self.ledgers = {
            name: InstitutionLedger(
                self._terms(name, section, pld=pld), self.federation.keys[name], MemoryStore()
            )
            for name in self.federation.names
        }

    def _terms(self, name: str, section: Mapping[str, Any], *, pld: bool) -> LedgerTerms:
        local, client = section["mode"] == "local", section["mode"] == "client"
        return terms(
            charter=self.federation.charter_hash.hex(),
            institution=name,
            key=self.federation.keys[name].public.hex,
            unit="client" if client else "example",
            adversary=Adversary("everyone-else", 4) if local else Adversary("sum-observers", 1),
            released="own-update" if local else "opened-sum",
            participants=Participants(5, 1 if local else 3),
            budget=Budget(section["epsilon"], section["delta"], "pld" if pld else "rdp"),
            pld=pld,
        )

    def play(self, script: Script | None = None, *, silent: Sequence[str] = ()) -> None:
        """Charge in every ledger but those of ``silent``, then play the round."""
        number = len(self.federation.transcripts) + 1
        for name, ledger in self.ledgers.items():
            if name not in silent:
                self.federation.leaves.append(ledger.reserve(number, self.event))
        self.federation.play(script or Script())

    def settle(self, accepted: int = 5) -> None:
        """Settle what is open, as completed."""
        for ledger in self.ledgers.values():
            for charge in ledger.state.open_charges:
                event = CompletedRound(charge=charge.sequence, accepted=accepted, aggregate=HASH)
                self.federation.leaves.append(ledger.settle(event))

    def settle_session(self, steps: int, accepted: int = 5) -> None:
        """Settle what is open, as sessions with so many steps."""
        for ledger in self.ledgers.values():
            for charge in ledger.state.open_charges:
                event = CompletedSession(
                    charge=charge.sequence, steps=steps, accepted=accepted, aggregate=HASH
                )
                self.federation.leaves.append(ledger.settle(event))

    def indices(self, name: str) -> list[int]:
        """Leaf indices of an institution's entries."""
        return [
            index
            for index, leaf in enumerate(self.federation.leaves)
            if isinstance(entry := self.entry(index, leaf), PrivacyPredicate)
            and entry.institution == name
        ]

    def entry(self, index: int, leaf: bytes | None = None) -> object:
        """The predicate of a leaf."""
        keys = {key.public.hex: key.public for key in self._keys().values()}
        data = self.federation.leaves[index] if leaf is None else leaf
        return open_leaf(data, keys).statement.predicate

    def alter(
        self,
        index: int,
        change: Callable[[PrivacyPredicate], PrivacyPredicate],
        signer: str | None = None,
    ) -> bytes:
        """Another leaf for an entry, signed again by its institution (or by ``signer``)."""
        entry = self.entry(index)
        assert isinstance(entry, PrivacyPredicate)
        changed = change(entry)
        key = self._keys()[signer or entry.institution]
        return sign_statement(privacy_statement(changed), key)

    def files(self, leaves: Sequence[bytes] | None = None) -> dict[str, bytes]:
        """The bundle's files, of these leaves instead if given."""
        return self.federation.files(leaves=leaves)

    def _keys(self) -> dict[str, IdentityKey]:
        return {**self.federation.keys, "coordinator": self.federation.coordinator}


def leaf_digest(leaf: bytes) -> str:
    """Hex SHA-256 of a leaf."""
    return hashlib.sha256(leaf).hexdigest()
