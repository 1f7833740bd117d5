package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema up to date; a schema newer than this program is
// refused, for it may mean what this program does not know.
func (db *DB) migrate(ctx context.Context) error {
	p, err := db.migrator()
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	sources := p.ListSources()
	if known := sources[len(sources)-1].Version; have > known {
		return fmt.Errorf("store: the database has schema %d and this program knows %d: run a newer dtauthd", have, known)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("store: migrate: %w", err)
	}
	return nil
}

func (db *DB) migrator() (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if db.engine == engineSQLite {
		return goose.NewProvider(goose.DialectSQLite3, db.writer, sqliteFiles{files})
	}
	// Several dtauthd may start at once.
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectPostgres, db.writer, files, goose.WithSessionLocker(locker))
}

// postgresOnly ends a line of a migration that SQLite does not need and would
// not understand.
const postgresOnly = "-- PostgreSQL only"

// sqliteFiles are the migrations without those lines.
type sqliteFiles struct{ fs.FS }

func (s sqliteFiles) Open(name string) (fs.File, error) {
	f, err := s.FS.Open(name)
	if err != nil || path.Ext(name) != ".sql" {
		return f, err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	var kept strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(strings.TrimSpace(line), postgresOnly) {
			kept.WriteString(line)
		}
	}
	return sqliteFile{f, strings.NewReader(kept.String())}, nil
}

type sqliteFile struct {
	fs.File
	text *strings.Reader
}

func (f sqliteFile) Read(p []byte) (int, error) { return f.text.Read(p) }
