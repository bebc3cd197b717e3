"""The phases of a round as the coordinator sees it.

::

    Offering [-> Drawing] -> Sharing -> Committing -> Uploading
        [-> Measuring -> Scoring -> Judging]                        (a validator judges)
        -> Voting -> Unmasking [-> Decrypting [-> Decrypting]]
        [-> Reporting -> Comparing]                                 (a validator judged)
        -> Acking -> Finished
             or, where another step follows, -> Committing
    Offering -> Dealing -> KeyAcking -> Finished       (a round that makes a collective key)

Every phase also ends in Finished when the round cannot go on.  A phase is over when everyone who is
still there has answered, or when its deadline passes and enough have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import RandomSource
from fedfm_protocols.coordinator_round import (
    CollectiveKey,
    CompletedRound,
    Group,
    Round,
    StepSum,
)
from fedfm_protocols.encryption import Encryption
from fedfm_protocols.errors import RoundAborted
from fedfm_protocols.federation import Federation
from fedfm_protocols.key_messages import KeyDealing
from fedfm_protocols.messages import Cohort, KeyOffer, ShareBundle, Unmask, Upload, UploadHash
from fedfm_protocols.neighbourhood import Neighbourhoods
from fedfm_protocols.robust_messages import BeaconNonces, BindingResult, Verdict
from fedfm_protocols.sketching import Sketching
from fedfm_protocols.summing import Opening, Total


@dataclass(frozen=True, slots=True)
class CoordinatorSite:
    """The coordinator's identity key and the charter it serves.

    Source: protocols/README.md, section "A round".
    """

    key: IdentityKey = field(repr=False)
    federation: Federation = field(repr=False)

    @property
    def name(self) -> str:
        """The coordinator's name."""
        return self.federation.coordinator


@dataclass(frozen=True, slots=True)
class Offering:
    """Step 1: collecting key offers; ``owners`` says whose each public key is."""

    round: Round
    offers: Mapping[str, Envelope]
    owners: Mapping[bytes, str]


@dataclass(frozen=True, slots=True)
class Dealing:
    """Step K1 of a round that makes a key: collecting what its ``holders`` deal."""

    round: Round
    offers: Mapping[str, KeyOffer]
    holders: tuple[str, ...]
    dealings: Mapping[str, KeyDealing]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Step 2 on a sparse graph: collecting opened nonces."""

    round: Round
    offers: Mapping[str, KeyOffer]
    nonces: Mapping[str, Envelope]


@dataclass(frozen=True, slots=True)
class Sharing:
    """Step 3: collecting share bundles from everyone who takes part."""

    round: Round
    offers: Mapping[str, KeyOffer]
    hood: Neighbourhoods
    bundles: Mapping[str, ShareBundle]


@dataclass(frozen=True, slots=True)
class Committing:
    """Step 4a: the dealers train; collecting the hashes of their uploads; ``owners`` says whose
    each of these hashes is.

    ``before`` is the step before, whose acknowledgements are collected as well: an upload builds
    on the adapter that its sender acknowledged.
    """

    round: Round
    group: Group
    before: StepSum | None
    hashes: Mapping[str, Envelope]
    owners: Mapping[bytes, str]


@dataclass(frozen=True, slots=True)
class Uploading:
    """Step 4c: adding up uploads as they come; ``total`` is the protected sum so far (words, or a
    ciphertext that is opaque to the protocol), ``uploaded`` says whose are in it.  With encryption
    ``wraps`` holds the wrapped keys, each of which comes before the update that it opens.  Where a
    validator judges nothing is added yet: ``kept`` are the uploads, ``nonces`` opens the beacon."""

    round: Round
    group: Group
    upload_set: bytes
    hashes: Mapping[str, UploadHash]
    uploaded: frozenset[str]
    wraps: Mapping[str, Envelope] = field(repr=False)
    total: Total | None = field(repr=False)
    kept: Mapping[str, Upload] = field(default_factory=dict, repr=False)
    nonces: Mapping[str, Envelope] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measuring:
    """Step 6: collecting sketches from the candidates, whose ``uploads`` wait for the verdict;
    ``sketches`` holds the signed messages, ``ciphertexts`` what is in them."""

    round: Round
    group: Group
    upload_set: bytes
    nonces: BeaconNonces
    uploads: Mapping[str, Upload] = field(repr=False)
    wraps: Mapping[str, Envelope] = field(repr=False)
    sketches: Mapping[str, Envelope]
    ciphertexts: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Scoring:
    """Step 7: the sketches are being multiplied, outside of the state machine."""

    round: Round
    measured: Measuring


@dataclass(frozen=True, slots=True)
class Judging:
    """Step 7: waiting for the validator's verdict on the request with this hash."""

    round: Round
    measured: Measuring
    request_hash: bytes
    verdict: tuple[Envelope, Verdict] | None


@dataclass(frozen=True, slots=True)
class JudgedSum:
    """What is kept of a verdict for step 13: its hash, and the encrypted sum of the accepted
    sketches.

    Source: protocols/README.md, step 13.
    """

    verdict_hash: bytes
    sketched: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Voting:
    """Step 9: collecting votes on the one cohort."""

    round: Round
    group: Group
    cohort: Cohort
    cohort_hash: bytes
    votes: Mapping[str, Envelope]
    wraps: Mapping[str, Envelope] = field(repr=False)
    total: Total = field(repr=False)
    judged: JudgedSum | None = None

    @property
    def named(self) -> bytes:
        """What the header of a vote refers to: the cohort, or the verdict behind it."""
        return self.cohort_hash if self.judged is None else self.judged.verdict_hash


