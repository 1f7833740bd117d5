package client

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Renewals renew the logins of a home in good time, for as long as their
// clusters let them. One goroutine uses them.
type Renewals struct {
	now    func() time.Time
	log    *slog.Logger
	logins func() ([]renewable, error)
	renew  func(context.Context, renewable) error

	// seen are the logins by proxy.
	seen map[string]*renewal
}

// renewable is a login as far as its renewal goes.
type renewable struct {
	proxy string
	// serial is another one after each login and renewal.
	serial uint64
	// from and until are the certificates' life, most is where renewals end:
	// zero where there are none.
	from, until, most time.Time
}

// renewal is what has been tried for a login.
type renewal struct {
	serial uint64
	// jitter, from 0 to 1, puts the renewal off a little, so that the machines
	// of people who log in at nine do not renew together.
	jitter float64
	// after is when the next attempt may be made; failures since the last
	// success put it off.
	after    time.Time
	failures int
}

// NewRenewals are of the logins in h, with the device m.
func NewRenewals(h *Home, m *Machine, o Options) *Renewals {
	return &Renewals{
		now: o.Now, log: o.log(), seen: map[string]*renewal{},
		logins: h.renewable,
		renew: func(ctx context.Context, l renewable) error {
			p, err := h.Profile(l.proxy)
			if err == nil {
				_, err = p.Renew(ctx, m, o)
			}
			return err
		},
	}
}

// renewable are the logins that can be renewed at all, now or later.
func (h *Home) renewable() ([]renewable, error) {
	logins, err := h.Logins()
	var all []renewable
	for _, p := range logins {
		// What cannot be read is told by whoever uses it.
		if c, err := p.Credentials(); err == nil && c.Identity.Device.Trusted() {
			all = append(all, renewable{p.Proxy, c.Identity.Serial, c.Identity.ValidAfter, c.ValidUntil(), p.RenewableUntil})
		}
	}
	return all, err
}

// Step renews those that are due, one after the other. It is called again after
// some seconds, and reads the clock each time: a laptop may have slept.
func (r *Renewals) Step(ctx context.Context) {
	logins, err := r.logins()
	if err != nil {
		r.log.Warn("cannot read the logins", "err", err)
		return
	}
	still := map[string]*renewal{}
	for _, l := range logins {
		s := r.seen[l.proxy]
		if s == nil || s.serial != l.serial {
			s = &renewal{serial: l.serial, jitter: rand.Float64(), after: r.since(s)}
		}
		still[l.proxy] = s
	}
	r.seen = still
	for _, l := range logins {
		if s := r.seen[l.proxy]; ctx.Err() == nil && l.due(r.now(), s.jitter) && !r.now().Before(s.after) {
			r.attempt(ctx, l, s)
		}
	}
}

// since is when a login that is new may be renewed first. One that takes the
// place of another has just been renewed: whatever the server says of its life,
// the next attempt is not at once.
func (r *Renewals) since(before *renewal) time.Time {
	if before == nil {
		return time.Time{}
	}
	return r.now().Add(renewalPause)
}

func (r *Renewals) attempt(ctx context.Context, l renewable, s *renewal) {
	if err := r.renew(ctx, l); err != nil {
		s.failures++
		pause := renewalPause << min(s.failures-1, 10)
		pause = min(pause, maxRenewalPause)
		s.after = r.now().Add(pause/2 + time.Duration(rand.Float64()*float64(pause/2)))
		if ctx.Err() == nil {
			r.log.Warn("cannot renew a login", "proxy", l.proxy, "expires", l.until, "again", s.after, "err", err)
		}
		return
	}
	s.failures, s.after = 0, r.now().Add(renewalPause)
	r.log.Info("renewed a login", "proxy", l.proxy)
}

// due tells whether a login is to be renewed now: in the last sixth of its life,
// and no less than renewalLead before its end where it lasts long enough. One
// that has expired cannot be renewed, and one that ends with the session's
// maximum need not.
func (l renewable) due(now time.Time, jitter float64) bool {
	if !now.Before(l.until) || !l.until.Before(l.most) {
		return false
	}
	life := l.until.Sub(l.from)
	lead := min(max(life/6, renewalLead), life/2)
	lead -= time.Duration(jitter * float64(lead) / 4)
	return !now.Before(l.until.Add(-lead))
}
