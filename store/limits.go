package store

import "time"

const (
	// listenProbe is how long the connection that hears of changes may say
	// nothing before it is asked whether it still lives: one whose other end
	// vanished (a firewall that forgot it, a host that lost its power) is
	// silent for ever, and so would be every revocation.
	listenProbe = 5 * time.Second
	// listenAnswer is what it, and a new one, has to answer.
	listenAnswer = 5 * time.Second
)

// sessionParameters of PostgreSQL, in seconds, where the URL does not set them.
// A replica that is frozen or cut off in mid-transaction holds the writers'
// lock, and nobody writes: the server ends such a transaction after 15 s, and
// gives up a peer that is silent after 10 + 3 × 5 s.
var sessionParameters = map[string]string{
	"idle_in_transaction_session_timeout": "15s",
	"tcp_keepalives_idle":                 "10",
	"tcp_keepalives_interval":             "5",
	"tcp_keepalives_count":                "3",
}

// maxPlaces is how many values one statement may have: SQLite takes 32,766,
// PostgreSQL 65,535. maxRows: more rows in one are not faster.
const (
	maxPlaces = 32_000
	maxRows   = 200
)

// writerCacheKiB of pages in memory, of the one writing connection to SQLite.
// With its own two MiB, thousands of rows that come at once are written to
// indexes of which each page is read and written again for nearly every row.
const writerCacheKiB = 64 << 10
