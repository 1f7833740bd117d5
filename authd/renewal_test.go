package authd

import (
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/store"
)

// lasting is a role whose sessions last for at most ttl.
func lasting(ttl string) string {
	return `{kind: role, version: v7, metadata: {name: lasting}, spec: {options: {max_session_ttl: ` + ttl + `}, allow: {node_labels: {'*': '*'}}}}`
}

func (r *running) put(kind, document string) {
	r.t.Helper()
	_, err := r.resources().UpdateResource(r.t.Context(), connect.NewRequest(&dtv1.UpdateResourceRequest{Kind: kind, Resource: []byte(document)}))
	if err != nil {
		r.t.Fatal(err)
	}
}

func validUntil(k *keys) time.Time { return time.Unix(int64(k.sshCert.ValidBefore), 0) }

// at is l, talking to another replica.
func (l *laptop) at(r *running) *laptop {
	other := *l
	other.r = r
	return &other
}

func near(a, b time.Time) bool { return a.Sub(b).Abs() < patience }

// A login of 12 hours in a session of 30 lives for 30, however often it is
// renewed.
func TestRenewingGoesOnUntilTheSessionsMaximumAndNotBeyond(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		c := &clock{}
		r := startWith(t, dataDir(t), "", c.now)
		renewToTheEnd(t, [2]*running{r, r}, c)
	})
	t.Run("postgres", func(t *testing.T) {
		c := &clock{}
		renewToTheEnd(t, replicasWith(t, c.now), c)
	})
}

func renewToTheEnd(t *testing.T, r [2]*running, c *clock) {
	t.Helper()
	r[0].create("role", lasting("30h"))
	r[0].addUser("alice", "access", "lasting")
	l := r[0].newLaptop("TAG12345")
	l.enroll(r[0].login("alice"))
	began := c.now()
	a := l.mustProve(r[0].loginFor("alice", 10*time.Hour))
	most := a.success.GetRenewableUntil().AsTime()
	if !near(most, began.Add(30*time.Hour)) || !near(validUntil(a.keys), began.Add(10*time.Hour)) {
		t.Fatalf("it ends at %v and can be renewed until %v, began at %v", validUntil(a.keys), most, began)
	}
	for i, after := range []time.Duration{9, 18, 27, 27, 29} {
		c.forward(began.Add(after * time.Hour).Sub(c.now()))
		a = l.at(r[i%2]).mustProve(a.keys, a.again, renewal)
		want := earlier(began.Add((after+10)*time.Hour), most)
		if got := validUntil(a.keys); !near(got, want) || got.After(most) {
			t.Errorf("renewed after %d h it ends at %v, want %v", after, got, want)
		}
		if got := a.success.GetRenewableUntil().AsTime(); !got.Equal(most) {
			t.Errorf("after %d h it can be renewed until %v, and before until %v", after, got, most)
		}
		if err := r[(i+1)%2].mayCallWith(a.keys); err != nil {
			t.Errorf("after %d h the other replica says %v", after, err)
		}
	}
	renewed := 0
	for _, e := range r[1].recorded(event.CertCreate) {
		if e.Action == "renew" && e.LoginID != "" && e.Key.Policy == "hardware_key" {
			renewed++
		}
	}
	if renewed != 5 {
		t.Errorf("%d renewals are recorded", renewed)
	}
	c.forward(most.Sub(c.now()) + time.Second)
	for _, r := range r {
		if got, err := l.at(r).prove(a.keys, a.again, renewal); err == nil {
			t.Errorf("beyond the maximum it was renewed until %v", validUntil(got.keys))
		}
	}
}

func TestWithoutRenewNothingIsLengthened(t *testing.T) {
	c := &clock{}
	r := startWith(t, dataDir(t), "", c.now)
	r.addUser("alice", "access")
	k, l := r.loginFor("alice", time.Hour), r.newLaptop("TAG12345")
	l.enroll(k)
	a := l.mustProve(k)
	c.forward(30 * time.Minute)
	for range 2 {
		a = l.mustProve(a.keys, a.again)
		if got, want := a.sshCert.ValidBefore, k.sshCert.ValidBefore; got != want {
			t.Errorf("it lives until %d, and the login until %d", got, want)
		}
	}
	c.forward(31 * time.Minute)
	if _, err := l.prove(a.keys, a.again, renewal); err == nil {
		t.Error("a login that had ended was renewed")
	}
}

func TestALoginThatDidNotSayIsRenewedForAWorkingDay(t *testing.T) {
	c := &clock{}
	r := startWith(t, dataDir(t), "", c.now)
	r.create("role", lasting("100h"))
	r.addUser("alice", "lasting")
	k, l := r.login("alice"), r.newLaptop("TAG12345")
	l.enroll(k)
	a := l.mustProve(k)
	c.forward(time.Hour)
	a = l.mustProve(a.keys, a.again, renewal)
	if want := c.now().Add(defaultCertTTL); !near(validUntil(a.keys), want) {
		t.Errorf("it ends at %v, want %v", validUntil(a.keys), want)
	}
}

