package store_test

import (
	"testing"

	"devicetrust/store"
	"devicetrust/store/storetest"
)

func TestMoreRowsThanAStatementHoldsAreInserted(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		const n = 30_001 // with more values than either engine takes in one
		rows := make([][]any, n)
		for i := range rows {
			rows[i] = []any{int64(i), "a", int64(2 * i)}
		}
		var count, sum int64
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.Exec(`CREATE TABLE t (id BIGINT PRIMARY KEY, word TEXT, n BIGINT)`); err != nil {
				return err
			}
			for _, rows := range [][][]any{rows, nil, {{int64(0), "b", int64(5)}}} {
				if err := tx.InsertAll(`t (id, word, n)`, rows, `ON CONFLICT (id) DO UPDATE SET n = excluded.n`); err != nil {
					return err
				}
			}
			return tx.QueryRow(`SELECT count(*), sum(n) FROM t WHERE word = 'a'`).Scan(&count, &sum)
		})
		if err != nil || count != n || sum != n*(n-1)+5 {
			t.Errorf("%d rows with %d together: %v", count, sum, err)
		}
	})
}