@dataclass(frozen=True, slots=True)
class Unmasking:
    """Step 11: collecting shares until every needed secret can be rebuilt.

    ``usable`` counts the shares taken so far by the dealer whose secret they rebuild.
    """

    round: Round
    group: Group
    cohort: Cohort
    cohort_hash: bytes
    opening: Opening = field(repr=False)
    reveals: Mapping[str, Unmask] = field(repr=False)
    usable: Mapping[str, int] = field(repr=False)
    wraps: Mapping[str, Envelope] = field(repr=False)
    voters: frozenset[str]
    total: Total = field(repr=False)
    judged: JudgedSum | None = None


@dataclass(frozen=True, slots=True)
class Decrypting:
    """Step 11 with encryption: collecting the openings of one active set of key holders.

    ``words`` is the ciphertext sum without its masks; ``candidates`` are the holders that may be
    asked; ``attempt`` is 1, or 2 after somebody of the first set did not answer.
    """

    round: Round
    group: Group
    cohort: Cohort
    cohort_hash: bytes
    wraps: tuple[bytes, ...] = field(repr=False)
    candidates: tuple[str, ...]
    attempt: int
    active: tuple[str, ...]
    active_hash: bytes
    openings: Mapping[str, Envelope] = field(repr=False)
    words: bytes = field(repr=False)
    judged: JudgedSum | None = None


@dataclass(frozen=True, slots=True)
class Reporting:
    """Step 13 where a validator judged: collecting sketches of the sum, boxed to it."""

    round: Round
    result: StepSum
    judged: JudgedSum
    reports: Mapping[str, Envelope]


@dataclass(frozen=True, slots=True)
class Comparing:
    """Step 13: waiting for the validator to compare the sum with what it judged."""

    round: Round
    result: StepSum
    binding: tuple[Envelope, BindingResult] | None


@dataclass(frozen=True, slots=True)
class Acking:
    """Step 14 of the last step: collecting acknowledgements of the new adapter; ``deviators``
    told the validator another sketch of the sum than the quorum."""

    round: Round
    result: StepSum
    deviators: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyAcking:
    """Step 14 of a round that makes a key: collecting acknowledgements of ``key`` from those who
    can have it."""

    round: Round
    key: CollectiveKey
    recipients: tuple[str, ...]
    acks: Mapping[str, Envelope]


@dataclass(frozen=True, slots=True)
class Finished:
    """The round is over; ``record`` is there if it completed a sum, ``key`` if it completed a key.

    ``accepted`` and ``removed`` are those of the last good step, or of the cohort that the round
    got as far as, empty where there was none; ``dissenters`` acknowledged another adapter than
    the quorum.

    Source: protocols/README.md, section "A round".
    """

    round: Round
    outcome: str
    reason: str
    adapter_hash: bytes
    accepted: tuple[str, ...]
    removed: tuple[str, ...]
    dissenters: tuple[str, ...]
    record: CompletedRound | None
    key: CollectiveKey | None = None


RunningRound = (
    Offering
    | Dealing
    | Drawing
    | Sharing
    | Committing
    | Uploading
    | Measuring
    | Scoring
    | Judging
    | Voting
    | Unmasking
    | Decrypting
    | Reporting
    | Comparing
    | Acking
    | KeyAcking
)
CoordinatorState = RunningRound | Finished

_PHASES: Mapping[type[RunningRound], str] = MappingProxyType(
    {
        Offering: "offers",
        Dealing: "key_shares",
        Drawing: "nonces",
        Sharing: "shares",
        Committing: "training",
        Uploading: "uploads",
        Measuring: "sketches",
        Scoring: "scores",
        Judging: "verdict",
        Voting: "votes",
        Unmasking: "unmasking",
        Reporting: "sum_sketches",
        Comparing: "binding",
        Acking: "acknowledgements",
        KeyAcking: "key_acknowledgements",
    }
)


def phase_of(state: RunningRound) -> str:
    """What a phase waits for, as deadlines and operators name it."""
    if isinstance(state, Decrypting):
        return "decryption" if state.attempt == 1 else "second_decryption"
    return _PHASES[type(state)]


@dataclass(frozen=True, slots=True)
class CoordinatorContext:
    """What a transition may use besides state and event: the site, its randomness, and the
    encryption of a suite that has one (adding up and checking; it holds no key), the sketching of
    a robust federation likewise.

    Source: protocols/README.md, section "A round".
    """

    site: CoordinatorSite
    random: RandomSource
    encryption: Encryption | None = None
    sketching: Sketching | None = None

    def need_sketching(self) -> Sketching:
        """The sketches of a robust federation.

        Raises
        ------
        RoundAborted
            if none was passed in.
        """
        if self.sketching is None:
            raise RoundAborted(
                "this federation's updates are judged by their sketches and this coordinator has "
                "no sketching at hand; install the federation extra"
            )
        return self.sketching

    def need_encryption(self) -> Encryption:
        """The encryption of a suite that cannot do without.

        Raises
        ------
        RoundAborted
            if none was passed in.
        """
        if self.encryption is None:
            suite = self.site.federation.charter.suite
            raise RoundAborted(
                f"suite {suite} encrypts updates and this coordinator has no encryption at hand; "
                "install the federation extra"
            )
        return self.encryption
