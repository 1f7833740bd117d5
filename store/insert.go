package store

import (
	"strconv"
	"strings"
)

// InsertAll inserts rows, each with as many values as the first, in few
// statements. into is a table and its columns: `t (a, b)`; then, where not
// empty, what follows the values: `ON CONFLICT …`.
func (tx *Tx) InsertAll(into string, rows [][]any, then string) error {
	for len(rows) > 0 {
		n := min(len(rows), maxPlaces/len(rows[0]), maxRows)
		args := make([]any, 0, n*len(rows[0]))
		for _, row := range rows[:n] {
			args = append(args, row...)
		}
		if _, err := tx.Exec(tx.insertText(into, n, len(rows[0]), then), args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

func (tx *Tx) insertText(into string, rows, columns int, then string) string {
	b := []byte("INSERT INTO " + into + " VALUES ")
	for place := range rows * columns {
		switch {
		case place == 0:
			b = append(b, '(')
		case place%columns == 0:
			b = append(b, "),("...)
		default:
			b = append(b, ',')
		}
		// What both engines count as the next one, without a search for $.
		if tx.engine == engineSQLite {
			b = append(b, '?')
		} else {
			b = strconv.AppendInt(append(b, '$'), int64(place+1), 10)
		}
	}
	return strings.TrimSpace(string(append(b, ") "+then...)))
}
