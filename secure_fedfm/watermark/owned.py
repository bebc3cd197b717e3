"""A site's own marks on disk: the signed leaf that commits to each, and its secret key.

::

    SITE/marks/CLIENT-MARK.json     the leaf (public): named by its SHA-256 in the charter
    SITE/keys/mark-MARK.pem         the secret; without it the mark can never be shown

MARK is ``own``, or ``consortium`` at the client that keeps the federation's mark. A coordinator
has the leaves of all owners in SITE/marks and logs them before round 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedfm_audit.mark_predicates import MarkPredicate
from fedfm_audit.statements import mark_statement, open_leaf, sign_statement
from fedfm_audit.watermark.commitment import CommittedClaim, MarkKey
from fedfm_audit.watermark.errors import ClaimError
from fedfm_crypto.errors import FedFMError
from fedfm_crypto.identity import IdentityKey, IdentityPublicKey
from fedfm_protocols.federation import Federation
from fedfm_protocols.marks import MarkOwner
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.storage.keys import load_identity, save_identity
from secure_fedfm.storage.site import Site


@dataclass(frozen=True, slots=True)
class OwnedMark:
    """A mark of this site: its leaf, and its key."""

    said: MarkPredicate
    leaf: bytes = field(repr=False)
    key: MarkKey

    @property
    def committed(self) -> CommittedClaim:
        """The claim with its commitment."""
        return self.said.committed


def leaf_path(site: Site, client: str, mark: str) -> Path:
    """Where the leaf of a mark lies."""
    return site.root / "marks" / f"{client}-{mark}.json"


def key_path(site: Site, mark: str) -> Path:
    """Where the secret of this site's mark lies."""
    return site.root / "keys" / f"mark-{mark}.pem"


def make_leaf(committed: CommittedClaim, client: str, mark: str, identity: IdentityKey) -> bytes:
    """The leaf that commits to a mark, signed by its owner.

    Raises:
        StatementError: the claim names so many modules that no leaf holds it.
    """
    said = MarkPredicate(committed.claim.federation, client, mark, committed)
    return sign_statement(mark_statement(said), identity)


def save_mark(site: Site, client: str, mark: str, committed: CommittedClaim, key: MarkKey) -> Path:
    """Write leaf and key; neither is ever overwritten. Returns the leaf's path.

    Raises:
        ConfigurationError: there is one already.
    """
    path = leaf_path(site, client, mark)
    if path.exists():
        raise ConfigurationError(f"{path} exists already: this site has committed to that mark")
    leaf = make_leaf(committed, client, mark, site.identity())
    # Stored as the 32 bytes of an Ed25519 key: mode, passphrase and refusals are those of all keys.
    save_identity(key_path(site, mark), IdentityKey(key.secret))
    path.parent.mkdir(parents=True, exist_ok=True)
    site.write(path, leaf)
    return path


def read_leaf(leaf: bytes, identities: Sequence[IdentityPublicKey], where: str) -> MarkPredicate:
    """What a leaf commits to, its signatures checked.

    Raises:
        ConfigurationError: it is no such leaf, of none of these identities, or not to be signed by
            the identity that the claim names.
    """
    try:
        signed = open_leaf(leaf, {key.hex: key for key in identities})
        said = signed.statement.predicate
        if not isinstance(said, MarkPredicate):
            raise ClaimError(f"a statement of type {said.TYPE}")
        if said.committed.claim.identity.hex != signed.signer:
            raise ClaimError("the claim names another identity than signed the leaf")
        said.committed.check()
    except FedFMError as error:
        raise ConfigurationError(
            f"{where} commits to no mark of this federation: {error}; get the file that the owner "
            "made with `secure-fedfm watermark claim --for`"
        ) from error
    return said


def load_marks(site: Site, federation: Federation, client: str) -> tuple[OwnedMark, ...]:
    """The marks that the charter expects of this site, with their keys.

    Raises:
        ConfigurationError: a leaf is missing, or not the one that the charter names.
        ClaimError: a key is not the one that was committed to.
    """
    section = federation.charter.watermark
    if section is None:
        return ()
    found = []
    for owner in section.marks_of(client):
        leaf = _named(leaf_path(site, client, owner.mark), owner)
        said = read_leaf(leaf, [federation.identities[client]], f"the {owner.mark} mark")
        key = MarkKey(load_identity(key_path(site, owner.mark)).secret)
        key.check(said.committed)
        found.append(OwnedMark(said, leaf, key))
    return tuple(found)


def read_commitments(site: Site, federation: Federation) -> tuple[bytes, ...]:
    """All leaves that the charter names, from SITE/marks, in the charter's order.

    Raises:
        ConfigurationError: one is missing, or not the one that the founders signed for.
    """
    section = federation.charter.watermark
    if section is None:
        return ()
    leaves = []
    for owner in section.owners:
        leaf = _named(leaf_path(site, owner.client, owner.mark), owner)
        read_leaf(leaf, [federation.identities[owner.client]], f"mark of {owner.client}")
        leaves.append(leaf)
    return tuple(leaves)


def _named(path: Path, owner: MarkOwner) -> bytes:
    try:
        leaf = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"no commitment to the {owner.mark} mark of {owner.client} at {path} "
            f"({error.strerror}); copy the file that its owner made there"
        ) from error
    if hashlib.sha256(leaf).hexdigest() != owner.commitment:
        raise ConfigurationError(
            f"{path} is not the commitment that the founders signed for "
            f"({owner.commitment[:16]}); use that one, or sign a new charter"
        )
    return leaf
