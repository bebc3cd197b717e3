"""tlog-tiles layout: paths, widths, bundles, and agreement with the tree."""

from __future__ import annotations

import hashlib

import pytest

from fedfm_audit.errors import LogCorruptError
from fedfm_audit.steps.tree import Tree
from fedfm_audit.tiles import (
    decode_entries,
    encode_entries,
    hash_tiles,
    index_path,
    read_entries,
    render_tiles,
    subtree_root,
    tile_path,
    tiles_of_level,
)
from fedfm_crypto.errors import MerkleError
from fedfm_crypto.merkle import leaf_hash, tree_root


@pytest.mark.parametrize(
    ("index", "path"),
    [(0, "000"), (67, "067"), (999, "999"), (1000, "x001/000"), (1234067, "x001/x234/067")],
)
def test_index_paths_are_those_of_the_specification(index: int, path: str) -> None:
    assert index_path(index) == path


def test_partial_tiles_carry_their_width() -> None:
    assert tile_path(0, 0) == "tile/0/000"
    assert tile_path("entries", 1000, 7) == "tile/entries/x001/000.p/7"


def test_the_tree_of_70000_has_the_tiles_that_the_specification_lists() -> None:
    hashes = [hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(70_000)]
    tiles = hash_tiles(hashes)
    level0 = [path for path in tiles if path.startswith("tile/0/")]
    assert len(level0) == 274
    assert "tile/0/273.p/112" in tiles
    assert {path for path in tiles if not path.startswith("tile/0/")} == {
        "tile/1/000",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    }
    assert tiles["tile/2/000.p/1"] == tree_root(hashes[:65536])


def test_a_full_level_0_tile_hashes_into_level_1() -> None:
    leaves = [bytes([number % 256, 1]) for number in range(256)]
    tiles = render_tiles(leaves)
    assert set(tiles) == {"tile/entries/000", "tile/0/000", "tile/1/000.p/1"}
    hashes = [leaf_hash(leaf) for leaf in leaves]
    assert tiles["tile/1/000.p/1"] == tree_root(hashes) == subtree_root(hashes)
    assert len(tiles["tile/0/000"]) == 8192


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 600])
def test_entries_come_back(size: int) -> None:
    leaves = [b"leaf %d" % number for number in range(size)]
    assert read_entries(render_tiles(leaves), size) == leaves


def test_widths_cover_every_leaf_once() -> None:
    assert list(tiles_of_level(600)) == [(0, 256), (1, 256), (2, 88)]
    assert list(tiles_of_level(256)) == [(0, 256)]


@pytest.mark.parametrize(
    "data",
    [
        encode_entries([b"a", b"b"])[:-1],
        encode_entries([b"a", b"b"]) + b"\x00",
        encode_entries([b"a"]),
        encode_entries([b"a", b"b", b"c"]),
        b"",
    ],
    ids=["truncated", "half a length", "too few", "too many", "empty"],
)
def test_malformed_bundles_are_refused(data: bytes) -> None:
    with pytest.raises(LogCorruptError, match="tile/entries"):
        decode_entries(data, 2, "tile/entries/000.p/2")


def test_a_missing_bundle_is_named() -> None:
    with pytest.raises(LogCorruptError, match=r"tile/entries/001\.p/1 is missing"):
        read_entries({"tile/entries/000": encode_entries([b"x"] * 256)}, 257)


def test_the_root_of_every_beginning_is_that_of_the_tree() -> None:
    leaves = [b"leaf %d" % number for number in range(70)]
    tree = Tree(leaves)
    for size in range(len(leaves) + 1):
        assert tree.root(size) == tree_root([leaf_hash(leaf) for leaf in leaves[:size]])
    with pytest.raises(MerkleError, match="no tree of size 71"):
        tree.root(71)
    assert Tree([]).root(0) == tree_root([])
