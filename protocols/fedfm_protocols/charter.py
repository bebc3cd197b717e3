"""The charter: what the founders agreed on, signed by their quorum before anything else.

Canonical JSON (RFC 8785) inside a DSSE envelope.  Its SHA-256 is part of every context string, so
every signature of every round is also a signature under this charter.  Fields:
protocols/README.md, section "Charter".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from fedfm_crypto.agreement import check_agreement_public
from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.dsse import dsse_add_signature, dsse_open, dsse_read_unverified, dsse_sign
from fedfm_crypto.errors import CanonicalJSONError, DSSEError, FedFMError
from fedfm_crypto.identity import IdentityKey, IdentityPublicKey
from fedfm_crypto.note import NoteAlgorithm, parse_vkey
from fedfm_crypto.quantise import Quantiser
from fedfm_protocols.errors import CharterError
from fedfm_protocols.marks import Watermark
from fedfm_protocols.privacy import Privacy, SharedNoisePrivacy, UpdateEncoding
from fedfm_protocols.robustness import Robustness
from fedfm_protocols.thresholds import Thresholds

CHARTER_PAYLOAD_TYPE = "application/vnd.secure-fedfm.charter+json"

NameText = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Suite = Literal["layered", "masked", "sealed", "clear"]
ENCRYPTED_SUITES = ("sealed", "layered")
MAX_ENCRYPTED_CLIENTS = 1000  # beyond, a sum of ciphertexts may come out wrong
MAX_KEY_THRESHOLD = 500  # beyond, the flooding of so many partial decryptions spoils the sum


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Coordinator(_Section):
    """The coordinator's two public keys: Ed25519 identity and CURVE transport.

    Source: protocols/README.md, section "Charter".
    """

    name: NameText
    identity: Hex32
    transport: Hex32


class Client(_Section):
    """One institution: its keys, and the SHA-256 of its enrolment statement.

    Source: protocols/README.md, section "Charter".
    """

    name: NameText
    identity: Hex32
    transport: Hex32
    enrolment: Hex32


class Validator(_Section):
    """The party that judges hidden updates by their sketches: keys and enrolment as a client's,
    but neither shares nor a vote.

    Source: protocols/README.md, section "Robust rounds".
    """

    name: NameText
    identity: Hex32
    transport: Hex32
    enrolment: Hex32


class Founders(_Section):
    """Which clients sign the charter, and how many of them make it valid.

    Source: protocols/README.md, section "Charter".
    """

    names: list[NameText] = Field(min_length=1)
    quorum: int = Field(ge=1)


class LogSection(_Section):
    """Origin line and verification key (C2SP vkey) of the transparency log.

    Source: protocols/README.md, section "Charter".
    """

    origin: str = Field(min_length=1, max_length=255)
    key: str = Field(min_length=1, max_length=512)


class Model(_Section):
    """The base model by name, and the SHA-256 of its weights file.

    Source: protocols/README.md, section "Charter".
    """

    name: str = Field(min_length=1, max_length=255)
    sha256: Hex32


class Task(_Section):
    """What is learned; ``labels`` in the order of the classifier's outputs.

    Source: protocols/README.md, section "Charter".
    """

    kind: Literal["classification", "causal-lm"]
    labels: list[str]


class Limits(_Section):
    """Clients that may collude, clients that may vanish in a round.

    Source: protocols/README.md, section "Charter".
    """

    colluding: int
    dropouts: int


class QuantiserSection(_Section):
    """Number of values in an update, element-wise clip (in units of the update), integer scale,
    bits per lane.

    Source: protocols/README.md, section "Charter".
    """

    values: int = Field(ge=1, le=1 << 28)
    clip: float = Field(gt=0)
    scale: int = Field(ge=1)
    lane_bits: Literal[24, 32]


class Charter(_Section):
    """All that participants agree on.  ``adapter``, ``training`` and ``server_optimiser`` are
    read by the application; the protocol binds them by hash.  ``validator`` and ``robustness`` are
    there in robust federations, both or neither; ``watermark`` where the adapter gets marks.

    Source: protocols/README.md, section "Charter".
    """

    version: Literal[1]
    federation: NameText
    coordinator: Coordinator
    roster: list[Client]
    founders: Founders
    log: LogSection
    model: Model
    task: Task
    adapter: dict[str, JsonValue]
    training: dict[str, JsonValue]
    server_optimiser: dict[str, JsonValue]
    rounds: int = Field(ge=1, le=100_000)
    suite: Suite
    limits: Limits
    quantiser: QuantiserSection
    privacy: Privacy
    initial_adapter: Hex32
    validator: Validator | None = None
    robustness: Robustness | None = None
    watermark: Watermark | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Charter:
        names = [client.name for client in self.roster]
        if names != sorted(set(names)):
            raise ValueError("roster must be sorted by name and hold each name once")
        if self.coordinator.name in names:
            raise ValueError(f"the coordinator's name {self.coordinator.name} is on the roster")
        self._check_validator(names)
        parties = self._parties()
        for field in ("identity", "transport"):
            seen: dict[str, str] = {}
            for party in parties:
                other = seen.setdefault(getattr(party, field), party.name)
                if other != party.name:
                    raise ValueError(
                        f"{other} and {party.name} have the same {field} key; every party "
                        "generates its own with `secure-fedfm keygen`"
                    )
        unknown = sorted(set(self.founders.names) - set(names))
        if unknown or len(set(self.founders.names)) != len(self.founders.names):
            raise ValueError(f"founders must be distinct clients of the roster, found {unknown}")
        if self.founders.quorum > len(self.founders.names):
            raise ValueError(
                f"founders.quorum is {self.founders.quorum} of {len(self.founders.names)} founders"
            )
        self._check_suite()
        try:
            self._check_sums()
            identities = self.identities()
            for party in parties:
                check_agreement_public(bytes.fromhex(party.transport))
            log_key = parse_vkey(self.log.key)
            self.payload()
        except FedFMError as error:
            raise ValueError(str(error)) from error
        if log_key.algorithm is not NoteAlgorithm.ED25519 or log_key.name != self.log.origin:
            raise ValueError(
                f"log.key must be an Ed25519 key named after log.origin {self.log.origin!r}, "
                f"found {log_key.algorithm.name} key {log_key.name!r}"
            )
        for name, identity in identities.items():
            if identity == log_key.public:
                raise ValueError(f"log.key is the identity key of {name}; the log needs its own")
        return self

    def _check_validator(self, names: list[str]) -> None:
        if (self.validator is None) != (self.robustness is None):
            raise ValueError(
                "validator and robustness come together: whoever judges needs a rule, and a rule "
                "somebody who applies it"
            )
        if self.validator is not None and self.validator.name in (*names, self.coordinator.name):
            raise ValueError(
                f"the validator's name {self.validator.name} is another party's; it is neither a "
                "client nor the coordinator"
            )

    def _check_suite(self) -> None:
        if self.suite not in ENCRYPTED_SUITES:
            return
        if len(self.roster) > MAX_ENCRYPTED_CLIENTS:
            raise ValueError(
                f"suite {self.suite} adds up to {MAX_ENCRYPTED_CLIENTS} updates exactly, the "
                f"roster has {len(self.roster)}; use suite masked or two federations"
            )
        if self.limits.colluding >= MAX_KEY_THRESHOLD:
            raise ValueError(
                f"limits.colluding is {self.limits.colluding}; with suite {self.suite} one more "
                f"than that open the sum together, {MAX_KEY_THRESHOLD} at most"
            )

    def _check_sums(self) -> None:
        thresholds = self.thresholds  # raises where the numbers leave no valid round
        if isinstance(self.privacy, SharedNoisePrivacy):
            self.privacy.check(self.suite, thresholds)
        self.encoding.check_capacity()
        if self.watermark is not None:
            self.watermark.check(self.clients, self.quantiser.lane_bits)
        if self.robustness is not None:
            self.robustness.check(
                self.suite,
                self.privacy.mode,
                thresholds,
                self.quantiser.values,
                self.quantiser.scale,
                self.clients,
            )

    def _parties(self) -> list[Client | Coordinator | Validator]:
        others = (
            [self.coordinator] if self.validator is None else [self.coordinator, self.validator]
        )
        return [*self.roster, *others]

    @property
    def thresholds(self) -> Thresholds:
        """Thresholds that follow from the roster and the limits."""
        return Thresholds(len(self.roster), self.limits.colluding, self.limits.dropouts)

    @property
    def lanes(self) -> Quantiser:
        """The quantiser that every client applies."""
        section = self.quantiser
        return Quantiser(clip=section.clip, scale=section.scale, lane_bits=section.lane_bits)

    @property
    def encoding(self) -> UpdateEncoding:
        """How every client turns its update into lane words, and the sum of these back."""
        values = self.quantiser.values
        return UpdateEncoding(self.lanes, self.privacy, self.thresholds, values)

    @property
    def clients(self) -> tuple[str, ...]:
        """Names of the roster, sorted; a client's share index is its position plus one."""
        return tuple(client.name for client in self.roster)

    def identities(self) -> dict[str, IdentityPublicKey]:
        """Identity key of every party by name, coordinator and validator included."""
        return {
            party.name: IdentityPublicKey(bytes.fromhex(party.identity))
            for party in self._parties()
        }

    def payload(self) -> bytes:
        """Canonical JSON, the bytes that are signed and hashed."""
        fields = self.model_dump(mode="json")
        for name in ("validator", "robustness", "watermark"):
            if fields[name] is None:  # the bytes of a charter without them have no such field
                del fields[name]
        if self.robustness is not None and self.robustness.root is None:
            del fields["robustness"]["root"]
        return canonical_encode(fields)

    @property
    def hash(self) -> bytes:
        """SHA-256 of the canonical payload, 32 bytes."""
        return hashlib.sha256(self.payload()).digest()

    @property
    def config_hash(self) -> bytes:
        """SHA-256 of the training configuration that a round runs under, 32 bytes."""
        config = {"training": self.training, "server_optimiser": self.server_optimiser}
        return hashlib.sha256(canonical_encode(config)).digest()


