"""The Merkle tree: RFC 6962 vectors, brute force from the definition, pymerkle, and forgeries."""

from __future__ import annotations

import hashlib
import time

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfm_crypto.errors import MerkleError
from fedfm_crypto.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)

# The eight leaves and roots of the Certificate Transparency reference tests for RFC 6962.
RFC_6962_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
RFC_6962_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A_96A2 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B_5F08 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C_6B47 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D_0EBC = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
E_CA85 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
HASHES = [leaf_hash(leaf) for leaf in RFC_6962_LEAVES]
LEAVES = [leaf_hash(i.to_bytes(4, "big")) for i in range(70)]


def test_rfc_6962_roots() -> None:
    assert [tree_root(HASHES[:n]).hex() for n in range(9)] == RFC_6962_ROOTS
    assert hashlib.sha256(b"").digest() == EMPTY_ROOT


def test_rfc_6962_proofs() -> None:
    def proof(*texts: str) -> list[bytes]:
        return [bytes.fromhex(text) for text in texts]

    assert inclusion_proof(HASHES, 0) == proof(A_96A2, B_5F08, C_6B47)
    assert consistency_proof(HASHES, 1) == proof(A_96A2, B_5F08, C_6B47)
    assert consistency_proof(HASHES, 6) == proof(D_0EBC, E_CA85, RFC_6962_ROOTS[4])


