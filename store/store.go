// Package store is the connection to SQLite or PostgreSQL: transactions,
// migrations and the notification of changes. It knows no nouns: each package
// holds the SQL of the tables it owns, written once for both engines.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"
)

// DB is an open store. Its methods may be called from many goroutines.
type DB struct {
	engine  engine
	writer  *sql.DB
	reader  *sql.DB
	changes *changes
}

type engine int

const (
	engineSQLite engine = iota + 1
	enginePostgres
)

// writerLock is the advisory lock that every writing transaction holds on
// PostgreSQL: an arbitrary constant, "dt" and a number.
const writerLock = 0x6474_0001

// ErrAddress is what Open returns for an address that is none.
var ErrAddress = errors.New("want sqlite:PATH or postgres://USER@HOST/DATABASE")

// Open connects to "sqlite:PATH" or to a "postgres://" URL, brings the schema
// up to date and starts to follow changes until Close.
func Open(ctx context.Context, address string, log *slog.Logger) (*DB, error) {
	var db *DB
	var err error
	if path, ok := strings.CutPrefix(address, "sqlite:"); ok {
		db, err = openSQLite(path)
	} else if strings.HasPrefix(address, "postgres://") || strings.HasPrefix(address, "postgresql://") {
		db, err = openPostgres(ctx, address, log)
	} else {
		return nil, ErrAddress
	}
	if err != nil {
		return nil, err
	}
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func openSQLite(path string) (*DB, error) {
	// SQLite creates its files with the process's umask: the folder and the
	// file are made first so that nobody else can read them.
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := closeToOthers(path + suffix); err != nil {
			return nil, err
		}
	}
	connect := func(query string) (*sql.DB, error) {
		c, err := sqlite.NewConnector("file:" + (&url.URL{Path: path}).EscapedPath() + "?" + query)
		if err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		return sql.OpenDB(c), nil
	}
	const common = "_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)&_pragma=synchronous(FULL)"
	writer, err := connect(common + "&_pragma=journal_mode(WAL)&_txlock=immediate" + fmt.Sprintf("&_pragma=cache_size(-%d)", writerCacheKiB))
	if err != nil {
		return nil, err
	}
	// One writing connection: its longest wait is far below that of several
	// that contend for SQLite's lock.
	writer.SetMaxOpenConns(1)
	reader, err := connect(common + "&_pragma=query_only(1)")
	if err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	reader.SetMaxOpenConns(8)
	return &DB{engine: engineSQLite, writer: writer, reader: reader, changes: newChanges()}, nil
}

// closeToOthers takes from others what they may do with a file that is there
// already, copied or restored by hand say: in it are hashes of passwords and
// sealed keys, and whoever may write it rules the cluster.
func closeToOthers(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		return fmt.Errorf("store: others may open %s: %w", path, err)
	}
	return nil
}

func openPostgres(ctx context.Context, address string, log *slog.Logger) (*DB, error) {
	cfg, err := pgx.ParseConfig(address)
	if err != nil {
		// pgx's own error quotes the URL, password and all.
		return nil, ErrAddress
	}
	for name, value := range sessionParameters {
		if _, set := cfg.RuntimeParams[name]; !set {
			cfg.RuntimeParams[name] = value
		}
	}
	pool := stdlib.OpenDB(*cfg)
	pool.SetMaxOpenConns(16)
	pool.SetMaxIdleConns(8)
	pool.SetConnMaxIdleTime(time.Minute)
	pingCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := pool.PingContext(pingCtx); err != nil {
		return nil, errors.Join(fmt.Errorf("store: cannot reach PostgreSQL at %s:%d: %w", cfg.Host, cfg.Port, err), pool.Close())
	}
	db := &DB{engine: enginePostgres, writer: pool, reader: pool, changes: newChanges()}
	db.changes.listen(cfg, log)
	return db, nil
}

// Close ends all connections.
func (db *DB) Close() error {
	db.changes.close()
	err := db.writer.Close()
	if db.reader != db.writer {
		err = errors.Join(err, db.reader.Close())
	}
	return err
}

