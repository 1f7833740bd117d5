//go:build linux

package storetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"devicetrust/store"
)

// cluster is this process's PostgreSQL; it is made by the first test that
// asks, and by no test that does not.
var cluster = sync.OnceValues(startCluster)

var databases atomic.Int64

// template is the migrated database that the others are copied from.
const template = "dt_template"

// PostgresURL returns the address of a fresh, empty, migrated PostgreSQL
// database, which is dropped when t ends.
func PostgresURL(t testing.TB) string {
	t.Helper()
	c, err := cluster()
	if err != nil {
		t.Fatalf("storetest: %v", err)
	}
	name := fmt.Sprintf("dt_%d", databases.Add(1))
	if _, err := c.admin.ExecContext(t.Context(), `CREATE DATABASE `+name+` TEMPLATE `+template+``); err != nil {
		t.Fatalf("storetest: %v", err)
	}
	t.Cleanup(func() {
		// FORCE: a test may have left a connection, and that is its business.
		if _, err := c.admin.ExecContext(context.Background(), `DROP DATABASE `+name+` WITH (FORCE)`); err != nil {
			t.Errorf("storetest: %v", err)
		}
	})
	return c.url(name)
}

type pgCluster struct {
	dir   string    // holds the socket, the log and the data
	hold  io.Closer // the server ends when this is closed or collected
	admin *sql.DB
}

// url is the address of a database; only the owner of dir, and root, reach
// the socket in it, so there is no password.
func (c *pgCluster) url(database string) string {
	return "postgres://dt@/" + database + "?host=" + c.dir
}

func startCluster() (*pgCluster, error) {
	dir, hold, err := supervise()
	if err != nil {
		return nil, err
	}
	c := &pgCluster{dir: dir, hold: hold}
	if c.admin, err = sql.Open("pgx", c.url("postgres")); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := c.wait(ctx); err != nil {
		return nil, errors.Join(err, hold.Close())
	}
	if _, err := c.admin.ExecContext(ctx, `CREATE DATABASE `+template); err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, c.url(template), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return c, db.Close()
}

// wait polls until the server takes connections.
func (c *pgCluster) wait(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := c.admin.PingContext(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not answer: %w; its log:\n%s", err, strings.TrimSpace(readLog(c.dir)))
		case <-tick.C:
		}
	}
}
