// Command checklog verifies the log of an evidence bundle with the code that checks Go's own
// checksum database, golang.org/x/mod/sumdb: nothing of this project's Python takes part.
//
//	checklog BUNDLE POLICY [CHECKPOINT ...]
//
// BUNDLE is a bundle folder. POLICY is a C2SP tlog-policy file with the log's and the witnesses'
// keys: the bundle's own, or better the auditor's. Every CHECKPOINT is an earlier signed note of
// the log, from somewhere else (an institution's copy); the bundle's log must be its continuation.
//
// It verifies the checkpoint's signature and cosignatures, every stored tile, the hash and the
// inclusion proof of every leaf, and consistency with every head that round statements name
// and with every checkpoint that the coordinator signed into a RoundOpen message.
// Exit code 0: all of it holds. 1: what does not is named on stderr. 2: wrong usage.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight = 8

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: checklog BUNDLE POLICY [CHECKPOINT ...]")
		os.Exit(2)
	}
	done, err := check(os.Args[1], os.Args[2], os.Args[3:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "checklog: FAILED: %v\n", err)
		os.Exit(1)
	}
	fmt.Println(done)
}

// check verifies everything and describes it.
func check(bundle, policyFile string, others []string) (string, error) {
	text, err := os.ReadFile(policyFile)
	if err != nil {
		return "", err
	}
	rules, err := parsePolicy(string(text))
	if err != nil {
		return "", fmt.Errorf("policy %s: %v", policyFile, err)
	}
	signed, err := os.ReadFile(filepath.Join(bundle, "checkpoint"))
	if err != nil {
		return "", err
	}
	tree, witnesses, err := rules.open(signed)
	if err != nil {
		return "", fmt.Errorf("checkpoint: %v", err)
	}
	if witnesses < rules.quorum {
		return "", fmt.Errorf("checkpoint: %d cosignatures, the policy asks for %d", witnesses, rules.quorum)
	}
	leaves, err := readLeaves(bundle, tree.N)
	if err != nil {
		return "", err
	}
	tiles := tlog.TileHashReader(tree, folder(bundle))
	if err := checkTree(bundle, tree, leaves, tiles); err != nil {
		return "", err
	}
	if err := checkInclusion(tree, leaves, tiles); err != nil {
		return "", err
	}
	heads, err := earlierHeads(bundle, rules, leaves, others)
	if err != nil {
		return "", err
	}
	notes := 0
	for _, head := range heads {
		if err := checkConsistency(tree, head.tree, tiles); err != nil {
			return "", fmt.Errorf("%s: %v", head.place, err)
		}
		if head.signed {
			notes++
		}
	}
	return fmt.Sprintf(
		"log %s: size %d, root %x, cosigned by %d (quorum %d)\n"+
			"%d leaves included; consistent with %d earlier heads, %d of them signed notes",
		rules.origin, tree.N, tree.Hash[:], witnesses, rules.quorum,
		len(leaves), len(heads), notes), nil
}

// folder reads tiles of a bundle: C2SP tlog-tiles are Go's tiles of height 8 without the height.
type folder string

func (folder) Height() int { return tileHeight }

func (folder) SaveTiles([]tlog.Tile, [][]byte) {}

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range tiles {
		data, err := os.ReadFile(filepath.Join(string(f), tilePath(tile)))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

// tilePath turns tile/8/0/000.p/11 into tile/0/000.p/11 and tile/8/data/000 into tile/entries/000.
func tilePath(tile tlog.Tile) string {
	path := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", tileHeight))
	return "tile/" + strings.Replace(path, "data/", "entries/", 1)
}

// readLeaves reads the entry bundles: every leaf is preceded by its length as uint16.
func readLeaves(bundle string, size int64) ([][]byte, error) {
	var leaves [][]byte
	for start := int64(0); start < size; start += 1 << tileHeight {
		width := size - start
		if width > 1<<tileHeight {
			width = 1 << tileHeight
		}
		path := tilePath(tlog.Tile{H: tileHeight, L: -1, N: start >> tileHeight, W: int(width)})
		data, err := os.ReadFile(filepath.Join(bundle, path))
		if err != nil {
			return nil, err
		}
		before := len(leaves)
		for len(data) > 0 {
			if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
				return nil, fmt.Errorf("%s: leaf %d runs past the end", path, len(leaves))
			}
			end := 2 + int(binary.BigEndian.Uint16(data))
			leaves = append(leaves, data[2:end])
			data = data[end:]
		}
		if got := len(leaves) - before; got != int(width) {
			return nil, fmt.Errorf("%s: %d leaves, expected %d", path, got, width)
		}
	}
	return leaves, nil
}

