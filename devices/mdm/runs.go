package mdm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"devicetrust/api"
	"devicetrust/store"
)

// run holds a source's lease.
type run struct {
	s       *Syncer
	c       configured
	id      string
	started time.Time
	fullAt  int64 // when the last full run that succeeded ended, as stored
}

// begin takes the lease of a source. last is when the last run that succeeded
// began.
func (s *Syncer) begin(ctx context.Context, c configured) (r *run, last time.Time, err error) {
	r = &run{s: s, c: c, id: uuid.NewString(), started: s.clock.Now()}
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(`INSERT INTO mdm_runs (source) VALUES ($1) ON CONFLICT (source) DO NOTHING`, c.Name); err != nil {
			return fmt.Errorf("mdm: %w", err)
		}
		var holder string
		var until, read int64
		err := tx.QueryRow(`SELECT holder, lease_until, read_at, full_at FROM mdm_runs WHERE source = $1`, c.Name).
			Scan(&holder, &until, &read, &r.fullAt)
		if err != nil {
			return fmt.Errorf("mdm: %w", err)
		}
		last = store.Time(read)
		if end := store.Time(until); holder != "" && r.started.Before(end) {
			return api.Refuse(connect.CodeAborted, "source %s is being synchronized already", c.Name).
				WithHint("Wait until that is done. Where its dtauthd died, it is free again at %s", end.Format(time.RFC3339))
		}
		_, err = tx.Exec(`UPDATE mdm_runs SET holder = $2, lease_until = $3 WHERE source = $1`,
			c.Name, r.id, store.Micros(r.started.Add(lease)))
		if err != nil {
			return fmt.Errorf("mdm: %w", err)
		}
		return nil
	})
	return r, last, err
}

// stands prolongs the lease, and refuses to write where another run has taken
// it.
func (r *run) stands(tx *store.Tx) error {
	n, err := tx.Exec(`UPDATE mdm_runs SET lease_until = $3 WHERE source = $1 AND holder = $2`,
		r.c.Name, r.id, store.Micros(r.s.clock.Now().Add(lease)))
	if err != nil {
		return fmt.Errorf("mdm: %w", err)
	}
	if n != 1 {
		return api.Refuse(connect.CodeAborted, "this run of source %s took too long, and another one has taken over", r.c.Name)
	}
	return nil
}

// release gives the lease back.
func (r *run) release(ctx context.Context) error {
	return r.end(ctx, func(*store.Tx) error { return nil })
}

// finish notes how the run ended, and gives the lease back.
func (r *run) finish(ctx context.Context, full, succeeded bool) error {
	if !succeeded {
		return r.end(ctx, r.noteFailure)
	}
	if full {
		r.fullAt = store.Micros(r.s.clock.Now())
	}
	return r.end(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE mdm_runs SET failures = 0, retry_at = 0, read_at = $3, full_at = $4 WHERE source = $1 AND holder = $2`,
			r.c.Name, r.id, store.Micros(r.started), r.fullAt)
		return err
	})
}

func (r *run) noteFailure(tx *store.Tx) error {
	var failures int
	if err := tx.QueryRow(`SELECT failures FROM mdm_runs WHERE source = $1`, r.c.Name).Scan(&failures); err != nil {
		return err
	}
	retry := r.s.clock.Now().Add(backOff(failures, r.c.PartialEvery))
	_, err := tx.Exec(`UPDATE mdm_runs SET failures = failures + 1, retry_at = $3 WHERE source = $1 AND holder = $2`,
		r.c.Name, r.id, store.Micros(retry))
	return err
}

// backOff after so many failures before this one, and up to a fifth more.
func backOff(failures int, most time.Duration) time.Duration {
	d := min(firstRetry<<min(failures, 10), most)
	return d + rand.N(d/5)
}

// end gives the lease back after note, whatever became of ctx.
func (r *run) end(ctx context.Context, note func(tx *store.Tx) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	return r.s.db.Write(ctx, func(tx *store.Tx) error {
		err := note(tx)
		if err == nil {
			_, err = tx.Exec(`UPDATE mdm_runs SET holder = '', lease_until = 0 WHERE source = $1 AND holder = $2`, r.c.Name, r.id)
		}
		if err != nil {
			return fmt.Errorf("mdm: %w", err)
		}
		return nil
	})
}

// due tells whether the schedule wants a source now, and whether all of it.
func (s *Syncer) due(ctx context.Context, c configured) (full, due bool, err error) {
	var read, fullAt, retry, until int64
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		// No row is a source that was never read.
		rows, err := tx.Query(`SELECT read_at, full_at, retry_at, lease_until FROM mdm_runs WHERE source = $1`, c.Name)
		if err != nil {
			return fmt.Errorf("mdm: %w", err)
		}
		if rows.Next() {
			err = rows.Scan(&read, &fullAt, &retry, &until)
		}
		return errors.Join(err, rows.Err(), rows.Close())
	})
	now := s.clock.Now()
	if err != nil || now.Before(store.Time(retry)) || now.Before(store.Time(until)) {
		return false, false, err
	}
	if !now.Before(store.Time(fullAt).Add(c.FullEvery)) {
		return true, true, nil
	}
	return false, !now.Before(store.Time(read).Add(c.PartialEvery)), nil
}
