"""Keys of a mark: drawn before round 1, committed to, signed, and revealed one at a time.

The mark's secret is 32 random bytes. Never a function of a signature or of anything else that its
owner could be made to produce twice, or that others could guess. Sub-key i and the commitment are

    k_i = H(MARK_KEY, secret, H(claim), U32 i)        c_i = H(MARK_COMMITMENT, H(claim), k_i)
    com = root of the RFC 6962 tree whose leaf hashes are c_0, c_1, ...
    sigma = Ed25519(MARK_SIGNATURE, H(claim) || com)

With one sub-key com is c_0. The c_i stand as leaf hashes themselves: H starts with the length of
its label, whose first byte is 0, which is RFC 6962's prefix of a leaf, so no c_i is a node.

Revealing k_i shows one mark and nothing of the others; whoever knows it can remove that one.
Source: design of this project; the tree is that of RFC 6962 section 2.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedfm_audit.watermark.claim import Claim, decode_document
from fedfm_audit.watermark.errors import ClaimError
from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.errors import MerkleError, SignatureError
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.labels import Label
from fedfm_crypto.merkle import inclusion_proof, tree_root, verify_inclusion
from fedfm_crypto.random_source import RandomSource, draw
from fedfm_crypto.secret import Secret

KEY_SIZE = 32
VERSION = 1
_MAX_PATH = 12  # keys of a claim are at most 4096
_COMMITTED_FIELDS = frozenset({"version", "claim", "commitment", "signature"})
_OPENING_FIELDS = _COMMITTED_FIELDS | {"index", "key", "path"}


@dataclass(frozen=True, slots=True)
class CommittedClaim:
    """A claim, the commitment to its keys, and the owner's signature over both: what is logged."""

    claim: Claim
    commitment: bytes
    signature: bytes = field(repr=False)

    def check(self) -> None:
        """Check the owner's signature.

        Raises:
            ClaimError: it is of another key, or over another claim or commitment.
        """
        message = self.claim.digest() + self.commitment
        try:
            self.claim.identity.verify(Label.MARK_SIGNATURE, self.signature, message)
        except SignatureError as error:
            raise ClaimError(
                f"the claim is not signed by the identity it names ({error}); it was edited, or it "
                "is somebody else's"
            ) from error

    def encode(self) -> bytes:
        """Canonical JSON ``{"version", "claim", "commitment", "signature"}``."""
        return canonical_encode(self._fields())

    @classmethod
    def decode(cls, data: bytes) -> CommittedClaim:
        """The inverse of :meth:`encode`. Nothing is verified: see :meth:`check`.

        Raises:
            ClaimError: not such a document.
        """
        return _committed(_exact(decode_document(data, "committed claim"), _COMMITTED_FIELDS))

    def _fields(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "claim": self.claim.to_json(),
            "commitment": self.commitment.hex(),
            "signature": self.signature.hex(),
        }