def _readable(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(str(step) for step in item["loc"]) or "charter"
        parts.append(f"{place}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(parts)


def make_charter(fields: Mapping[str, Any]) -> Charter:
    """Build a charter from JSON-like fields.

    Raises
    ------
    CharterError
        naming each field that is missing, unknown or inconsistent.
    """
    try:
        return Charter.model_validate(dict(fields))
    except ValidationError as error:
        raise CharterError(f"invalid charter: {_readable(error)}") from error


def read_charter_payload(payload: bytes) -> Charter:
    """Parse canonical charter bytes (unsigned); refuses anything non-canonical."""
    try:
        fields = canonical_decode(payload)
    except CanonicalJSONError as error:
        raise CharterError(f"the charter is not canonical JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CharterError("the charter must be a JSON object")
    charter = make_charter(fields)
    if charter.payload() != payload:
        raise CharterError("the charter does not re-encode to the same bytes")
    return charter


@dataclass(frozen=True, slots=True)
class SignedCharter:
    """A charter together with the DSSE bytes that carry its founders' signatures.

    Source: protocols/README.md, section "Charter".
    """

    charter: Charter
    envelope: bytes
    signers: tuple[str, ...]


def sign_charter(charter: Charter, signer: str, key: IdentityKey) -> bytes:
    """First signature: the DSSE envelope (canonical JSON bytes) of an unsigned charter."""
    _check_founder(charter, signer, key)
    return dsse_sign(charter.payload(), CHARTER_PAYLOAD_TYPE, [(key.public.hex, key)])


def add_charter_signature(envelope: bytes, signer: str, key: IdentityKey) -> bytes:
    """One more founder's signature on an envelope that already carries some."""
    signed = open_charter(envelope, require_quorum=False)
    _check_founder(signed.charter, signer, key)
    if signer in signed.signers:
        raise CharterError(f"{signer} has already signed this charter; nothing to add")
    return dsse_add_signature(envelope, (key.public.hex, key), payload_type=CHARTER_PAYLOAD_TYPE)


def _check_founder(charter: Charter, signer: str, key: IdentityKey) -> None:
    if signer not in charter.founders.names:
        raise CharterError(f"{signer} is not a founder; founders are {charter.founders.names}")
    if charter.identities()[signer].raw != key.public.raw:
        raise CharterError(
            f"the identity key at hand is not the one enrolled for {signer} in this charter"
        )


def open_charter(envelope: bytes, *, require_quorum: bool = True) -> SignedCharter:
    """Verify a signed charter and return it.

    The signers' keys are read from the charter itself: who the founders are is a matter of
    out-of-band trust, which is why every site pins the charter's hash when it joins.

    Raises
    ------
    CharterError
        if the envelope, a signature or the quorum is wrong.
    """
    charter = read_charter_payload(_unverified_payload(envelope))
    identities = charter.identities()
    founders = {identities[name].hex: identities[name] for name in charter.founders.names}
    by_key = {identities[name].hex: name for name in charter.founders.names}
    threshold = charter.founders.quorum if require_quorum else 1
    try:
        opened = dsse_open(
            envelope, payload_type=CHARTER_PAYLOAD_TYPE, keys=founders, threshold=threshold
        )
    except DSSEError as error:
        raise CharterError(
            f"the charter is not signed as it must be ({threshold} of "
            f"{len(founders)} founders): {error}; have the missing founders run "
            "`secure-fedfm charter sign`"
        ) from error
    return SignedCharter(charter, envelope, tuple(by_key[signer] for signer in opened.signers))


def _unverified_payload(envelope: bytes) -> bytes:
    """The payload before any signature is checked, to learn whose signatures are needed."""
    try:
        return dsse_read_unverified(envelope).payload
    except DSSEError as error:
        raise CharterError(f"not a signed charter: {error}") from error
