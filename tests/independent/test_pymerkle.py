"""The tree by pymerkle: root, inclusion and consistency proofs, in both directions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pymerkle import InmemoryTree, InvalidProof, verify_consistency, verify_inclusion

from fedfm_crypto import merkle
from fedfm_crypto.errors import MerkleError
from tests.independent.bundles import (
    documented,
    entry_bundle,
    flip,
    leaf_hash,
    read_leaves,
    signed_head,
)


def tree_of(leaves: list[bytes]) -> InmemoryTree:
    tree = InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        tree.append_entry(leaf)
    return tree


def run_documented(folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "tree.py").write_text(documented("The tree, with pymerkle", "python"), "utf-8")
    return subprocess.run(
        [sys.executable, "tree.py"], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_documented_script(auditor: Path) -> None:
    done = run_documented(auditor)
    assert done.returncode == 0, done.stderr
    size, root = signed_head(auditor / "bundle")
    assert done.stdout.strip() == f"{size} leaves, root {root.hex()}: as signed, all included"
    flip(entry_bundle(auditor / "bundle"), 900)
    assert "AssertionError" in run_documented(auditor).stderr


def test_root_and_inclusion_of_every_leaf(bundle: Path) -> None:
    leaves = read_leaves(bundle)
    tree, hashes = tree_of(leaves), [leaf_hash(leaf) for leaf in leaves]
    size, root = signed_head(bundle)
    assert (tree.get_size(), tree.get_root()) == (size, root)
    for index, leaf in enumerate(hashes):
        theirs = tree.prove_inclusion(index + 1, size)
        verify_inclusion(leaf, root, theirs)
        path = theirs.path[1:]  # pymerkle lists the leaf's own hash first
        assert path == merkle.inclusion_proof(hashes, index)
        merkle.verify_inclusion(index, size, leaf, path, root)
        wrong = bytes([leaf[0] ^ 1]) + leaf[1:]
        with pytest.raises(InvalidProof):
            verify_inclusion(wrong, root, theirs)
        with pytest.raises(MerkleError):
            merkle.verify_inclusion(index, size, wrong, path, root)


def test_every_earlier_head_is_continued(bundle: Path) -> None:
    leaves = read_leaves(bundle)
    tree, hashes = tree_of(leaves), [leaf_hash(leaf) for leaf in leaves]
    size, root = signed_head(bundle)
    for earlier in range(1, size + 1):
        head = merkle.tree_root(hashes[:earlier])
        assert tree.get_root(earlier) == head
        proof = tree.prove_consistency(earlier, size)
        verify_consistency(head, root, proof)
        ours = merkle.consistency_proof(hashes, earlier)
        merkle.verify_consistency(earlier, size, head, root, ours)
        other = merkle.tree_root([bytes(32), *hashes[1:earlier]])
        with pytest.raises(InvalidProof):
            verify_consistency(other, root, proof)
        with pytest.raises(MerkleError):
            merkle.verify_consistency(earlier, size, other, root, ours)