// checkTree rebuilds the tree from the leaves and compares root and stored tiles, so that a wrong
// leaf and a wrong tile are told apart.
func checkTree(bundle string, tree tlog.Tree, leaves [][]byte, tiles tlog.HashReader) error {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			if index >= int64(len(stored)) {
				return nil, fmt.Errorf("no hash %d", index)
			}
			found[i] = stored[index]
		}
		return found, nil
	})
	for number, leaf := range leaves {
		hashes, err := tlog.StoredHashes(int64(number), leaf, reader)
		if err != nil {
			return err
		}
		stored = append(stored, hashes...)
	}
	root, err := tlog.TreeHash(tree.N, reader)
	if err != nil {
		return err
	}
	if root != tree.Hash {
		for number, leaf := range leaves {
			index := tlog.StoredHashIndex(0, int64(number))
			want, err := tiles.ReadHashes([]int64{index})
			if err != nil {
				return fmt.Errorf("leaves give root %x, the checkpoint says %x; tiles: %v",
					root[:], tree.Hash[:], err)
			}
			if want[0] != tlog.RecordHash(leaf) {
				return fmt.Errorf("leaf %d is not the one that was logged", number)
			}
		}
	}
	for _, tile := range hashTiles(tree.N) {
		want, err := tlog.ReadTileData(tile, reader)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(filepath.Join(bundle, tilePath(tile)))
		if err != nil {
			return err
		}
		if string(got) != string(want) {
			return fmt.Errorf("%s is not what the leaves give", tilePath(tile))
		}
	}
	return nil
}

// hashTiles lists the tiles of a tree: of each level as many full ones as fit, and the rest.
func hashTiles(size int64) []tlog.Tile {
	var tiles []tlog.Tile
	for level := 0; size > 0; level++ {
		full, rest := size>>tileHeight, int(size&(1<<tileHeight-1))
		for number := int64(0); number < full; number++ {
			tiles = append(tiles, tlog.Tile{H: tileHeight, L: level, N: number, W: 1 << tileHeight})
		}
		if rest > 0 {
			tiles = append(tiles, tlog.Tile{H: tileHeight, L: level, N: full, W: rest})
		}
		size = full
	}
	return tiles
}

// checkInclusion proves every leaf from the tiles and verifies the proof.
func checkInclusion(tree tlog.Tree, leaves [][]byte, tiles tlog.HashReader) error {
	for number, leaf := range leaves {
		proof, err := tlog.ProveRecord(tree.N, int64(number), tiles)
		if err != nil {
			return fmt.Errorf("leaf %d: %v", number, err)
		}
		hash := tlog.RecordHash(leaf)
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, int64(number), hash); err != nil {
			return fmt.Errorf("leaf %d: %v", number, err)
		}
	}
	return nil
}

// checkConsistency proves that tree continues old. Every tree continues the empty one.
func checkConsistency(tree, old tlog.Tree, tiles tlog.HashReader) error {
	if old.N == 0 {
		return nil
	}
	if old.N > tree.N {
		return fmt.Errorf("size %d is beyond the bundle's %d", old.N, tree.N)
	}
	proof, err := tlog.ProveTree(tree.N, old.N, tiles)
	if err == nil {
		err = tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash)
	}
	if err != nil {
		return fmt.Errorf("head of size %d is of another history: %v", old.N, err)
	}
	return nil
}
