"""A client's privacy ledger at work: charge before training, settle afterwards, keep to the budget.

The ledger itself, its accountant and its rules are the audit package's; this module knows the
charter, the site's state file and what a round of this federation costs.
"""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

from fedfm_audit.errors import BudgetExceededError
from fedfm_audit.privacy.budget import Budget, check_budget
from fedfm_audit.privacy.entries import Participants, PrivacyPredicate, Provenance
from fedfm_audit.privacy.events import (
    AbortedRound,
    Charge,
    CompletedRound,
    CompletedSession,
    DiscreteGaussianSteps,
    SkellamSteps,
)
from fedfm_audit.privacy.ledger import InstitutionLedger, LedgerTerms, reserve
from fedfm_audit.privacy.terms import PrivacyTerms, read_terms
from fedfm_audit.thresholds import Thresholds
from fedfm_crypto.distributed_noise import NoiseShares
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import system_random
from fedfm_crypto.sensitivity import vector_sensitivity
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import MAX_CHARGES
from fedfm_protocols.privacy import ClientPrivacy, LocalPrivacy, SharedNoisePrivacy
from secure_fedfm.errors import StorageError
from secure_fedfm.installed import code_hash
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.privacy.plan import PrivatePlan, SharedNoisePlan
from secure_fedfm.storage.database import Database
from secure_fedfm.storage.ledger import DatabaseLedgerStore

GENERATOR = "operating system, AES-256-CTR"
RELEASED = {
    "local": "noised sums of clipped per-example gradients, and all that follows from them",
    "client": "the opened sum of clipped and noised updates",
    "shared-noise": "at every step the opened sum of all institutions' clipped per-example "
    "gradients and shares of the noise, and all that follows from it",
}


class RoundLedger:
    """Charges every round of one client, in the privacy modes that promise something.

    Opening it checks the stored entries.
    """

    def __init__(
        self,
        federation: Federation,
        key: IdentityKey,
        name: str,
        database: Database,
        layout: TensorLayout,
        private: PrivatePlan | SharedNoisePlan | None,
        rows: bytes,
    ) -> None:
        terms = _terms(federation)
        self._store = DatabaseLedgerStore(database)
        self._session = terms.shared_noise is not None
        self._event = _event(federation, terms, private, layout.size)
        self._ledger = InstitutionLedger(
            LedgerTerms(
                federation=federation.charter.federation,
                charter=federation.charter_hash.hex(),
                institution=name,
                key=key.public.hex,
                unit=terms.unit,
                adversary=terms.adversary,
                released=RELEASED[terms.mode],
                participants=Participants(len(federation.clients), terms.honest_shares),
                hashes=_provenance(federation, layout, _salted(database, rows)),
                generator=GENERATOR,
                # The charter's noise is calibrated by PLD; either bound holds.
                budget=Budget(terms.epsilon, terms.delta, "pld"),
            ),
            key,
            self._store,
        )
        self._charges: dict[int, int] = {}
        for entry in self._ledger.state.open_charges:  # what a crash left; they stay spent
            self._ledger.settle(
                AbortedRound(charge=entry.sequence, reason="the client was restarted in the round")
            )

    def objection(self) -> str:
        """Why another round cannot be paid for; empty if it can."""
        state = self._ledger.state
        try:
            check_budget(state.events, self._event, state.terms.budget)
        except BudgetExceededError as error:
            return str(error)
        return ""

    def prepare(self, number: int) -> PrivacyPredicate:
        """The entry that charges a round.  Takes a second or two and touches nothing, so another
        thread may do it.

        Raises
        ------
        BudgetExceededError
            if the round no longer fits.
        """
        return reserve(self._ledger.state, round=number, event=self._event)

    def enter(self, entry: PrivacyPredicate) -> None:
        """Charge the round of a prepared entry; on disk when this returns."""
        self._ledger.append(entry)
        self._charges[entry.round] = entry.sequence

    def settle(self, number: int, *, accepted: int, aggregate: bytes, steps: int = 1) -> None:
        """Say what came of a charged round: a sum of ``accepted`` updates (with the salted hash of
        its aggregate), or, for an empty ``aggregate``, nothing.  The charge stands either way.

        Of a session ``steps`` is how many sums there were, ``accepted`` the fewest updates in one
        of them, ``aggregate`` that of the last.  Steps that were charged and gave no sum are not
        given back: an update of theirs may be out, or a sum of it known to somebody.
        """
        charge = self._charges.pop(number, None)
        if charge is None:
            return
        if not aggregate:
            self._ledger.settle(AbortedRound(charge=charge, reason="the round gave no result"))
        elif self._session:
            self._ledger.settle(
                CompletedSession(
                    charge=charge, steps=steps, accepted=accepted, aggregate=aggregate.hex()
                )
            )
        else:
            self._ledger.settle(
                CompletedRound(charge=charge, accepted=accepted, aggregate=aggregate.hex())
            )

    def unlogged(self) -> tuple[bytes, ...]:
        """Entries that the federation's log may lack, for the next upload hash, in order.

        Raises
        ------
        StorageError
            if more have piled up than one message carries.
        """
        waiting = self._store.unlogged()
        if len(waiting) > MAX_CHARGES:
            raise StorageError(
                f"{len(waiting)} entries of the privacy ledger have not reached the federation's "
                f"log, {MAX_CHARGES} at most travel with an update: this site charged that many "
                "rounds without finishing one; find out why before it goes on"
            )
        return waiting

    def mark_logged(self, leaves: tuple[bytes, ...]) -> None:
        """Note that the log holds these entries."""
        self._store.mark_logged(leaves)

    def spent(self) -> str:
        """What has been spent, for an operator."""
        cost, budget = self._ledger.state.spent(), self._ledger.state.terms.budget
        return f"epsilon {cost.epsilon:.3f} of {budget.epsilon:g} at delta {budget.delta:g}"