func TestEachRenewalIsDecidedAnew(t *testing.T) {
	for name, test := range map[string]struct {
		change func(r *running)
		want   connect.Code
	}{
		"the user was removed":          {func(r *running) { r.remove("user", "alice") }, connect.CodeUnauthenticated},
		"the user was locked":           {func(r *running) { r.create("lock", lockOf("user: alice")) }, connect.CodePermissionDenied},
		"the device was locked":         {func(r *running) { r.create("lock", lockOf("device: TAG12345")) }, connect.CodePermissionDenied},
		"the device was removed":        {func(r *running) { r.remove("device", "TAG12345") }, connect.CodeUnauthenticated},
		"device trust was turned off":   {func(r *running) { r.prefer("{mode: off}") }, connect.CodeFailedPrecondition},
		"the role requires other keys":  {func(r *running) { r.put("role", lastingAttested) }, connect.CodePermissionDenied},
		"the session was to be shorter": {func(r *running) { r.put("role", lasting("1h")) }, connect.CodeUnauthenticated},
		"the login was logged out":      {func(r *running) { r.execute(`DELETE FROM logins`) }, connect.CodeUnauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			c := &clock{}
			r := startWith(t, dataDir(t), "", c.now)
			r.create("role", lasting("12h"))
			r.addUser("alice", "lasting")
			k, l := r.login("alice"), r.newLaptop("TAG12345")
			l.enroll(k)
			a := l.mustProve(k, software)
			c.forward(2 * time.Hour)
			test.change(r)
			_, err := l.prove(a.keys, software, renewal)
			wantRefused(t, err, test.want)
		})
	}
}

func lockOf(target string) string {
	return `{kind: lock, version: v2, metadata: {name: l1}, spec: {target: {` + target + `}}}`
}

const lastingAttested = `{kind: role, version: v7, metadata: {name: lasting}, spec: {options: {require_attested_key: true}, allow: {node_labels: {'*': '*'}}}}`

// The certificate that was issued for longer stands, and the login with it: who
// ends the login must find it.
func TestARenewalAfterAShorterMaximumGivesLessAndEndsNothing(t *testing.T) {
	c := &clock{}
	r := startWith(t, dataDir(t), "", c.now)
	r.create("role", lasting("12h"))
	r.addUser("alice", "lasting")
	began := c.now()
	k, l := r.login("alice"), r.newLaptop("TAG12345")
	l.enroll(k)
	a := l.mustProve(k)
	c.forward(time.Hour)
	r.put("role", lasting("2h"))
	shorter := l.mustProve(a.keys, a.again, renewal)
	if got, want := validUntil(shorter.keys), began.Add(2*time.Hour); !near(got, want) {
		t.Errorf("it ends at %v, want %v", got, want)
	}
	c.forward(2 * time.Hour)
	_, err := l.prove(a.keys, a.again, renewal)
	wantRefused(t, err, connect.CodeUnauthenticated)
	_, err = l.prove(a.keys, a.again)
	wantRefused(t, err, connect.CodeUnauthenticated)
	r.logout(a.keys)
	if got := r.onKRL(k, a.keys); !slices.Equal(got, []bool{true, true}) {
		t.Errorf("on the list: %v", got)
	}
}

// Replicas' clocks differ by seconds.
func TestALoginThatBeginsInTheFutureIsNotLongerForThat(t *testing.T) {
	d := newDesk(t)
	const life = 30 * time.Hour // of the preset role access
	for _, began := range []time.Duration{0, -time.Hour, time.Hour} {
		var g granted
		d.read(func(tx *store.Tx) (err error) {
			g, err = d.grant(tx, issuing{user: "alice", began: d.at.Add(began), until: d.at.Add(1000 * time.Hour)}, d.at)
			return err
		})
		want := d.at.Add(min(began, 0) + life)
		if !g.identity.ValidBefore.Equal(want) || !g.most.Equal(want) {
			t.Errorf("begun in %v: until %v and at most %v, want %v", began, g.identity.ValidBefore, g.most, want)
		}
	}
}

// What a change meanwhile takes away must show, also where it is time.
func TestAMaximumThatIsLoweredMeanwhileIsNotPassed(t *testing.T) {
	r := start(t)
	r.create("role", lasting("12h"))
	r.addUser("alice", "lasting")
	k, l := r.login("alice"), r.newLaptop("TAG12345")
	l.enroll(k)
	r.execute(`CREATE TRIGGER meanwhile AFTER UPDATE OF device_id ON logins BEGIN
		UPDATE policy_objects SET document = replace(document, '12h', '1h') WHERE name = 'lasting'; END`)
	_, err := l.prove(k, renewal)
	wantRefused(t, err, connect.CodeAborted)
}

func TestAllCertificatesOfARenewedLoginEndWithIt(t *testing.T) {
	for name, test := range map[string]struct {
		end func(r *running, k *keys)
		// first: of the pair without a device, too.
		first bool
	}{
		"logout":         {func(r *running, k *keys) { r.logout(k) }, true},
		"user removed":   {func(r *running, k *keys) { r.remove("user", "alice") }, true},
		"device removed": {func(r *running, k *keys) { r.remove("device", "TAG12345") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := &clock{}
			r := startWith(t, dataDir(t), "", c.now)
			r.addUser("alice", "access")
			k, l := r.login("alice"), r.newLaptop("TAG12345")
			l.enroll(k)
			a := l.mustProve(k)
			all := []*keys{k, a.keys}
			for range 2 {
				c.forward(time.Minute)
				a = l.mustProve(a.keys, a.again, renewal)
				all = append(all, a.keys)
			}
			if got := r.onKRL(all...); slices.Contains(got, true) {
				t.Fatalf("on the list already: %v", got)
			}
			test.end(r, a.keys)
			if got, want := r.onKRL(all...), []bool{test.first, true, true, true}; !slices.Equal(got, want) {
				t.Errorf("on the list: %v, want %v", got, want)
			}
			if test.first {
				if err := r.mayCallWith(k); err == nil {
					t.Error("the first certificate is good for a call")
				}
			}
			_, err := l.prove(a.keys, a.again, renewal)
			wantRefused(t, err, connect.CodeUnauthenticated)
		})
	}
}
