"""A claim: who says that adapters of which federation carry a mark of which shape.

Everything that decides where the mark lies stands in the claim, and the directions are derived from
its hash: a claim in which anything was edited afterwards points elsewhere and shows nothing.
Format: audit/README.md, "Marks". Schema: ``schemas/watermark-claim-v1.json``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fedfm_audit.errors import SchemaError
from fedfm_audit.schema import check_schema
from fedfm_audit.watermark.errors import ClaimError
from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.errors import CanonicalJSONError, InvalidKeyError
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.identity import IdentityPublicKey
from fedfm_crypto.labels import Label

ALGORITHM = "lora-spread-spectrum-v1"
VERSION = 1
MAX_CLAIM_BYTES = 4 << 20
SCHEMA = "watermark-claim-v1"

_PLAIN, _TRANSPOSED = "outputs-inputs", "inputs-outputs"

Purpose = Literal["ownership", "fingerprint"]


@dataclass(frozen=True, slots=True)
class TargetModule:
    """A linear layer that carries part of a mark.

    Attributes:
        name: its name in the base model, without PEFT's prefix and suffix.
        rows, columns: shape of its change B A (outputs, inputs).
        rank: rank of the LoRA factors that the mark is written into.
        transposed: whether the base model's file stores this weight as (inputs, outputs).
    """

    name: str
    rows: int
    columns: int
    rank: int
    transposed: bool = False

    def to_json(self) -> dict[str, object]:
        """The module as an object of the schema."""
        return {
            "name": self.name,
            "rows": self.rows,
            "columns": self.columns,
            "rank": self.rank,
            "stored": _TRANSPOSED if self.transposed else _PLAIN,
        }


@dataclass(frozen=True, slots=True)
class Claim:
    """What an owner commits to; valid once built.

    Attributes:
        purpose: ``ownership`` (each of the ``keys`` sub-keys is in every copy) or ``fingerprint``
            (one sub-key a recipient, in that copy alone).
        federation: its name. identity: the owner's Ed25519 key. base_model: hex SHA-256, as pinned
            by a charter. modules: sorted by name, each once.
        size: N, how many directions one sub-key has. strength: kappa, aimed at size of one response
            relative to the Frobenius norm of the change. keys: how many sub-keys there are.

    Raises:
        ClaimError: a value that the schema does not allow, modules unsorted or twice, a key that is
            no usable Ed25519 key.
    """

    purpose: Purpose
    federation: str
    identity: IdentityPublicKey
    base_model: str
    modules: tuple[TargetModule, ...]
    size: int
    strength: float
    keys: int
    _digest: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _checked(self.to_json())
        # Every direction is derived from it, and a claim may name thousands of modules.
        object.__setattr__(self, "_digest", hash_parts(Label.MARK_CLAIM, self.encode()))
        names = [module.name for module in self.modules]
        if names != sorted(set(names)):
            raise ClaimError("modules of a claim must be sorted by name, each once; sort them")

    @property
    def capacity(self) -> int:
        """D_B: how many values of B the mark is spread over."""
        return sum(module.rows * module.rank for module in self.modules)

    @property
    def embedded_directions(self) -> int:
        """How many directions one copy of the adapter carries for this claim."""
        return self.size * (self.keys if self.purpose == "ownership" else 1)

    def to_json(self) -> dict[str, Any]:
        """The claim as the JSON object of its schema."""
        return {
            "version": VERSION,
            "algorithm": ALGORITHM,
            "purpose": self.purpose,
            "federation": self.federation,
            "identity": self.identity.hex,
            "base_model": self.base_model,
            "modules": [module.to_json() for module in self.modules],
            "size": self.size,
            "strength": self.strength,
            "keys": self.keys,
        }

    @classmethod
    def from_json(cls, document: object) -> Claim:
        """The claim of a JSON object.

        Raises:
            ClaimError: it breaks the schema, or the rules of this class.
        """
        fields: dict[str, Any] = _checked(document)
        try:
            identity = IdentityPublicKey.from_hex(fields["identity"])
        except InvalidKeyError as error:
            raise ClaimError(f"identity of a claim: {error}") from error
        return cls(
            purpose=fields["purpose"],
            federation=fields["federation"],
            identity=identity,
            base_model=fields["base_model"],
            modules=tuple(_module(one) for one in fields["modules"]),
            size=int(fields["size"]),
            strength=float(fields["strength"]),
            keys=int(fields["keys"]),
        )

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical_encode(self.to_json())

    @classmethod
    def decode(cls, data: bytes) -> Claim:
        """The inverse of :meth:`encode`; takes no other bytes.

        Raises:
            ClaimError: too long, not canonical JSON, or not a claim.
        """
        return cls.from_json(decode_document(data, "claim"))

    def digest(self) -> bytes:
        """H(claim), 32 bytes."""
        return self._digest


def decode_document(data: bytes, what: str) -> object:
    """The value of a bounded canonical JSON document, or ClaimError naming ``what``."""
    if len(data) > MAX_CLAIM_BYTES:
        raise ClaimError(f"{what}: {len(data)} bytes, at most {MAX_CLAIM_BYTES} are read")
    try:
        return canonical_decode(data)
    except CanonicalJSONError as error:
        raise ClaimError(f"{what}: {error}") from error


def _checked(document: object) -> dict[str, Any]:
    try:
        return check_schema(SCHEMA, document)
    except SchemaError as error:
        raise ClaimError(f"not a claim: {error}") from error


def _module(fields: dict[str, Any]) -> TargetModule:
    return TargetModule(
        name=fields["name"],
        rows=int(fields["rows"]),
        columns=int(fields["columns"]),
        rank=int(fields["rank"]),
        transposed=fields["stored"] == _TRANSPOSED,
    )
