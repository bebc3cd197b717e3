package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// policy is a C2SP tlog-policy with one log and one flat group of witnesses as its quorum.
type policy struct {
	origin    string
	known     note.Verifiers
	witnesses map[string]bool // names of keys
	quorum    int
}

// parsePolicy reads the lines log, witness, group and quorum.
func parsePolicy(text string) (*policy, error) {
	rules := &policy{witnesses: map[string]bool{}}
	var verifiers []note.Verifier
	members := map[string]bool{}
	groups := map[string]int{"none": 0}
	ended := false
	for number, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		wrong := fmt.Errorf("line %d: cannot read %q", number+1, line)
		switch {
		case words[0] == "log" && len(words) >= 2:
			// Several lines are keys of one log that changed its key.
			verifier, err := note.NewVerifier(words[1])
			if err != nil {
				return nil, fmt.Errorf("line %d: %v", number+1, err)
			}
			if rules.origin != "" && rules.origin != verifier.Name() {
				return nil, wrong
			}
			verifiers = append(verifiers, verifier)
			rules.origin = verifier.Name()
		case words[0] == "witness" && len(words) >= 3:
			witness, err := newWitness(words[2])
			if err != nil {
				return nil, fmt.Errorf("line %d: %v", number+1, err)
			}
			if members[words[1]] || rules.witnesses[witness.name] {
				return nil, fmt.Errorf("line %d: the witness occurs twice", number+1)
			}
			verifiers = append(verifiers, witness)
			members[words[1]] = true
			rules.witnesses[witness.name] = true
			groups[words[1]] = 1
		case words[0] == "group" && len(words) >= 4:
			threshold, err := strconv.Atoi(words[2])
			if words[2] == "all" {
				threshold, err = len(words)-3, nil
			} else if words[2] == "any" {
				threshold, err = 1, nil
			}
			if err != nil || threshold < 1 || threshold > len(words)-3 {
				return nil, wrong
			}
			listed := map[string]bool{}
			for _, member := range words[3:] {
				listed[member] = true
				if !members[member] {
					return nil, fmt.Errorf("line %d: %s is no witness", number+1, member)
				}
			}
			if len(listed) != len(members) || len(words)-3 != len(members) {
				return nil, fmt.Errorf("line %d: this program wants one group of all witnesses", number+1)
			}
			groups[words[1]] = threshold
		case words[0] == "quorum" && len(words) == 2 && !ended:
			threshold, there := groups[words[1]]
			if !there || members[words[1]] && len(members) > 1 {
				return nil, wrong
			}
			rules.quorum, ended = threshold, true
		default:
			return nil, wrong
		}
	}
	if rules.origin == "" || !ended {
		return nil, errors.New("a policy needs a log line and a quorum line")
	}
	rules.known = note.VerifierList(verifiers...)
	return rules, nil
}

// open verifies a checkpoint and counts its cosignatures. It is stricter than note.Open: no
// signature of unknown keys, none repeated, no second spelling of the same signature.
func (rules *policy) open(signed []byte) (tlog.Tree, int, error) {
	opened, err := note.Open(signed, rules.known)
	if err != nil {
		return tlog.Tree{}, 0, err
	}
	if len(opened.UnverifiedSigs) > 0 {
		return tlog.Tree{}, 0, fmt.Errorf(
			"signature of %s by a key that the policy does not list", opened.UnverifiedSigs[0].Name)
	}
	text := opened.Text + "\n"
	bySelf, witnesses := false, 0
	for _, signature := range opened.Sigs {
		data, _ := base64.StdEncoding.DecodeString(signature.Base64)
		text += "\u2014 " + signature.Name + " " + base64.StdEncoding.EncodeToString(data) + "\n"
		if signature.Name == rules.origin && !rules.witnesses[signature.Name] {
			bySelf = true
		} else {
			witnesses++
		}
	}
	if text != string(signed) {
		return tlog.Tree{}, 0, errors.New("signatures are repeated or not in canonical base64")
	}
	if !bySelf {
		return tlog.Tree{}, 0, fmt.Errorf("no signature of the log %s", rules.origin)
	}
	tree, err := rules.parseTree(opened.Text)
	return tree, witnesses, err
}

// parseTree reads origin, size and root: Go's format under another first line.
func (rules *policy) parseTree(text string) (tlog.Tree, error) {
	lines := strings.SplitAfter(text, "\n")
	if len(lines) != 4 || lines[0] != rules.origin+"\n" {
		return tlog.Tree{}, fmt.Errorf("not a checkpoint of %s", rules.origin)
	}
	return tlog.ParseTree([]byte("go.sum database tree\n" + lines[1] + lines[2]))
}

// witness verifies C2SP cosignature/v1, which sumdb/note leaves to an implementation of its
// Verifier: 8 bytes of time, then Ed25519 over two lines and the checkpoint.
type witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

const algCosignature = 0x04

func newWitness(vkey string) (*witness, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 || parts[0] == "" {
		return nil, fmt.Errorf("malformed vkey %q", vkey)
	}
	hash, err1 := hex.DecodeString(parts[1])
	key, err2 := base64.StdEncoding.DecodeString(parts[2])
	if err1 != nil || err2 != nil || len(hash) != 4 || len(key) != 33 || key[0] != algCosignature {
		return nil, fmt.Errorf("vkey %q is not a cosignature/v1 key", vkey)
	}
	sum := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
	if string(sum[:4]) != string(hash) {
		return nil, fmt.Errorf("vkey %q: its key has the hash %x", vkey, sum[:4])
	}
	return &witness{parts[0], binary.BigEndian.Uint32(hash), key[1:]}, nil
}

func (w *witness) Name() string { return w.name }

func (w *witness) KeyHash() uint32 { return w.hash }

func (w *witness) Verify(text, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	moment := binary.BigEndian.Uint64(signature)
	signed := fmt.Sprintf("cosignature/v1\ntime %d\n%s", moment, text)
	return ed25519.Verify(w.key, []byte(signed), signature[8:])
}
