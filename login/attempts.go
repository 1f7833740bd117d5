package login

import (
	"database/sql"
	"errors"
	"net/netip"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/store"
)

// attempt is one guess, counted before it is looked at, so that guesses made
// at the same time cannot slip through together.
//
// Failures are counted for the account as tried from this address, and for
// the address; never for the account alone, or a stranger elsewhere could
// lock its owner out. A person who lately logged in from the address is not
// subject to the address's own count, which a neighbour may have run up.
type attempt struct {
	buckets []bucket // those counted
	known   string   // bucket that marks the place as the account's own
}

type bucket struct {
	name string
	rate rate
}

// newAttempt names the buckets; user is empty where no account is named, or
// none that could exist.
func newAttempt(user string, addr netip.Addr) attempt {
	from := place(addr)
	a := attempt{buckets: []bucket{{"addr:" + from, addrRate}}}
	if user != "" {
		a.known = "known:" + from + "|" + user
		a.buckets = append(a.buckets, bucket{"pair:" + from + "|" + user, pairRate})
	}
	return a
}

// place is the address; of IPv6 the /64, in which a host chooses freely
// (RFC 4291 section 2.5.1).
func place(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.String()
		}
	}
	return addr.String()
}

// tally is a row of attempts. updated is the time of the last counted
// attempt, or next once a refusal in between was recorded.
type tally struct {
	failures      int64
	next, updated time.Time
}

func readTally(tx *store.Tx, name string) (t tally, found bool, err error) {
	var next, updated int64
	err = tx.QueryRow(`SELECT failures, next_at, updated_at FROM attempts WHERE bucket = $1`, name).
		Scan(&t.failures, &next, &updated)
	if errors.Is(err, sql.ErrNoRows) {
		return tally{}, false, nil
	}
	t.next, t.updated = store.Time(next), store.Time(updated)
	return t, err == nil, err
}

func (t tally) write(tx *store.Tx, name string) error {
	_, err := tx.Exec(`INSERT INTO attempts (bucket, failures, next_at, updated_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (bucket) DO UPDATE SET
			failures = excluded.failures, next_at = excluded.next_at, updated_at = excluded.updated_at`,
		name, t.failures, store.Micros(t.next), store.Micros(t.updated))
	return err
}

// count counts a, or returns how long to wait. first is true where no
// refusal was recorded since the last counted attempt: the caller records
// this one. So a stranger who keeps trying fills the log no faster than the
// limits allow.
func (a *attempt) count(tx *store.Tx, now time.Time) (wait time.Duration, first bool, err error) {
	if err := a.skipAddress(tx, now); err != nil {
		return 0, false, err
	}
	tallies := make([]tally, len(a.buckets))
	for i, b := range a.buckets {
		t, _, err := readTally(tx, b.name)
		if err != nil {
			return 0, false, err
		}
		if w := t.wait(now, b.rate); w > 0 {
			wait = max(wait, w)
			if t.updated.Before(t.next) {
				first, t.updated = true, t.next
				if err := t.write(tx, b.name); err != nil {
					return 0, false, err
				}
			}
		}
		tallies[i] = t
	}
	if wait > 0 {
		return wait, first, nil
	}
	for i, b := range a.buckets {
		t := tallies[i]
		if now.Sub(t.updated) > idle {
			t.failures = 0
		}
		t.failures++
		t.next, t.updated = time.Time{}, now
		if d := b.rate.delay(t.failures); d > 0 {
			t.next = now.Add(d)
		}
		if err := t.write(tx, b.name); err != nil {
			return 0, false, err
		}
	}
	return 0, false, nil
}

// wait is how long a bucket keeps everybody out. It is never longer than the
// rate's cap: a row from a time when the clock was wrong keeps nobody out.
func (t tally) wait(now time.Time, r rate) time.Duration {
	if w := t.next.Sub(now); w > 0 && w <= r.cap {
		return w
	}
	return 0
}

// skipAddress drops the address's bucket where the account is known there.
func (a *attempt) skipAddress(tx *store.Tx, now time.Time) error {
	if a.known == "" {
		return nil
	}
	t, found, err := readTally(tx, a.known)
	if err == nil && found && now.Sub(t.updated) <= knownLife {
		a.buckets = a.buckets[1:]
	}
	return err
}

// takeBack undoes count for a guess that turned out right, or was never made.
// Failures of others stay: a right password buys no more wrong ones.
func (a attempt) takeBack(tx *store.Tx) error {
	for _, b := range a.buckets {
		t, found, err := readTally(tx, b.name)
		if err != nil {
			return err
		}
		if !found || t.failures == 0 {
			continue
		}
		t.failures--
		if b.rate.delay(t.failures) == 0 {
			t.next = time.Time{}
		}
		if err := t.write(tx, b.name); err != nil {
			return err
		}
	}
	return nil
}

// succeeded takes the guess back, forgives the account's own failures here
// and remembers the place.
func (a attempt) succeeded(tx *store.Tx, now time.Time) error {
	if err := a.takeBack(tx); err != nil {
		return err
	}
	if a.known == "" {
		return nil
	}
	pair := a.buckets[len(a.buckets)-1]
	if _, err := tx.Exec(`DELETE FROM attempts WHERE bucket = $1`, pair.name); err != nil {
		return err
	}
	return tally{updated: now}.write(tx, a.known)
}

// tooMany is what the person is told, whoever they claimed to be.
func tooMany(wait time.Duration) *api.Refusal {
	wait = (wait + time.Second - 1).Truncate(time.Second)
	return api.Refuse(connect.CodeResourceExhausted, "too many failed attempts").
		WithHint("Try again in %s", wait)
}