def brute_root(leaves: list[bytes]) -> bytes:
    """MTH, straight from RFC 6962 2.1."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = max(1 << i for i in range(20) if 1 << i < len(leaves))
    return hashlib.sha256(b"\x01" + brute_root(leaves[:k]) + brute_root(leaves[k:])).digest()


def brute_path(leaves: list[bytes], index: int) -> list[bytes]:
    """PATH, straight from RFC 6962 2.1.1."""
    if len(leaves) == 1:
        return []
    k = max(1 << i for i in range(20) if 1 << i < len(leaves))
    if index < k:
        return [*brute_path(leaves[:k], index), brute_root(leaves[k:])]
    return [*brute_path(leaves[k:], index - k), brute_root(leaves[:k])]


def brute_proof(leaves: list[bytes], old: int, whole: bool = True) -> list[bytes]:
    """SUBPROOF, straight from RFC 6962 2.1.2."""
    if old == len(leaves):
        return [] if whole else [brute_root(leaves)]
    k = max(1 << i for i in range(20) if 1 << i < len(leaves))
    if old <= k:
        return [*brute_proof(leaves[:k], old, whole), brute_root(leaves[k:])]
    return [*brute_proof(leaves[k:], old - k, False), brute_root(leaves[:k])]


@pytest.mark.parametrize("size", range(1, 34))
def test_all_proofs_of_small_trees_equal_the_definition_and_verify(size: int) -> None:
    leaves = LEAVES[:size]
    root = tree_root(leaves)
    assert root == brute_root(leaves)
    for index in range(size):
        path = inclusion_proof(leaves, index)
        assert path == brute_path(leaves, index)
        verify_inclusion(index, size, leaves[index], path, root)
    for old in range(1, size + 1):
        proof = consistency_proof(leaves, old)
        assert proof == brute_proof(leaves, old)
        verify_consistency(old, size, tree_root(leaves[:old]), root, proof)
    assert consistency_proof(leaves, 0) == []
    verify_consistency(0, size, EMPTY_ROOT, root, [])


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=70), st.data())
def test_roots_and_paths_agree_with_pymerkle(entries: list[bytes], data: st.DataObject) -> None:
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in entries:
        tree.append_entry(entry)
    # get_root is the name from version 7 on, where get_state warns.
    state = getattr(tree, "get_root", None) or tree.get_state
    leaves = [leaf_hash(entry) for entry in entries]
    size = data.draw(st.integers(1, len(entries)))
    assert tree_root(leaves[:size]) == state(size)
    index = data.draw(st.integers(0, size - 1))
    theirs = tree.prove_inclusion(index + 1, size)
    path = inclusion_proof(leaves[:size], index)
    assert [leaves[index], *path] == theirs.path
    verify_inclusion(index, size, leaves[index], theirs.path[1:], state(size))
    old = data.draw(st.integers(1, size))
    proof = consistency_proof(leaves[:size], old)
    verify_consistency(old, size, state(old), state(size), proof)


@given(size=st.integers(2, 70), data=st.data())
def test_altered_inclusion_proofs_are_refused(size: int, data: st.DataObject) -> None:
    leaves = LEAVES[:size]
    index = data.draw(st.integers(0, size - 1))
    root, path = tree_root(leaves), inclusion_proof(leaves, index)
    for forged in altered(path, data):
        with pytest.raises(MerkleError):
            verify_inclusion(index, size, leaves[index], forged, root)
    other = data.draw(st.integers(0, size - 1).filter(lambda i: i != index))
    with pytest.raises(MerkleError):
        verify_inclusion(other, size, leaves[index], path, root)
    with pytest.raises(MerkleError):
        verify_inclusion(index, size, leaves[other], path, root)
    with pytest.raises(MerkleError):
        verify_inclusion(index, size, leaves[index], path, LEAVES[0])


@given(size=st.integers(2, 70), data=st.data())
def test_altered_consistency_proofs_are_refused(size: int, data: st.DataObject) -> None:
    leaves = LEAVES[:size]
    old = data.draw(st.integers(1, size - 1))
    old_root, root = tree_root(leaves[:old]), tree_root(leaves)
    proof = consistency_proof(leaves, old)
    for forged in altered(proof, data):
        with pytest.raises(MerkleError):
            verify_consistency(old, size, old_root, root, forged)
    for wrong_old, wrong_new in ((root, old_root), (LEAVES[1], root), (old_root, LEAVES[1])):
        with pytest.raises(MerkleError):
            verify_consistency(old, size, wrong_old, wrong_new, proof)
    # A log that changed one old leaf cannot prove that it only appended.
    changed = [leaf_hash(b"changed"), *leaves[1:]]
    with pytest.raises(MerkleError):
        verify_consistency(old, size, old_root, tree_root(changed), consistency_proof(changed, old))


def altered(proof: list[bytes], data: st.DataObject) -> list[list[bytes]]:
    forged = [[*proof, LEAVES[0]], [LEAVES[0], *proof]]
    if proof:
        position = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytearray(proof[position])
        flipped[data.draw(st.integers(0, 31))] ^= 1 << data.draw(st.integers(0, 7))
        forged += [
            proof[:-1],
            proof[1:],
            [*proof[:position], bytes(flipped), *proof[position + 1 :]],
            [*proof[:position], proof[position][:-1], *proof[position + 1 :]],
        ]
        if len(proof) > 1 and proof[0] != proof[1]:
            forged.append([proof[1], proof[0], *proof[2:]])
    return forged


def test_a_node_does_not_pass_as_a_leaf() -> None:
    inner = node_hash(LEAVES[0], LEAVES[1])
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != inner
    root = tree_root(LEAVES[:4])
    with pytest.raises(MerkleError):
        verify_inclusion(0, 4, inner, [node_hash(LEAVES[2], LEAVES[3])], root)


def test_proofs_that_are_too_long_or_too_short_are_named() -> None:
    leaves = LEAVES[:6]
    root, path, proof = tree_root(leaves), inclusion_proof(leaves, 2), consistency_proof(leaves, 3)
    old_root = tree_root(leaves[:3])
    for message, extend in (("too many", [*path, root]), ("too few", path[:-1])):
        with pytest.raises(MerkleError, match=message):
            verify_inclusion(2, 6, leaves[2], extend, root)
    for message, extend in (("too many", [*proof, root]), ("too few", proof[:-1])):
        with pytest.raises(MerkleError, match=message):
            verify_consistency(3, 6, old_root, root, extend)


def test_edges_of_consistency_are_refused_by_name() -> None:
    root = tree_root(LEAVES[:3])
    with pytest.raises(MerkleError, match="split view"):
        verify_consistency(3, 3, root, LEAVES[0], [])
    with pytest.raises(MerkleError, match="rollback"):
        verify_consistency(4, 3, root, root, [])
    with pytest.raises(MerkleError, match="expected none"):
        verify_consistency(3, 3, root, root, [LEAVES[0]])
    with pytest.raises(MerkleError, match="expected none"):
        verify_consistency(0, 3, EMPTY_ROOT, root, [LEAVES[0]])
    with pytest.raises(MerkleError, match="empty tree"):
        verify_consistency(0, 3, root, root, [])
    with pytest.raises(MerkleError, match="empty tree"):
        verify_consistency(0, 0, EMPTY_ROOT, root, [])
    with pytest.raises(MerkleError, match="no hashes"):
        verify_consistency(3, 5, root, tree_root(LEAVES[:5]), [])
    verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])


def test_sizes_and_indexes_out_of_range_are_refused() -> None:
    for index, size in ((-1, 3), (3, 3), (0, 0), (0, -1), (0, 2**63)):
        with pytest.raises(MerkleError):
            verify_inclusion(index, size, LEAVES[0], [], LEAVES[0])
    for index in (-1, 3):
        with pytest.raises(MerkleError, match="no leaf"):
            inclusion_proof(LEAVES[:3], index)
    for old in (-1, 4):
        with pytest.raises(MerkleError, match="no tree of size"):
            consistency_proof(LEAVES[:3], old)
    with pytest.raises(MerkleError, match="expected 32 bytes"):
        tree_root([b"short"])


def test_a_large_tree_takes_linear_time() -> None:
    def seconds(count: int) -> float:
        leaves = [i.to_bytes(32, "big") for i in range(count)]
        started = time.process_time()
        tree_root(leaves)
        inclusion_proof(leaves, 7)
        consistency_proof(leaves, count - 3)
        return time.process_time() - started

    small = min(seconds(5_000) for _ in range(3))
    assert seconds(40_000) < 40 * small  # 8 times the leaves; a quadratic cost would be 64