@dataclass(frozen=True, slots=True)
class Opening:
    """A committed claim with one of its sub-keys, shown to a judge.

    Attributes:
        index: which sub-key, from 0. key: k_i. path: RFC 6962 audit path of c_i, from the leaf up.
    """

    committed: CommittedClaim
    index: int
    key: Secret
    path: tuple[bytes, ...] = field(repr=False)

    @property
    def claim(self) -> Claim:
        """The claim that the key belongs to."""
        return self.committed.claim

    def check(self) -> None:
        """Check the signature, and that the key is the one that the owner committed to.

        Raises:
            ClaimError: naming what does not hold.
        """
        self.committed.check()
        found = key_commitment(self.claim, self.key)
        try:
            verify_inclusion(
                self.index, self.claim.keys, found, self.path, self.committed.commitment
            )
        except MerkleError as error:
            raise ClaimError(
                f"the key shown is not sub-key {self.index} of this commitment: {error}"
            ) from error

    def encode(self) -> bytes:
        """Canonical JSON with the key in the clear: for the judge of one dispute."""
        return canonical_encode(
            {
                **self.committed._fields(),
                "index": self.index,
                "key": self.key.reveal().hex(),
                "path": [node.hex() for node in self.path],
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Opening:
        """The inverse of :meth:`encode`. Nothing is verified: see :meth:`check`.

        Raises:
            ClaimError: not an opening.
        """
        fields = _exact(decode_document(data, "opening"), _OPENING_FIELDS)
        committed = _committed(fields)
        index, path = fields["index"], fields["path"]
        if type(index) is not int or not 0 <= index < committed.claim.keys:
            raise ClaimError(f"index: expected a sub-key below {committed.claim.keys}")
        if not isinstance(path, list) or len(path) > _MAX_PATH:
            raise ClaimError(f"path: expected a list of at most {_MAX_PATH} hashes")
        nodes = tuple(_hex(node, 32, "path") for node in path)
        return cls(committed, index, Secret(_hex(fields["key"], KEY_SIZE, "key")), nodes)


class MarkKey:
    """The secret of a mark. Its repr shows nothing."""

    __slots__ = ("_secret",)

    def __init__(self, secret: Secret) -> None:
        """
        Raises:
            ClaimError: not 32 bytes.
        """
        if len(secret) != KEY_SIZE:
            raise ClaimError(
                f"key of a mark: {len(secret)} bytes, expected {KEY_SIZE}; is the file whole?"
            )
        self._secret = secret

    @classmethod
    def generate(cls, random: RandomSource) -> MarkKey:
        """A new key from 32 bytes of ``random``."""
        return cls(Secret(draw(random, KEY_SIZE)))

    @property
    def secret(self) -> Secret:
        """The 32 bytes, for storage."""
        return self._secret

    def __repr__(self) -> str:
        return "MarkKey(redacted)"

    def sub_key(self, claim: Claim, index: int) -> Secret:
        """k_i, 32 bytes.

        Raises:
            ClaimError: the claim has no such sub-key.
        """
        if not 0 <= index < claim.keys:
            raise ClaimError(f"no sub-key {index}; the claim has {claim.keys}, numbered from 0")
        number = index.to_bytes(4, "big")
        parts = (self._secret.reveal(), claim.digest(), number)
        return Secret(hash_parts(Label.MARK_KEY, *parts))

    def commit(self, claim: Claim, identity: IdentityKey) -> CommittedClaim:
        """The claim with the commitment to all its sub-keys, signed.

        Raises:
            ClaimError: the claim names another identity.
        """
        if identity.public != claim.identity:
            raise ClaimError(
                f"the claim names identity {claim.identity.hex}, the key is of "
                f"{identity.public.hex}; sign with the identity that claims"
            )
        commitment = tree_root(self._leaves(claim))
        signature = identity.sign(Label.MARK_SIGNATURE, claim.digest() + commitment)
        return CommittedClaim(claim, commitment, signature)

    def check(self, committed: CommittedClaim) -> None:
        """Check the owner's signature, and that this is the key that was committed to.

        Raises:
            ClaimError: one of the two does not hold.
        """
        committed.check()
        if tree_root(self._leaves(committed.claim)) != committed.commitment:
            raise ClaimError("this is not the key of this claim's commitment; find the right file")

    def open(self, committed: CommittedClaim, index: int) -> Opening:
        """Sub-key ``index`` with its proof.

        Raises:
            ClaimError: no such sub-key, or this is not the key that was committed to.
        """
        key = self.sub_key(committed.claim, index)
        path = tuple(inclusion_proof(self._leaves(committed.claim), index))
        opening = Opening(committed, index, key, path)
        opening.check()
        return opening

    def _leaves(self, claim: Claim) -> list[bytes]:
        return [key_commitment(claim, self.sub_key(claim, i)) for i in range(claim.keys)]


def key_commitment(claim: Claim, key: Secret) -> bytes:
    """c_i = H(MARK_COMMITMENT, H(claim), k_i), 32 bytes."""
    return hash_parts(Label.MARK_COMMITMENT, claim.digest(), key.reveal())


def _exact(value: object, names: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict) or value.keys() != names:
        found = sorted(map(str, value))[:16] if isinstance(value, dict) else type(value).__name__
        raise ClaimError(f"found {found}, expected the fields {sorted(names)}")
    if value["version"] != VERSION:
        raise ClaimError(f"version {value['version']!r}, expected {VERSION}")
    return value


def _committed(fields: Mapping[str, Any]) -> CommittedClaim:
    return CommittedClaim(
        Claim.from_json(fields["claim"]),
        _hex(fields["commitment"], 32, "commitment"),
        _hex(fields["signature"], 64, "signature"),
    )


def _hex(value: object, size: int, where: str) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", value):
        raise ClaimError(f"{where}: expected {2 * size} lowercase hex digits")
    return bytes.fromhex(value)
