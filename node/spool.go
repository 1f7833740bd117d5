package node

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"devicetrust/audit/event"
)

// spool keeps audit records on disk until the control plane has them. What a
// record is about happens only after append has returned without error: the
// record is then on the disk, or, where it is patient, written and soon there
// (docs/decisions/0013). It arrives at least once (the control plane knows
// records by their UID).
//
// The folder holds segments, files of JSON lines named by number. Only the
// last one is written; one is deleted when all in it has arrived.
type spool struct {
	dir string
	log *slog.Logger

	work chan pending
	done chan struct{} // closed when the writer has ended
	stop chan struct{}
	// arrived tells the shipper that there is something.
	arrived chan struct{}
	// waits of a lesser record for room.
	waits time.Duration

	// shipping is held while a batch is on its way: two would be sent twice
	// and counted twice.
	shipping sync.Mutex

	mu sync.Mutex
	// segments on disk, oldest first; the last one is open for writing in
	// the writer.
	segments []segment
	// freed is closed, and another made, when the control plane has taken
	// something; stalled, that it took nothing for long.
	freed   chan struct{}
	stalled bool
}

// segment is one file. size counts what callers were told is written; sent is
// how far the control plane has it.
type segment struct {
	number     uint64
	size, sent int64
	use
}

// pending is one caller's records on their way to the disk.
type pending struct {
	lines []byte
	part  part
	user  string // of lesser ones
	// patient: they need not be on the disk when their caller goes on.
	patient bool
	result  chan error // of capacity 1
}

// openSpool opens the spool in dir, which it makes where there is none. A
// last line that was cut off by a crash does not count: nobody was told that
// it had been written.
func openSpool(dir string, log *slog.Logger) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &spool{
		dir: dir, log: log,
		work:    make(chan pending, 256),
		done:    make(chan struct{}),
		stop:    make(chan struct{}),
		arrived: make(chan struct{}, 1),
		waits:   lesserWait,
		freed:   make(chan struct{}),
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("audit spool: %w", err)
	}
	w, err := s.newSegment()
	if err != nil {
		return nil, fmt.Errorf("audit spool: %w", err)
	}
	go s.write(w)
	return s, nil
}

func (s *spool) load() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		number, ok := segmentNumber(e.Name())
		if !ok {
			continue
		}
		seg, err := s.loadSegment(number)
		if err != nil {
			return err
		}
		if seg.size > 0 {
			s.segments = append(s.segments, seg)
		}
	}
	slices.SortFunc(s.segments, func(a, b segment) int { return int(int64(a.number) - int64(b.number)) })
	if len(s.segments) > 0 {
		s.arrive()
	}
	return nil
}

const segmentSuffix = ".jsonl"

func segmentNumber(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	n, err := strconv.ParseUint(digits, 10, 62)
	return n, ok && err == nil && len(digits) == 20
}

func (s *spool) path(number uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%020d%s", number, segmentSuffix))
}

// append writes the records, in order, and returns when they are on the disk;
// where all of them are patient, when they are written. Records that are all
// of one lesser part may fill only that: those of files and forwards wait for
// room while the control plane makes some. Many callers share one write and one
// fsync.
func (s *spool) append(events ...event.Event) error {
	if len(events) == 0 {
		return nil
	}
	p := pending{result: make(chan error, 1), part: partOf(events[0].Type), user: events[0].User, patient: true}
	for _, e := range events {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if len(line) > maxRecord {
			return fmt.Errorf("audit record of %d bytes, more than %d", len(line), maxRecord)
		}
		p.lines = append(append(p.lines, line...), '\n')
		if partOf(e.Type) != p.part {
			p.part = essential
		}
		p.patient = p.patient && patient(e.Type)
	}
	if p.part == lesser {
		return s.offerAgain(p)
	}
	return s.offer(p)
}

// offer gives p to the writer and waits for its answer.
func (s *spool) offer(p pending) error {
	select {
	case s.work <- p:
	case <-s.stop:
		return errSpoolClosed
	}
	select {
	case err := <-p.result:
		return err
	case <-s.done:
		select {
		case err := <-p.result:
			return err
		default:
			return errSpoolClosed
		}
	}
}

// close writes what was given and ends.
func (s *spool) close() {
	close(s.stop)
	<-s.done
}

// write is the only goroutine that writes.
func (s *spool) write(w *writer) {
	defer close(s.done)
	defer func() { s.retire(w) }()
	var late <-chan time.Time // when patience ends
	for {
		select {
		case p := <-s.work:
			w = s.commit(w, s.gather(p))
		case <-late:
			s.settle(w)
		case <-s.stop:
			for {
				select {
				case p := <-s.work:
					w = s.commit(w, s.gather(p))
				default:
					return
				}
			}
		}
		switch {
		case !w.unsettled:
			late = nil
		case late == nil:
			late = time.After(patience)
		}
	}
}

// gather takes what else is waiting, so that it shares the fsync.
func (s *spool) gather(first pending) []pending {
	group, size := []pending{first}, len(first.lines)
	for size < segmentSize {
		select {
		case p := <-s.work:
			group = append(group, p)
			size += len(p.lines)
		default:
			return group
		}
	}
	return group
}

// commit writes a group and tells each caller; it gives the writer to go on
// with.
func (s *spool) commit(w *writer, group []pending) *writer {
	var lines []byte
	var taken use
	durable := false
	room := s.room()
	accepted := group[:0]
	for _, p := range group {
		if err := s.admit(p, &room, &taken); err != nil {
			p.result <- err
			continue
		}
		durable = durable || !p.patient
		lines = append(lines, p.lines...)
		accepted = append(accepted, p)
	}
	if len(accepted) == 0 {
		return w
	}
	w, err := s.put(w, lines, taken, durable)
	for _, p := range accepted {
		p.result <- err
	}
	s.arrive()
	return w
}

// arrive wakes the shipper.
func (s *spool) arrive() {
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// unsent is how many bytes the control plane does not have yet.
func (s *spool) unsent() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seg := range s.segments {
		n += seg.size - seg.sent
	}
	return n
}
