package audit

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// witness remembers the last place that this process saw committed. Whoever
// can write to the database cannot make records, but could put an old copy of
// the log and its head back; the witness knows better.
type witness struct {
	chain chain

	mu   sync.Mutex // guards the fields below
	last mark
	file *os.File // nil where nothing is kept beyond the process
	err  error    // of the last write to file
}

func (w *witness) saw(m mark) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.seq <= w.last.seq {
		return // commits of two goroutines may be reported in either order
	}
	w.last = m
	if w.file != nil {
		_, w.err = w.file.WriteAt(w.chain.anchor(m), 0)
	}
}

// now returns what saw was told last, and the error of keeping it.
func (w *witness) now() (mark, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last, w.err
}

// notBefore refuses a head that is older than what was seen.
func (w *witness) notBefore(head mark) error {
	last, _ := w.now()
	if head.seq < last.seq {
		return brokenf("it ends with record %d, and record %d was seen", head.seq, last.seq)
	}
	if head.seq == last.seq && head.hash != last.hash {
		return brokenf("record %d is not the one that was seen", head.seq)
	}
	return nil
}

const anchorForm = "dt-audit-anchor-v1 %020d %064x %064x\n"

// anchor is m as the anchor file holds it; its length does not vary, so that
// one write replaces it.
func (c chain) anchor(m mark) []byte {
	return fmt.Appendf(nil, anchorForm, m.seq, m.hash, c.seal(m))
}

func (c chain) parseAnchor(text []byte) (mark, error) {
	var m mark
	var hash, seal string
	if _, err := fmt.Sscanf(string(text), "dt-audit-anchor-v1 %d %s %s\n", &m.seq, &hash, &seal); err != nil {
		return mark{}, errors.New("it is damaged")
	}
	b, err := hex.DecodeString(hash)
	if err != nil || len(b) != len(m.hash) {
		return mark{}, errors.New("it is damaged")
	}
	copy(m.hash[:], b)
	if string(c.anchor(m)) != string(text) {
		return mark{}, errors.New("it is damaged or of another cluster")
	}
	return m, nil
}

// UseAnchor keeps, in the file at path, the last record that this process saw
// committed, and believes what the file says from earlier: a database that is
// put back to an older state is then noticed across restarts too, and nothing
// is recorded until somebody removes the file. It is called once, before the
// first record; Close closes the file.
//
// Each record costs one small write that is not synced: the file survives the
// process, and after a loss of power it may be some records old, which makes
// it a weaker witness and never a false one.
func (l *Log) UseAnchor(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, 1<<10))
	if err != nil {
		return errors.Join(fmt.Errorf("audit: %w", err), f.Close())
	}
	var last mark
	if len(text) > 0 {
		if last, err = l.chain.parseAnchor(text); err != nil {
			return errors.Join(fmt.Errorf("audit: the anchor %s cannot be believed: %w: compare with dtctl audit verify, then remove the file", path, err), f.Close())
		}
	}
	l.seen.mu.Lock()
	defer l.seen.mu.Unlock()
	l.seen.last, l.seen.file = last, f
	return nil
}

// Close closes the anchor file; the store is its owner's to close.
func (l *Log) Close() error {
	l.seen.mu.Lock()
	defer l.seen.mu.Unlock()
	if l.seen.file == nil {
		return nil
	}
	f := l.seen.file
	l.seen.file = nil
	if err := f.Close(); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}
