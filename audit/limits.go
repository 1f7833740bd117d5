package audit

import "time"

const (
	// maxRecord bounds the JSON of one record. A hostile node or a stranger
	// at the login decides what stands in some fields; at one record per act
	// this is what one act may cost. fit cuts until a record is below it.
	maxRecord = 128 << 10

	// maxProof bounds the proof of a key, in bytes: package devices takes three
	// structures of up to 2 KiB.
	maxProof = 6 << 10

	// maxUID is that of a node's event; a UUID has 36 bytes.
	maxUID = 64

	// maxPage and maxPageSize (bytes of JSON) bound what List returns at once:
	// one record more than maxPageSize still fits a message of the API.
	maxPage     = 1000
	maxPageSize = 8 << 20

	// aloneTimeout bounds RecordAlone, which does not end with its caller's
	// context. It is the time that the store waits for SQLite's lock.
	aloneTimeout = 10 * time.Second
)

// bounds says how much of an event is kept, in bytes of UTF-8 and in elements.
type bounds struct {
	long  int // message, command and paths
	short int // all other strings: names have at most 128 bytes (identity.CheckUser), addresses fewer
	item  int // each element of roles and reasons
	items int // elements of roles, reasons and serials
}

// cuts are tried in turn until the record fits. JSON writes a byte as up to
// six (\u0001), so the last has at most 6 × (5 × 1 KiB + 27 × 256 B +
// 2 × 17 × 160 B) and 8 KiB of base64, ≈ 110 KiB, and always fits; names are never cut below what
// tells who acted.
var cuts = []bounds{
	{long: 16 << 10, short: 256, item: 512, items: 64},
	{long: 1 << 10, short: 256, item: 128, items: 16},
}