def open_ledger(
    federation: Federation,
    key: IdentityKey,
    name: str,
    database: Database,
    layout: TensorLayout,
    private: PrivatePlan | SharedNoisePlan | None,
    rows: bytes,
) -> RoundLedger | None:
    """The ledger of this site, or None where the charter promises nothing.

    ``rows`` is the SHA-256 of the site's rows; entries hold a salted hash of it.
    """
    if federation.charter.privacy.mode == "none":
        return None
    return RoundLedger(federation, key, name, database, layout, private, rows)


def privacy_terms(federation: Federation) -> PrivacyTerms | None:
    """What the charter promises, as auditors read it."""
    limits = federation.charter.limits
    return read_terms(
        federation.charter.privacy.model_dump(mode="json"),
        Thresholds(len(federation.clients), limits.colluding, limits.dropouts),
        federation.charter.quantiser.values,
        federation.charter.quantiser.scale,
    )


def _terms(federation: Federation) -> PrivacyTerms:
    terms = privacy_terms(federation)
    if terms is None:
        raise StorageError("a federation without privacy terms keeps no ledger")
    return terms


def _event(
    federation: Federation,
    terms: PrivacyTerms,
    private: PrivatePlan | SharedNoisePlan | None,
    dimension: int,
) -> Charge:
    privacy = federation.charter.privacy
    if isinstance(privacy, SharedNoisePrivacy):
        return terms.planned_event()
    if isinstance(privacy, LocalPrivacy) and isinstance(private, PrivatePlan):
        from secure_fedfm.privacy.release import NoiseGrid  # noqa: PLC0415 - loads torch

        grid = NoiseGrid.of(private, dimension)
        return grid.charge(privacy.sampling_rate, privacy.steps_per_round)
    if not isinstance(privacy, ClientPrivacy):
        raise StorageError(f"privacy mode {privacy.mode} cannot be charged")
    scale, lanes = federation.lanes.scale, federation.lane_count
    shares = NoiseShares(
        mechanism=privacy.mechanism,
        noise_multiplier=privacy.noise_multiplier,
        clip=privacy.clip_l2,
        scale=scale,
        min_honest=terms.honest_shares,
    )
    # The very bound that the rounding of an update is checked against.
    bound = Fraction(vector_sensitivity(privacy.clip_l2, scale, lanes))
    kind = SkellamSteps if privacy.mechanism == "skellam" else DiscreteGaussianSteps
    return kind(
        share_variance=shares.variance,
        honest_shares=terms.honest_shares,
        clip=privacy.clip_l2,
        scale=scale,
        rounding="vector",
        sensitivity_squared=math.floor(bound**2),
        dimension=lanes,
        sampling_rate=1.0,
        steps=1,
        distance=shares.statistical_distance(terms.honest_shares, lanes),
    )


def _provenance(federation: Federation, layout: TensorLayout, data: bytes) -> Provenance:
    return Provenance(
        parameters=layout.hash().hex(),
        code=code_hash().hex(),
        config=federation.config_hash.hex(),
        model=federation.charter.model.sha256,
        data=data.hex(),
    )


def _salted(database: Database, rows: bytes) -> bytes:
    """A commitment to the rows; the salt stays here, and erasing it erases what the hash says."""
    salt = database.recall("data-salt")
    if salt is None:
        salt = system_random(32)
        database.remember({"data-salt": salt})
    return hashlib.sha256(salt + rows).digest()
