package node

import (
	"bytes"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"devicetrust/durable"
)

// loadSegment counts what is whole in a segment; an empty one is removed.
// Nothing is ever appended to a segment of an earlier run.
func (s *spool) loadSegment(number uint64) (segment, error) {
	seg := segment{number: number}
	data, err := os.ReadFile(s.path(number))
	if err != nil {
		return seg, err
	}
	for line := range bytes.Lines(data) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		seg.size += int64(len(line))
		seg.addLine(line)
	}
	if seg.size == 0 {
		return seg, os.Remove(s.path(number))
	}
	return seg, nil
}

// writer is the open segment.
type writer struct {
	file   *os.File
	number uint64
	size   int64
	// unsettled: some of size may not be on the disk yet.
	unsettled bool
	// broken: bytes that nobody was promised may follow size.
	broken bool
}

// put writes lines, which taken counts, at the end of the spool, and makes all
// of it durable where that is wanted. After a failure the segment is given up:
// what of it was promised stays, what follows is cut off.
func (s *spool) put(w *writer, lines []byte, taken use, durable bool) (*writer, error) {
	s.rewind(w)
	if w.broken || w.size > 0 && w.size+int64(len(lines)) > segmentSize {
		next, err := s.nextSegment(w)
		if err != nil {
			return w, fmt.Errorf("the audit record cannot be written: %w", err)
		}
		w = next
	}
	if err := w.append(lines, durable); err != nil {
		s.log.Error("the audit record cannot be written; no session starts until it can", "error", err)
		return w, fmt.Errorf("the audit record cannot be written: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg := s.segmentLocked(w.number); seg != nil {
		seg.size = w.size
		seg.join(taken)
		return w, nil
	}
	s.segments = append(s.segments, segment{number: w.number, size: w.size, use: taken})
	return w, nil
}

// segmentLocked needs s.mu.
func (s *spool) segmentLocked(number uint64) *segment {
	for i := range s.segments {
		if s.segments[i].number == number {
			return &s.segments[i]
		}
	}
	return nil
}

// rewind empties a segment of some size that has arrived whole. Where that
// fails, or is lost in a crash, records are sent twice and kept once.
func (s *spool) rewind(w *writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg := s.segmentLocked(w.number)
	if w.broken || w.size < rewindSize || seg == nil || seg.sent < seg.size {
		return
	}
	if err := w.file.Truncate(0); err != nil {
		return
	}
	w.size = 0
	*seg = segment{number: w.number}
}

// retire closes the last segment and removes it where nothing in it is left
// to be sent.
func (s *spool) retire(w *writer) {
	s.settle(w)
	w.file.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg := s.segmentLocked(w.number); seg == nil || seg.sent >= seg.size {
		os.Remove(w.file.Name())
	}
}

func (w *writer) append(lines []byte, durable bool) error {
	if _, err := w.file.Write(lines); err != nil {
		w.broken = true
		return err
	}
	w.unsettled = true
	if durable {
		if err := w.settle(); err != nil {
			return err
		}
	}
	w.size += int64(len(lines))
	return nil
}

// settle waits until all that was written is on the disk. Where that fails it
// is not tried again: the kernel has forgotten what is not there (fsync(2)).
func (w *writer) settle() error {
	w.unsettled = false
	err := unix.Fdatasync(int(w.file.Fd()))
	w.broken = w.broken || err != nil
	return err
}

// settle is for patient records, whose callers have gone on.
func (s *spool) settle(w *writer) {
	if !w.unsettled {
		return
	}
	if err := w.settle(); err != nil {
		s.log.Error("audit records may not be on the disk and would be lost with this machine's power", "error", err)
	}
}

// nextSegment closes w and opens the one after it.
func (s *spool) nextSegment(w *writer) (*writer, error) {
	if w.broken {
		// Not promised, so not to be sent: cut off, also by a later start.
		if err := os.Truncate(w.file.Name(), w.size); err != nil {
			return nil, err
		}
	}
	s.settle(w)
	next, err := s.newSegment()
	if err != nil {
		return nil, err
	}
	w.file.Close()
	if w.size == 0 {
		os.Remove(w.file.Name())
		s.mu.Lock()
		defer s.mu.Unlock()
		s.segments = slices.DeleteFunc(s.segments, func(seg segment) bool { return seg.number == w.number })
	}
	return next, nil
}

// newSegment makes an empty file after all others, and makes its name durable.
func (s *spool) newSegment() (*writer, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var last uint64
	for _, e := range entries {
		if n, ok := segmentNumber(e.Name()); ok {
			last = max(last, n)
		}
	}
	f, err := os.OpenFile(s.path(last+1), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err := durable.SyncDir(s.dir); err != nil {
		f.Close()
		return nil, err
	}
	return &writer{file: f, number: last + 1}, nil
}
