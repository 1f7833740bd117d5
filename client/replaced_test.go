package client

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/client/clienttest"
)

// serial of the login of p.
func serial(t *testing.T, p *Profile) uint64 {
	t.Helper()
	creds, err := p.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	return creds.SSH.Serial
}

func TestALogoutEndsTheLoginsThatWereReplaced(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	want := []uint64{serial(t, loggedIn(t, c, h, nil)), serial(t, loggedIn(t, c, h, clienttest.Prove))}
	loggedIn(t, c, h, nil)
	if problems, err := h.LogoutAll(t.Context(), options()); err != nil || len(problems) != 0 {
		t.Fatal(problems, err)
	}
	if diff := cmp.Diff(want, c.Replaced()); diff != "" {
		t.Error(diff)
	}
	// And no later one.
	loggedIn(t, c, h, nil)
	if _, err := h.LogoutAll(t.Context(), options()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, c.Replaced()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"alice", "alice"}, c.Ended()); diff != "" {
		t.Error(diff)
	}
}

func TestAnotherPersonsLoginIsEndedWithWhatItReplaced(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	c.Passwords["bob"] = "correct horse"
	want := []uint64{serial(t, loggedIn(t, c, h, nil))}
	p := loggedIn(t, c, h, nil)
	bob := ask(c, nil)
	bob.User = "bob"
	if _, err := p.Login(t.Context(), bob, options()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"alice"}, c.Ended()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, c.Replaced()); diff != "" {
		t.Error(diff)
	}
	if len(p.replaced) != 0 {
		t.Errorf("bob's profile remembers %v", p.replaced)
	}
}

func TestALoginThatIsNotKeptEndsNoOther(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	loggedIn(t, c, h, nil)
	p := loggedIn(t, c, h, nil)
	want := ask(c, nil)
	want.Key = KeyTPM
	if _, err := p.Login(t.Context(), want, options()); err == nil {
		t.Fatal("no error")
	}
	if len(c.Ended()) != 1 || len(c.Replaced()) != 0 {
		t.Errorf("ended %q and the earlier ones %v, want the failed one only", c.Ended(), c.Replaced())
	}
}

func TestAProfileRemembersTheLastLoginsThatHaveNotExpired(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	p := loggedIn(t, c, h, nil)
	now := time.Now()
	for i := range uint64(maxReplaced + 3) {
		p.replaced = append(p.replaced, replacedLogin{Serial: 1000 + i, ValidUntil: now.Add(time.Hour)})
	}
	p.replaced[maxReplaced+2].ValidUntil = now.Add(-time.Hour)
	p.replaced = p.replaced[3:]
	last := serial(t, p)
	if err := p.save(); err != nil {
		t.Fatal(err)
	}
	p = loggedIn(t, c, h, nil)
	var got []uint64
	for _, r := range p.replaced {
		got = append(got, r.Serial)
	}
	if len(got) != maxReplaced || got[maxReplaced-1] != last || got[0] != 1003 || slices.Contains(got, 1000+maxReplaced+2) {
		t.Errorf("remembered are %v", got)
	}
	// More than it writes it does not read.
	for i := range uint64(2) {
		p.replaced = append(p.replaced, replacedLogin{Serial: i, ValidUntil: now.Add(time.Hour)})
	}
	if err := p.save(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Profile(c.Proxy); err == nil {
		t.Error("a profile with too many was read")
	}
}

func TestALogoutNeedsNoTPMHere(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	m, _ := enrolledMachine(t, h)
	loggedIn(t, c, h, m.Prove)
	m.Chip.Close()
	m.Chip.Address = "unix:/nowhere"
	problems, err := h.LogoutAll(t.Context(), options())
	if err != nil || len(problems) != 1 || len(c.Ended()) != 0 {
		t.Errorf("%v, problems %v, ended %q", err, problems, c.Ended())
	}
	if left := entries(t, h.Dir()); slices.Contains(left, "keys") {
		t.Errorf("left are %q", left)
	}
}

func TestALogoutDoesNotWaitForATPMThatHangs(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	m, _ := enrolledMachine(t, h)
	loggedIn(t, c, h, m.Prove)
	m.Chip.Close()
	m.Chip.Address = hangs(t, func() {})
	began := time.Now()
	problems, err := h.LogoutAll(t.Context(), options())
	if took := time.Since(began); err != nil || len(problems) != 1 || took > 2*goodbyeTimeout {
		t.Errorf("%v, problems %v, after %v", err, problems, took)
	}
}
