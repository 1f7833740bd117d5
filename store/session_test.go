package store_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"devicetrust/store"
	"devicetrust/store/storetest"
)

// show reads a parameter of the session on PostgreSQL.
func show(tx *store.Tx, name string) (value string, err error) {
	err = tx.QueryRow(`SELECT current_setting($1)`, name).Scan(&value)
	return value, err
}

func TestAReplicaThatIsFrozenDoesNotKeepOthersFromWriting(t *testing.T) {
	t.Parallel()
	address := storetest.PostgresURL(t)
	frozen, other := storetest.OpenAt(t, address), storetest.OpenAt(t, address)
	holds, thaw := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := frozen.Write(context.Background(), func(tx *store.Tx) error {
			tx.Changed()
			close(holds)
			<-thaw
			return nil
		})
		if err == nil {
			t.Error("what was frozen past its time was written after all")
		}
	})
	<-holds
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := other.Write(ctx, change)
	close(thaw)
	wg.Wait()
	if err != nil {
		t.Errorf("a minute later nobody else writes: %v", err)
	}
}

func TestSessionsAreBoundedUnlessTheURLSaysOtherwise(t *testing.T) {
	address := storetest.PostgresURL(t)
	for parameter, want := range map[string]string{"": "15s", "&idle_in_transaction_session_timeout=7s": "7s"} {
		db := storetest.OpenAt(t, address+parameter)
		err := db.Read(t.Context(), func(tx *store.Tx) error {
			got, err := show(tx, "idle_in_transaction_session_timeout")
			if got != want {
				t.Errorf("with %q: %s, want %s", parameter, got, want)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// A server may have another default, under which what is read after the wait
// for the writers' lock would be what there was before it.
func TestWhatAWriterReadsIsWhatTheOneBeforeItWrote(t *testing.T) {
	storetest.RunAt(t, func(t *testing.T, address string) {
		setUp := storetest.OpenAt(t, address)
		err := setUp.Write(t.Context(), func(tx *store.Tx) error {
			var name string
			if err := tx.QueryRow(`SELECT current_database()`).Scan(&name); err != nil {
				return nil //nolint:nilerr // SQLite, which has no such thing
			}
			_, err := tx.Exec(`ALTER DATABASE ` + name + ` SET default_transaction_isolation = 'repeatable read'`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		a, b := storetest.OpenAt(t, address), storetest.OpenAt(t, address)
		const each = 20
		var wg sync.WaitGroup
		for _, db := range []*store.DB{a, b} {
			for range each {
				wg.Go(func() {
					if err := db.Write(t.Context(), change); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		if got := sequence(t, a); got != 2*each {
			t.Errorf("%d changes were counted, want %d", got, 2*each)
		}
	})
}
