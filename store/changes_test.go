package store_test

import (
	"context"
	"testing"
	"time"

	"devicetrust/store"
	"devicetrust/store/storetest"
)

// patience is for what an idle machine does at once.
const patience = time.Minute

func change(tx *store.Tx) error { tx.Changed(); return nil }

func woken(t *testing.T, ch <-chan struct{}) bool {
	t.Helper()
	select {
	case <-ch:
		return true
	case <-time.After(patience):
		return false
	}
}

func sequence(t *testing.T, db *store.DB) (seq uint64) {
	t.Helper()
	err := db.Read(t.Context(), func(tx *store.Tx) (err error) {
		seq, err = tx.Sequence()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func TestFollowersAreWokenByAChangeAndSeeIt(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		one, two := db.Follow(t.Context()), db.Follow(t.Context())
		if got := sequence(t, db); got != 0 {
			t.Errorf("sequence %d in a fresh store", got)
		}
		if err := db.Write(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		if !woken(t, one) || !woken(t, two) {
			t.Fatal("a follower sleeps on")
		}
		if got := sequence(t, db); got != 1 {
			t.Errorf("sequence %d, want 1", got)
		}
	})
}

func TestOtherReplicasAreWokenToo(t *testing.T) {
	address := storetest.PostgresURL(t)
	here, there := storetest.OpenAt(t, address), storetest.OpenAt(t, address)
	ch := there.Follow(t.Context())
	if err := here.Write(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	for sequence(t, there) == 0 || !woken(t, ch) {
		t.Fatal("the replica has not heard of it")
	}
}

func TestOnlyCommittedChangesCount(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return set(tx, "not for nodes") }); err != nil {
			t.Fatal(err)
		}
		_ = db.Write(t.Context(), func(tx *store.Tx) error { tx.Changed(); return context.Canceled })
		if got := sequence(t, db); got != 0 {
			t.Errorf("sequence %d, want 0", got)
		}
	})
}

func TestAFollowerThatLeftIsForgotten(t *testing.T) {
	db := storetest.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	ch := db.Follow(ctx)
	cancel()
	still := db.Follow(t.Context())
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) { // it is removed soon, not at once
		if err := db.Write(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		if !woken(t, still) {
			t.Fatal("the other follower sleeps on")
		}
		select {
		case <-ch:
		default:
			return
		}
	}
	t.Errorf("woken for %v after it left", patience)
}

// A listener whose connection broke has missed changes; it must be woken when
// it is back.
func TestALostListenerCatchesUp(t *testing.T) {
	address := storetest.PostgresURL(t)
	db, other := storetest.OpenAt(t, address), storetest.OpenAt(t, address)
	ch := db.Follow(t.Context())
	if err := other.Write(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	if !woken(t, ch) {
		t.Fatal("it does not listen")
	}
	err := other.Write(t.Context(), func(tx *store.Tx) error {
		tx.Changed()
		n, err := tx.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE query = 'LISTEN dt_changes' AND datname = current_database()`)
		if n == 0 {
			t.Error("no listener was there to disturb")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !woken(t, ch) {
		t.Fatal("it sleeps on")
	}
	if err := other.Write(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	if !woken(t, ch) {
		t.Fatal("it does not listen again")
	}
}