// Ping tells whether the store answers.
func (db *DB) Ping(ctx context.Context) error {
	return db.Read(ctx, func(tx *Tx) error {
		var one int
		return tx.QueryRow(`SELECT 1`).Scan(&one)
	})
}

// Tx is a transaction. SQL in it uses $1, $2, … on both engines.
type Tx struct {
	ctx     context.Context
	tx      *sql.Tx
	engine  engine
	changed bool
	after   []func()
}

// Write runs fn in a writing transaction and commits it, or rolls back where
// fn returns an error. Writing transactions of all replicas run one after
// another, so what fn reads stays true until it commits.
func (db *DB) Write(ctx context.Context, fn func(tx *Tx) error) error {
	opts := &sql.TxOptions{}
	if db.engine == enginePostgres {
		// Each statement sees what was committed before it: the lock below,
		// once it is held, makes that all there is. Under another default of
		// the server's the snapshot would be of before the wait for the lock.
		opts.Isolation = sql.LevelReadCommitted
	}
	stx, err := db.writer.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer stx.Rollback() //nolint:errcheck // after Commit it says so, before it the cause is returned
	tx := &Tx{ctx: ctx, tx: stx, engine: db.engine}
	if db.engine == enginePostgres {
		if _, err := tx.Exec(`SELECT pg_advisory_xact_lock($1)`, writerLock); err != nil {
			return err
		}
	}
	if err := fn(tx); err != nil {
		return err
	}
	if tx.changed {
		if err := tx.bumpSequence(); err != nil {
			return err
		}
	}
	if err := stx.Commit(); err != nil {
		return fmt.Errorf("store: commit: %w", err)
	}
	if tx.changed && db.engine == engineSQLite {
		db.changes.wake()
	}
	for _, f := range tx.after {
		f()
	}
	return nil
}

// Read runs fn on one consistent snapshot.
func (db *DB) Read(ctx context.Context, fn func(tx *Tx) error) error {
	opts := &sql.TxOptions{ReadOnly: true}
	if db.engine == enginePostgres {
		opts.Isolation = sql.LevelRepeatableRead
	}
	stx, err := db.reader.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer stx.Rollback() //nolint:errcheck // nothing was written
	return fn(&Tx{ctx: ctx, tx: stx, engine: db.engine})
}

// Context is the context that the transaction runs under.
func (tx *Tx) Context() context.Context { return tx.ctx }

// Exec runs a statement and tells how many rows it touched.
func (tx *Tx) Exec(query string, args ...any) (int64, error) {
	res, err := tx.tx.ExecContext(tx.ctx, tx.text(query), args...)
	if err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	return n, nil
}

// Query runs a statement that gives rows; the caller closes them.
func (tx *Tx) Query(query string, args ...any) (*sql.Rows, error) {
	rows, err := tx.tx.QueryContext(tx.ctx, tx.text(query), args...)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return rows, nil
}

// QueryRow runs a statement that gives one row; Scan gives sql.ErrNoRows
// where there is none.
func (tx *Tx) QueryRow(query string, args ...any) *sql.Row {
	return tx.tx.QueryRowContext(tx.ctx, tx.text(query), args...)
}

// Changed marks the transaction as one that followers must hear of: the
// change sequence rises when it commits.
func (tx *Tx) Changed() { tx.changed = true }

// AfterCommit has f called once the transaction is known to be committed,
// before Write returns; it is not called after a rollback, nor where the
// outcome of the commit is unknown.
func (tx *Tx) AfterCommit(f func()) { tx.after = append(tx.after, f) }

var placeholder = regexp.MustCompile(`\$(\d+)`)

// text turns $1 into ?1 for SQLite, which would take $1 for a name.
func (tx *Tx) text(query string) string {
	if tx.engine == engineSQLite {
		return placeholder.ReplaceAllString(query, "?$1")
	}
	return query
}

// Micros is how times are stored: microseconds since 1970 UTC; 0 is the zero
// time.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Time is the inverse of Micros, in UTC.
func Time(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}
