"""Step 2: the tree is rebuilt from the leaves, with every stored tile, and has the signed root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedfm_audit.errors import LogCorruptError
from fedfm_audit.log import CHECKPOINT
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.head import Head
from fedfm_audit.tiles import (
    TILE_WIDTH,
    read_entries,
    render_tiles,
    split_hashes,
    tile_path,
    tiles_of_level,
)
from fedfm_crypto.errors import MerkleError
from fedfm_crypto.merkle import EMPTY_ROOT, leaf_hash, node_hash


class Tree:
    """The leaves of the log and the roots of all its prefixes."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.leaves = tuple(leaves)
        self.hashes = [leaf_hash(leaf) for leaf in leaves]
        self._roots: dict[int, bytes] = {}
        self._levels = [self.hashes]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            self._levels.append(
                [node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
            )

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self.leaves)

    def root(self, size: int) -> bytes:
        """Root of the first ``size`` leaves; every message echoes one, so they are kept."""
        if size not in self._roots:
            self._roots[size] = self._join(size)
        return self._roots[size]

    def _join(self, size: int) -> bytes:
        """The full subtrees that a prefix splits into are known; they are joined from the right
        (MTH of RFC 6962 2.1)."""
        if not 0 <= size <= self.size:
            raise MerkleError(f"no tree of size {size} is a prefix of a tree of {self.size}")
        peaks, start = [], 0
        for height in reversed(range(size.bit_length())):
            if size >> height & 1:
                peaks.append(self._levels[height][start >> height])
                start += 1 << height
        if not peaks:
            return EMPTY_ROOT
        root = peaks.pop()
        while peaks:
            root = node_hash(peaks.pop(), root)
        return root


def check_tree(files: Mapping[str, bytes], head: Head, findings: Findings) -> Tree | None:
    """Compare every file below ``tile/`` with what the leaves give; ``None`` if the entry bundles
    cannot be read."""
    size = head.checkpoint.size
    try:
        tree = Tree(read_entries(files, size))
    except LogCorruptError as error:
        findings.fail(str(error).partition(":")[0].partition(" ")[0], error)
        return None
    expected = render_tiles(tree.leaves)
    stored = {name: data for name, data in files.items() if name.startswith("tile/")}
    for name in sorted(expected.keys() | stored.keys()):
        if name not in stored:
            findings.fail(name, f"missing; a tree of size {size} has it")
        elif name not in expected:
            findings.fail(name, f"is no tile of a tree of size {size}")
        elif stored[name] != expected[name]:
            findings.fail(name, "does not hold what the leaves give")
    if tree.root(size) != head.checkpoint.root:
        findings.fail(
            CHECKPOINT,
            f"has root {head.checkpoint.root.hex()}, the leaves give {tree.root(size).hex()}",
        )
        _name_leaves(tree, stored, findings)
    return tree


def _name_leaves(tree: Tree, stored: Mapping[str, bytes], findings: Findings) -> None:
    """The leaves do not give the signed root: point at those that differ from the stored hashes
    (with the right root, the stored hashes are what is wrong, and named already)."""
    for index, width in tiles_of_level(tree.size):
        hashes = split_hashes(stored.get(tile_path(0, index, width), b""))
        for offset, digest in enumerate(hashes[:width]):
            leaf = index * TILE_WIDTH + offset
            if digest != tree.hashes[leaf]:
                bundle = tile_path("entries", index, width)
                findings.fail(f"leaf {leaf} ({bundle})", "its hash is not the one in the tile")
