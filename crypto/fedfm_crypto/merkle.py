"""The Merkle tree of RFC 6962 with SHA-256: roots, and inclusion and consistency proofs.

Leaves are passed as their hashes, in order. ``tree_root``, ``inclusion_proof`` and
``consistency_proof`` take O(n) hashes; verifying a proof takes O(log n). Checks raise
``MerkleError`` and return nothing.

Source: RFC 6962 section 2.1 (definitions), RFC 9162 sections 2.1.3.2 and 2.1.4.2 (verification).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fedfm_crypto.errors import MerkleError

__all__ = [
    "EMPTY_ROOT",
    "MAX_SIZE",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "tree_root",
    "verify_consistency",
    "verify_inclusion",
]

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of the tree without leaves."""
MAX_SIZE = 2**63 - 1
"""The largest tree size that C2SP formats can carry."""

_HASH_SIZE = 32


def leaf_hash(data: bytes) -> bytes:
    """Return SHA-256(0x00 || data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_root(leaf_hashes: Sequence[bytes]) -> bytes:
    """Return the Merkle tree hash of the leaves (MTH of RFC 6962 2.1)."""
    level = _checked_hashes(leaf_hashes, "leaf hash")
    while len(level) > 1:
        level = _parents(level)
    return level[0] if level else EMPTY_ROOT


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """Return the audit path of leaf ``index``, from the leaf up (PATH of RFC 6962 2.1.1).

    Raises:
        MerkleError: there is no such leaf.
    """
    level = _checked_hashes(leaf_hashes, "leaf hash")
    if not 0 <= index < len(level):
        raise MerkleError(f"no leaf {index} in a tree of {len(level)}")
    path = []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level = _parents(level)
        index //= 2
    return path


def consistency_proof(leaf_hashes: Sequence[bytes], old: int) -> list[bytes]:
    """Return the proof that the first ``old`` leaves are a prefix (PROOF of RFC 6962 2.1.2).

    It is empty for ``old`` = 0 (every tree extends the empty one) and for ``old`` = n.

    Raises:
        MerkleError: ``old`` is negative or above the number of leaves.
    """
    leaves = _checked_hashes(leaf_hashes, "leaf hash")
    if not 0 <= old <= len(leaves):
        raise MerkleError(f"no tree of size {old} is a prefix of a tree of {len(leaves)}")
    proof: list[bytes] = []
    if old == 0:
        return proof
    whole = True  # the old tree is a complete subtree whose root the verifier already knows
    while old != len(leaves):
        split = 1 << ((len(leaves) - 1).bit_length() - 1)
        if old <= split:
            proof.append(tree_root(leaves[split:]))
            leaves = leaves[:split]
        else:
            proof.append(tree_root(leaves[:split]))
            leaves = leaves[split:]
            old -= split
            whole = False
    if not whole:
        proof.append(tree_root(leaves))
    proof.reverse()
    return proof


def verify_inclusion(
    index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that leaf ``index`` of a tree of ``size`` leaves has the hash ``leaf_hash``.

    Raises:
        MerkleError: the proof does not lead to ``root``, or an argument is out of range.
    """
    _check_size(size)
    if not 0 <= index < size:
        raise MerkleError(f"no leaf {index} in a tree of {size}")
    first, known, *path = _checked_hashes([leaf_hash, root, *proof], "hash")
    _, computed = _fold(index, size - 1, first, path, f"inclusion proof of leaf {index} in {size}")
    if computed != known:
        raise MerkleError(
            f"inclusion proof of leaf {index} in {size} leads to {computed.hex()}, expected the "
            f"root {known.hex()}"
        )


def verify_consistency(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of ``new_size`` leaves extends the one of ``old_size`` leaves.

    The empty tree is extended by every tree, with an empty proof.

    Raises:
        MerkleError: the proof does not lead to both roots, or an argument is out of range.
    """
    _check_size(old_size)
    _check_size(new_size)
    if old_size > new_size:
        raise MerkleError(f"a tree of {new_size} cannot extend one of {old_size}: a rollback")
    old, new, *path = _checked_hashes([old_root, new_root, *proof], "hash")
    for size, root in ((old_size, old), (new_size, new)):
        if size == 0 and root != EMPTY_ROOT:
            raise MerkleError(f"the root of the empty tree is {EMPTY_ROOT.hex()}, not {root.hex()}")
    where = f"consistency proof from {old_size} to {new_size}"
    if old_size in (0, new_size):
        if path:
            raise MerkleError(f"{where}: {len(path)} hashes, expected none")
        if old_size == new_size and old != new:
            raise MerkleError(
                f"two roots for one tree size {old_size}, {old.hex()} and {new.hex()}: a split view"
            )
        return
    if old_size & (old_size - 1) == 0:
        path.insert(0, old)  # the old tree is complete: its root is the first node
    if not path:
        raise MerkleError(f"{where}: no hashes")
    position, last = old_size - 1, new_size - 1
    while position % 2 == 1:
        position //= 2
        last //= 2
    computed_old, computed_new = _fold(position, last, path[0], path[1:], where)
    if computed_old != old:
        raise MerkleError(f"{where} leads to the old root {computed_old.hex()}, not {old.hex()}")
    if computed_new != new:
        raise MerkleError(f"{where} leads to the new root {computed_new.hex()}, not {new.hex()}")


def _fold(
    position: int, last: int, first: bytes, path: Sequence[bytes], where: str
) -> tuple[bytes, bytes]:
    """Climb from node ``position`` of a level whose last node is ``last``.

    Both verification algorithms of RFC 9162 are this climb. The second result takes in every
    sibling and ends at the root of the whole tree; the first takes in left siblings only and ends
    at the root of the tree whose last node was the start.
    """
    old = new = first
    for sibling in path:
        if last == 0:
            raise MerkleError(f"{where}: too many hashes")
        if position % 2 == 1 or position == last:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            # An unpaired last node moved up unchanged: skip the levels without a sibling.
            while position % 2 == 0 and position != 0:
                position //= 2
                last //= 2
        else:
            new = node_hash(new, sibling)
        position //= 2
        last //= 2
    if last != 0:
        raise MerkleError(f"{where}: too few hashes")
    return old, new


def _parents(level: list[bytes]) -> list[bytes]:
    """Return the level above; an unpaired last node moves up unchanged.

    Pairing from the left gives the tree of RFC 6962, whose left subtree is the largest power of
    two below n: every node with a full left subtree is paired at each level.
    """
    parents = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    if len(level) % 2 == 1:
        parents.append(level[-1])
    return parents


def _checked_hashes(hashes: Sequence[bytes], what: str) -> list[bytes]:
    for value in hashes:
        if not isinstance(value, bytes) or len(value) != _HASH_SIZE:
            found = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
            raise MerkleError(f"{what}: found {found}, expected {_HASH_SIZE} bytes")
    return list(hashes)


def _check_size(size: int) -> None:
    if not 0 <= size <= MAX_SIZE:
        raise MerkleError(f"tree size {size}, expected 0..2^63-1")
