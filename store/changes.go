package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// changes wakes those who follow the store. A wake carries nothing: whoever
// wakes reads what is there now, with its sequence number, in one snapshot.
type changes struct {
	mu        sync.Mutex
	followers map[chan struct{}]struct{}

	stop context.CancelFunc // nil where nothing listens
	done chan struct{}
}

func newChanges() *changes {
	return &changes{followers: make(map[chan struct{}]struct{})}
}

func (c *changes) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for f := range c.followers {
		select {
		case f <- struct{}{}:
		default: // it has not taken the last wake yet; one is enough
		}
	}
}

// Follow returns a channel that receives after each committed change (several
// may come as one), until ctx ends. A listener that lost its connection to
// PostgreSQL is woken on reconnecting, so nothing is missed for good.
func (db *DB) Follow(ctx context.Context) <-chan struct{} {
	ch := make(chan struct{}, 1)
	db.changes.mu.Lock()
	db.changes.followers[ch] = struct{}{}
	db.changes.mu.Unlock()
	context.AfterFunc(ctx, func() {
		db.changes.mu.Lock()
		defer db.changes.mu.Unlock()
		delete(db.changes.followers, ch)
	})
	return ch
}

// Sequence is the number of changes so far, as tx sees it.
func (tx *Tx) Sequence() (uint64, error) {
	var seq int64
	if err := tx.QueryRow(`SELECT seq FROM change_sequence WHERE id = 1`).Scan(&seq); err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	return uint64(seq), nil
}

func (tx *Tx) bumpSequence() error {
	if _, err := tx.Exec(`UPDATE change_sequence SET seq = seq + 1 WHERE id = 1`); err != nil {
		return err
	}
	if tx.engine == enginePostgres {
		_, err := tx.Exec(`SELECT pg_notify('dt_changes', '')`)
		return err
	}
	return nil
}

// listen follows PostgreSQL's notifications on a connection of its own, for
// as long as the store is open.
func (c *changes) listen(cfg *pgx.ConnConfig, log *slog.Logger) {
	ctx, cancel := context.WithCancel(context.Background())
	c.stop, c.done = cancel, make(chan struct{})
	go func() {
		defer close(c.done)
		for ctx.Err() == nil {
			err := c.listenOnce(ctx, cfg)
			if ctx.Err() != nil {
				return
			}
			log.Warn("lost the change notifications; reconnecting", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
		}
	}()
}

func (c *changes) listenOnce(ctx context.Context, cfg *pgx.ConnConfig) (err error) {
	conn, err := startListening(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		closeCtx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err = errors.Join(err, conn.Close(closeCtx))
	}()
	c.wake() // for what was missed while nobody listened
	for {
		heard, err := waitOrProbe(ctx, conn)
		if err != nil {
			return err
		}
		if heard {
			c.wake()
		}
	}
}

func startListening(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, listenAnswer)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg.Copy())
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, `LISTEN dt_changes`); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return conn, nil
}

// waitOrProbe tells whether a notification came. Where none does, it has the
// connection prove that one could.
func waitOrProbe(ctx context.Context, conn *pgx.Conn) (heard bool, err error) {
	wait, cancel := context.WithTimeout(ctx, listenProbe)
	defer cancel()
	_, err = conn.WaitForNotification(wait)
	// Running out of time leaves the connection as it was (pgconn).
	if err == nil || ctx.Err() != nil || wait.Err() == nil || conn.IsClosed() {
		return err == nil, err
	}
	answer, cancel := context.WithTimeout(ctx, listenAnswer)
	defer cancel()
	return false, conn.Ping(answer)
}

func (c *changes) close() {
	if c.stop != nil {
		c.stop()
		<-c.done
	}
}
