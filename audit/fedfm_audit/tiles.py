"""C2SP tlog-tiles: where hashes and entries of a log of a given size lie, and what they hold.

Pure functions between a list of leaves and a mapping of relative path to bytes.  A tile of level
L holds up to 256 hashes, each the root of 256**L consecutive leaves; an entry bundle holds up to
256 leaves, each prefixed by its length as uint16.  The rightmost tile of a level may be partial
(``.p/<width>``).  Source: https://c2sp.org/tlog-tiles
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedfm_audit.errors import LogCorruptError
from fedfm_crypto.merkle import leaf_hash, node_hash

TILE_WIDTH = 256
MAX_LEAF_BYTES = 65535
MAX_LEAVES = 16_777_216  # three tile levels: far beyond any federation, and a bound for verifiers
_HASH = 32


def index_path(index: int) -> str:
    """``1234067`` -> ``x001/x234/067``, so that no folder grows beyond a thousand names."""
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        groups.insert(0, f"x{index % 1000:03d}")
    return "/".join(groups)


def tile_path(level: int | str, index: int, width: int = TILE_WIDTH) -> str:
    """Relative path of a tile; ``level`` is a number or ``"entries"``."""
    partial = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{level}/{index_path(index)}{partial}"


def tiles_of_level(count: int) -> Iterator[tuple[int, int]]:
    """(index, width) of every tile that ``count`` hashes of one level fill."""
    full, rest = divmod(count, TILE_WIDTH)
    for index in range(full):
        yield index, TILE_WIDTH
    if rest:
        yield full, rest


def encode_entries(leaves: Sequence[bytes]) -> bytes:
    """Entry bundle of up to 256 leaves."""
    return b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in leaves)


def decode_entries(data: bytes, width: int, path: str) -> list[bytes]:
    """Leaves of an entry bundle.

    Raises
    ------
    LogCorruptError
        if the bundle does not hold exactly ``width`` leaves and nothing else.
    """
    leaves: list[bytes] = []
    offset = 0
    while offset < len(data):
        end = offset + 2 + int.from_bytes(data[offset : offset + 2], "big")
        if offset + 2 > len(data) or end > len(data):
            raise LogCorruptError(f"{path}: entry {len(leaves)} runs past the end of the bundle")
        leaves.append(data[offset + 2 : end])
        offset = end
    if len(leaves) != width:
        raise LogCorruptError(f"{path}: {len(leaves)} entries, expected {width}")
    return leaves


def subtree_root(hashes: Sequence[bytes]) -> bytes:
    """Root of a full tile: 256 hashes paired eight times."""
    level = list(hashes)
    while len(level) > 1:
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


def hash_tiles(leaf_hashes: Sequence[bytes]) -> dict[str, bytes]:
    """Every hash tile, all levels, of the tree with these leaf hashes."""
    tiles: dict[str, bytes] = {}
    hashes = list(leaf_hashes)
    level = 0
    while hashes:
        above: list[bytes] = []
        for index, width in tiles_of_level(len(hashes)):
            part = hashes[index * TILE_WIDTH : index * TILE_WIDTH + width]
            tiles[tile_path(level, index, width)] = b"".join(part)
            if width == TILE_WIDTH:
                above.append(subtree_root(part))
        hashes = above
        level += 1
    return tiles


def entry_bundles(leaves: Sequence[bytes]) -> dict[str, bytes]:
    """Every entry bundle of these leaves."""
    return {
        tile_path("entries", index, width): encode_entries(
            leaves[index * TILE_WIDTH : index * TILE_WIDTH + width]
        )
        for index, width in tiles_of_level(len(leaves))
    }


def render_tiles(leaves: Sequence[bytes]) -> dict[str, bytes]:
    """All files below ``tile/`` of a log with exactly these leaves."""
    return {**entry_bundles(leaves), **hash_tiles([leaf_hash(leaf) for leaf in leaves])}


def read_entries(files: Mapping[str, bytes], size: int) -> list[bytes]:
    """The first ``size`` leaves out of the entry bundles among ``files``.

    Raises
    ------
    LogCorruptError
        if a bundle is missing or malformed.
    """
    leaves: list[bytes] = []
    for index, width in tiles_of_level(size):
        path = tile_path("entries", index, width)
        if path not in files:
            raise LogCorruptError(f"{path} is missing; a tree of size {size} needs it")
        leaves += decode_entries(files[path], width, path)
    return leaves


def split_hashes(tile: bytes) -> list[bytes]:
    """The hashes of a tile (a trailing fragment is dropped; callers compare whole files too)."""
    return [tile[i : i + _HASH] for i in range(0, len(tile) - _HASH + 1, _HASH)]
