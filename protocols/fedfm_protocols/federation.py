"""The charter as both state machines use it: derived values computed once, never again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.identity import IdentityPublicKey
from fedfm_crypto.labels import Label
from fedfm_crypto.quantise import Quantiser
from fedfm_protocols.charter import Charter
from fedfm_protocols.context import TRAIN, WATERMARK
from fedfm_protocols.marks import MarkEncoding
from fedfm_protocols.privacy import SharedNoisePrivacy, UpdateEncoding
from fedfm_protocols.thresholds import Thresholds


@dataclass(frozen=True, slots=True)
class Federation:
    """A verified charter with everything that follows from it.

    Build it with :meth:`of`; ``identities`` holds the identity key of every party by name,
    ``share_index`` the Shamir x-coordinate of every client (1 .. n in roster order).

    Source: protocols/README.md, section "Charter".
    """

    charter: Charter
    charter_hash: bytes
    config_hash: bytes
    thresholds: Thresholds
    lanes: Quantiser
    encoding: UpdateEncoding
    identities: Mapping[str, IdentityPublicKey] = field(repr=False)
    share_index: Mapping[str, int] = field(repr=False)

    @classmethod
    def of(cls, charter: Charter) -> Federation:
        """Derive thresholds, keys and hashes from a charter."""
        return cls(
            charter=charter,
            charter_hash=charter.hash,
            config_hash=charter.config_hash,
            thresholds=charter.thresholds,
            lanes=charter.lanes,
            encoding=charter.encoding,
            identities=MappingProxyType(charter.identities()),
            share_index=MappingProxyType({name: i + 1 for i, name in enumerate(charter.clients)}),
        )

    @property
    def clients(self) -> tuple[str, ...]:
        """The roster, sorted by name."""
        return tuple(self.share_index)

    @property
    def coordinator(self) -> str:
        """The coordinator's name."""
        return self.charter.coordinator.name

    @property
    def validator(self) -> str:
        """The validator's name; empty in a federation without one."""
        validator = self.charter.validator
        return "" if validator is None else validator.name

    @property
    def robust(self) -> bool:
        """Whether a validator judges the updates of every round that sums any."""
        return self.charter.robustness is not None

    @property
    def lane_count(self) -> int:
        """Lanes of an upload: as many as an update has values, padded where it is rotated."""
        return self.encoding.lanes

    @property
    def masked(self) -> bool:
        """Whether uploads carry masks, which hide each of them from whoever can open the sum."""
        return self.charter.suite in ("masked", "layered")

    @property
    def encrypted(self) -> bool:
        """Whether uploads are encrypted, which hides their sum from whoever adds them up."""
        return self.charter.suite in ("sealed", "layered")

    @property
    def marked(self) -> bool:
        """Whether owners write marks into the adapter after the last round of training."""
        return self.charter.watermark is not None

    def encoding_of(self, kind: str) -> UpdateEncoding | MarkEncoding:
        """How what is summed in a round of ``kind`` becomes lane words, and back."""
        section = self.charter.watermark
        if kind != WATERMARK or section is None:
            return self.encoding
        quantiser = section.quantiser(self.charter.quantiser.lane_bits)
        return MarkEncoding(quantiser, self.charter.quantiser.values, self.lane_count)

    def steps_of(self, kind: str) -> int:
        """How many steps a round of ``kind`` has: one, unless each of its sums is one step of a
        training whose noise the clients share."""
        privacy = self.charter.privacy
        if kind == TRAIN and isinstance(privacy, SharedNoisePrivacy):
            return privacy.steps_per_round
        return 1

    @property
    def sparse(self) -> bool:
        """Whether a round has a sparse masking graph: masks, and too many clients for all pairs."""
        return self.masked and self.thresholds.sparse

    @property
    def link_context(self) -> bytes:
        """Context of messages that belong to no round (Hello, CatchUp)."""
        return hash_parts(Label.CONTEXT_LINK, self.charter_hash)
