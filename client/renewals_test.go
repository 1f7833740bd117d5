package client

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"
)

// renewing is a login at a server that renews it for an hour each time, to the
// end of the session.
type renewing struct {
	now      time.Time
	login    renewable
	err      error
	attempts []time.Time
}

func (r *renewing) renewals() *Renewals {
	return &Renewals{
		now: func() time.Time { return r.now }, log: slog.New(slog.DiscardHandler), seen: map[string]*renewal{},
		logins: func() ([]renewable, error) { return []renewable{r.login}, nil },
		renew: func(context.Context, renewable) error {
			r.attempts = append(r.attempts, r.now)
			if r.err == nil {
				r.login.serial++
				r.login.from, r.login.until = r.now, r.now.Add(time.Hour)
				if r.login.until.After(r.login.most) {
					r.login.until = r.login.most
				}
			}
			return r.err
		},
	}
}

func newRenewing(most time.Duration) *renewing {
	start := time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	return &renewing{now: start, login: renewable{"dt.example.com:3080", 1, start, start.Add(time.Hour), start.Add(most)}}
}

// lives lets the time go on, with a step every ten seconds.
func (r *renewing) lives(all *Renewals, d time.Duration) {
	for end := r.now.Add(d); r.now.Before(end); r.now = r.now.Add(10 * time.Second) {
		all.Step(context.Background())
	}
}

func TestALoginIsRenewedBeforeItEndsUntilItsMaximum(t *testing.T) {
	r := newRenewing(10 * time.Hour)
	start := r.now
	all := r.renewals()
	for range 24 * 60 {
		if r.now.Before(r.login.most) && !r.now.Before(r.login.until) {
			t.Fatalf("it ended at %v", r.now)
		}
		r.lives(all, time.Minute)
	}
	// An hour each, less a sixth.
	if n := len(r.attempts); n < 9 || n > 13 {
		t.Errorf("%d renewals: %v", n, r.attempts)
	}
	if first := r.attempts[0].Sub(start); first < 50*time.Minute || first > 53*time.Minute {
		t.Errorf("the first after %v", first)
	}
	if !r.login.until.Equal(start.Add(10 * time.Hour)) {
		t.Errorf("it ends at %v", r.login.until)
	}
}

func TestARenewalThatFailsIsTriedAgainMoreAndMoreSeldom(t *testing.T) {
	r := newRenewing(10 * time.Hour)
	r.err = errors.New("the server is down")
	all := r.renewals()
	r.lives(all, 3*time.Hour)
	// In ten minutes: after 15 s, 30 s, 1 m, 2 m, 4 m at most, and half at least.
	if n := len(r.attempts); n < 5 || n > 12 {
		t.Errorf("%d attempts: %v", n, r.attempts)
	}
	if last := r.attempts[len(r.attempts)-1]; !last.Before(r.login.until) {
		t.Error("tried after the end")
	}
}

func TestAServerThatRenewsForNothingIsNotAskedAllTheTime(t *testing.T) {
	r := newRenewing(10 * time.Hour)
	all := r.renewals()
	renew := all.renew
	all.renew = func(ctx context.Context, l renewable) error {
		err := renew(ctx, l)
		r.login.from, r.login.until = r.now.Add(-time.Hour), r.now.Add(time.Minute)
		return err
	}
	r.lives(all, 90*time.Minute)
	for i := 1; i < len(r.attempts); i++ {
		if d := r.attempts[i].Sub(r.attempts[i-1]); d < renewalPause {
			t.Fatalf("asked again after %v", d)
		}
	}
	if len(r.attempts) < 10 {
		t.Errorf("%d attempts", len(r.attempts))
	}
}

func TestWhatCannotBeRenewedIsLeft(t *testing.T) {
	for name, change := range map[string]func(*renewing){
		"never":               func(r *renewing) { r.login.most = time.Time{} },
		"it ends with all":    func(r *renewing) { r.login.most = r.login.until },
		"asleep until it end": func(r *renewing) { r.now = r.now.Add(61 * time.Minute) },
	} {
		r := newRenewing(10 * time.Hour)
		change(r)
		r.lives(r.renewals(), 2*time.Hour)
		if len(r.attempts) != 0 {
			t.Errorf("%s: %v", name, r.attempts)
		}
	}
	// Asleep until shortly before.
	r := newRenewing(10 * time.Hour)
	all := r.renewals()
	r.lives(all, time.Minute)
	r.now = r.now.Add(58 * time.Minute)
	all.Step(context.Background())
	if len(r.attempts) != 1 {
		t.Errorf("after a sleep: %v", r.attempts)
	}
	// Short lives are renewed as well.
	r = newRenewing(10 * time.Hour)
	r.login.until = r.login.from.Add(time.Minute)
	r.lives(r.renewals(), time.Minute)
	if len(r.attempts) != 1 {
		t.Errorf("of a minute: %v", r.attempts)
	}
}
