package store

import (
	"errors"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// pgDiskFull is PostgreSQL's SQLSTATE disk_full (its manual, appendix A).
const pgDiskFull = "53100"

// pgBadText is character_not_in_repertoire: in UTF-8, a NUL.
const pgBadText = "22021"

// IsFull tells whether err says that the engine's disk has no room left.
func IsFull(err error) bool {
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		// The low byte is the primary code (sqlite.org/rescode.html). WAL
		// growth on a full disk comes as an I/O error of a write or a resize.
		switch lite.Code() {
		case sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_TRUNCATE:
			return true
		}
		return lite.Code()&0xff == sqlite3.SQLITE_FULL
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == pgDiskFull
	}
	return errors.Is(err, syscall.ENOSPC)
}

// IsBadText tells whether err says that a value is no text to the engine.
// PostgreSQL has none with a NUL; SQLite takes them.
func IsBadText(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == pgBadText
}
