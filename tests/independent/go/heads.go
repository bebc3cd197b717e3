package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/mod/sumdb/tlog"
)

// head is an earlier state of the log, and where it was found.
type head struct {
	place  string
	tree   tlog.Tree
	signed bool // from a note with the log's signature
}

// earlierHeads collects the heads that round statements name, the notes inside the RoundOpen
// messages of the transcripts, and notes from outside the bundle.
func earlierHeads(bundle string, rules *policy, leaves [][]byte, others []string) ([]head, error) {
	var heads []head
	for number, leaf := range leaves {
		tree, found, err := previousHead(leaf)
		if err != nil {
			return nil, fmt.Errorf("leaf %d: %v", number, err)
		}
		if found {
			heads = append(heads, head{fmt.Sprintf("leaf %d", number), tree, false})
		}
	}
	transcripts, err := filepath.Glob(filepath.Join(bundle, "transcripts", "*.json"))
	if err != nil {
		return nil, err
	}
	sort.Strings(transcripts)
	for _, path := range transcripts {
		place := "transcripts/" + filepath.Base(path)
		signed, err := openingNote(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %v", place, err)
		}
		if len(signed) == 0 {
			continue // before the first checkpoint
		}
		tree, _, err := rules.open(signed)
		if err != nil {
			return nil, fmt.Errorf("%s: note in RoundOpen: %v", place, err)
		}
		heads = append(heads, head{place, tree, true})
	}
	for _, path := range others {
		signed, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		tree, _, err := rules.open(signed)
		if err != nil {
			return nil, fmt.Errorf("%s: %v", path, err)
		}
		heads = append(heads, head{path, tree, true})
	}
	return heads, nil
}

// previousHead reads predicate.previous of a round statement. Its signature is not checked here:
// that is plain DSSE, see docs/for-auditors.md for openssl.
func previousHead(leaf []byte) (tlog.Tree, bool, error) {
	var envelope struct{ Payload []byte }
	if err := json.Unmarshal(leaf, &envelope); err != nil {
		return tlog.Tree{}, false, err
	}
	var statement struct {
		PredicateType string
		Predicate     struct {
			Previous json.RawMessage
		}
	}
	if err := json.Unmarshal(envelope.Payload, &statement); err != nil {
		return tlog.Tree{}, false, err
	}
	if statement.PredicateType != "urn:secure-fedfm:round:v1" {
		return tlog.Tree{}, false, nil
	}
	var previous struct {
		Size int64
		Root string
	}
	if err := json.Unmarshal(statement.Predicate.Previous, &previous); err != nil {
		return tlog.Tree{}, false, err
	}
	root, err := hex.DecodeString(previous.Root)
	if err != nil || len(root) != tlog.HashSize || previous.Size < 0 {
		return tlog.Tree{}, false, fmt.Errorf("malformed head %v", previous)
	}
	tree := tlog.Tree{N: previous.Size}
	copy(tree.Hash[:], root)
	return tree, true, nil
}

// openingNote finds the checkpoint in a transcript's RoundOpen, whose body is: round U32,
// key_epoch U32, steps U16, kind text, invited list of text, adapter_hash B32, config_hash B32,
// checkpoint bytes, ... (audit/README.md, "Transcripts").
func openingNote(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var transcript struct {
		Setup []struct {
			Type string
			Body string
		}
	}
	if err := json.Unmarshal(data, &transcript); err != nil {
		return nil, err
	}
	for _, message := range transcript.Setup {
		if message.Type != "RoundOpen" {
			continue
		}
		body, err := base64.StdEncoding.DecodeString(message.Body)
		if err != nil {
			return nil, err
		}
		rest := &reader{data: body}
		rest.take(4 + 4 + 2)
		rest.sized() // kind
		for left := rest.number(); left > 0 && !rest.failed; left-- {
			rest.sized() // a name
		}
		rest.take(32 + 32)
		signed := rest.sized()
		if rest.failed {
			return nil, fmt.Errorf("RoundOpen ends early")
		}
		return signed, nil
	}
	return nil, fmt.Errorf("no RoundOpen")
}

// reader takes fields off the project's codec; failed says that it ran out of bytes.
type reader struct {
	data   []byte
	failed bool
}

func (r *reader) take(count uint32) []byte {
	if uint64(count) > uint64(len(r.data)) {
		r.failed, r.data = true, nil
		return nil
	}
	taken := r.data[:count]
	r.data = r.data[count:]
	return taken
}

func (r *reader) number() uint32 {
	taken := r.take(4)
	if r.failed {
		return 0
	}
	return binary.BigEndian.Uint32(taken)
}

func (r *reader) sized() []byte {
	return r.take(r.number())
}
