package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
)

// ship sends the spool's records with send, in order, until ctx ends. What
// send took is not sent again, unless we end before the segment is deleted.
func (s *spool) ship(ctx context.Context, send func(context.Context, [][]byte) error) {
	retry := newBackoff()
	for {
		sent, err := s.shipOnce(ctx, send)
		wait := time.Duration(0)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = retry.next()
			s.log.Warn("the control plane did not take audit records; they are kept", "error", err, "retry_in", wait)
		case sent > 0:
			retry.reset()
			continue
		}
		if !s.wait(ctx, wait) {
			return
		}
	}
}

// wait for the given time or, where it is 0, for new records.
func (s *spool) wait(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		return sleep(ctx, d)
	}
	select {
	case <-s.arrived:
		return true
	case <-ctx.Done():
		return false
	}
}

// shipOnce sends one batch and tells how many records it had.
func (s *spool) shipOnce(ctx context.Context, send func(context.Context, [][]byte) error) (int, error) {
	s.shipping.Lock()
	defer s.shipping.Unlock()
	batch, from, err := s.oldest()
	if err != nil || len(batch) == 0 {
		return 0, err
	}
	err = send(ctx, batch)
	if connect.CodeOf(err) == connect.CodeInvalidArgument {
		// One of them is not to its liking and would hold up all others for
		// ever: find it, and keep it aside.
		if len(batch) > 1 {
			batch = batch[:1]
			err = send(ctx, batch)
		}
		if connect.CodeOf(err) == connect.CodeInvalidArgument {
			s.log.Error("the control plane refuses an audit record; it is kept in "+refusedRecords, "error", err)
			err = s.setAside(batch[0])
		}
	}
	if err != nil {
		return 0, err
	}
	return len(batch), s.took(from, batch)
}

// refusedRecords holds records that the control plane finds invalid, and
// refusedBefore those before them.
const (
	refusedRecords = "refused.json"
	refusedBefore  = "refused.json.1"
)

func (s *spool) setAside(line []byte) error {
	path := filepath.Join(s.dir, refusedRecords)
	if info, err := os.Stat(path); err == nil && info.Size()+int64(len(line)) >= maxRefused {
		s.log.Error("too many refused audit records; those in " + refusedBefore + " are given up")
		if err := os.Rename(path, filepath.Join(s.dir, refusedBefore)); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(bytes.Clone(line), '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

// oldest reads the first records that were not sent, and tells the segment
// they are in.
func (s *spool) oldest() (batch [][]byte, number uint64, err error) {
	seg, ok := s.first()
	if !ok {
		return nil, 0, nil
	}
	f, err := os.Open(s.path(seg.number))
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	data := make([]byte, min(seg.size-seg.sent, max(batchBytes, maxRecord+1)))
	if _, err := f.ReadAt(data, seg.sent); err != nil {
		return nil, 0, err
	}
	size := 0
	for len(batch) < batchRecords {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole || len(batch) > 0 && size+len(line) > batchBytes {
			break
		}
		if !json.Valid(line) {
			if len(batch) > 0 {
				break
			}
			return nil, 0, s.skip(seg.number, data[:len(line)+1])
		}
		batch, data, size = append(batch, line), rest, size+len(line)
	}
	if len(batch) == 0 { // no record is as long: what a lost power left of some
		return nil, 0, s.skip(seg.number, data)
	}
	return batch, seg.number, nil
}

// skip keeps aside what is not a record. It is the disk's doing: a line is
// written whole or not promised.
func (s *spool) skip(number uint64, damaged []byte) error {
	s.log.Error("an audit record on the disk is damaged; it is kept in " + refusedRecords)
	damaged = damaged[:len(damaged)-1] // its end, which took and setAside add
	if err := s.setAside(damaged); err != nil {
		return err
	}
	s.arrive()
	return s.took(number, [][]byte{damaged})
}

// first is the oldest segment with something to send.
func (s *spool) first() (segment, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seg := range s.segments {
		if seg.sent < seg.size {
			return seg, true
		}
	}
	return segment{}, false
}

// took notes that the batch arrived, and deletes segments that are through.
func (s *spool) took(number uint64, batch [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.segments[:0]
	var errs []error
	for i, seg := range s.segments {
		if seg.number == number {
			for _, line := range batch {
				seg.sent += int64(len(line)) + 1
			}
		}
		// The last one may be being written.
		if seg.sent >= seg.size && i < len(s.segments)-1 {
			if err := os.Remove(s.path(seg.number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			continue
		}
		kept = append(kept, seg)
	}
	s.segments = kept
	s.progressLocked()
	return errors.Join(errs...)
}
