package feed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"

	"devicetrust/api/dtv1"
	"devicetrust/durable"
)

// File is where a server keeps its state. Beside it, in a file of the same name
// and ".newest", is the number of the newest state that was kept, so that an
// older one which is put in its place is not taken for the present one.
type File struct {
	Path string
	// As is who may read it.
	As durable.File
}

func (f File) newest() string { return f.Path + ".newest" }

// Save keeps s, which replaces whatever is kept, newer or not.
func (f File) Save(s *State) error {
	m := &dtv1.SavedState{
		Version: version, Statement: s.statement.message, StatementSignature: s.statement.signature,
		Facts: s.facts.message, FactsSignature: s.facts.signature, Digests: s.digests.wire(), Buckets: s.contents[:],
	}
	data, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("feed: %w", err)
	}
	if len(data) > MaxMessage {
		return fmt.Errorf("feed: a state of %d bytes is more than %d", len(data), MaxMessage)
	}
	// Whoever loads meanwhile, and after a crash, is not to find a number that is
	// higher than the state's: the state comes first where it is newer.
	writeState := func() error { return f.As.Write(f.Path, data) }
	writeNumber := func() error { return f.As.Write(f.newest(), []byte(strconv.FormatUint(s.Sequence(), 10)+"\n")) }
	first, second := writeState, writeNumber
	if known, err := f.known(); err != nil || known > s.Sequence() {
		first, second = writeNumber, writeState
	}
	if err := first(); err != nil {
		return err
	}
	return second()
}

// known is the number of the newest state that was kept.
func (f File) known() (uint64, error) {
	text, err := durable.Read(f.newest(), maxNumber)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(string(text), "\n"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s holds no number", f.newest())
	}
	return n, nil
}

// Remove forgets what is kept.
func (f File) Remove() error {
	for _, path := range []string{f.Path, f.newest()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Load gives the state that is kept, of the cluster and about the node, where
// one of authorities signed it; fs.ErrNotExist where there is none. Buckets are
// held against their digests when they are read.
func (f File) Load(authorities []ssh.PublicKey, cluster, nodeID string) (*State, error) {
	// Before the state: between the two another one may be saved.
	newest, err := f.known()
	if err != nil {
		return nil, err
	}
	data, err := durable.Read(f.Path, MaxMessage)
	if err != nil {
		return nil, err
	}
	s, err := parse(data, cluster, nodeID)
	if err == nil {
		err = s.verify(authorities)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	if err := f.checkNewest(s, newest); err != nil {
		return nil, err
	}
	return s, nil
}

// checkNewest refuses s where it is older than newest, which was known before
// s was read.
func (f File) checkNewest(s *State, newest uint64) (err error) {
	if s.Sequence() >= newest {
		return nil
	}
	// Meanwhile an older one may have been saved, its number first.
	if newest, err = f.known(); err != nil {
		return err
	}
	if s.Sequence() < newest {
		return fmt.Errorf("%s is of change %d, and change %d was known already: was an older file put in its place?", f.Path, s.Sequence(), newest)
	}
	return nil
}

func parse(data []byte, cluster, nodeID string) (*State, error) {
	m := &dtv1.SavedState{}
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("feed: %w", err)
	}
	if m.GetVersion() != version {
		return nil, fmt.Errorf("feed: a state of version %d, and version %d is known", m.GetVersion(), version)
	}
	if len(m.GetBuckets()) != buckets {
		return nil, fmt.Errorf("feed: %d buckets, want %d", len(m.GetBuckets()), buckets)
	}
	s := &State{
		statement: signed{m.GetStatement(), m.GetStatementSignature()},
		facts:     signed{m.GetFacts(), m.GetFactsSignature()},
		contents:  [buckets][]byte(m.GetBuckets()),
	}
	var err error
	if s.digests, err = parseDigests(m.GetDigests()); err != nil {
		return nil, err
	}
	return s, s.read(cluster, nodeID)
}
