package client

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/client/clienttest"
	"devicetrust/devices/tpm"
	"devicetrust/identity"
)

func TestALoginIsRenewedWithTheSameKeys(t *testing.T) {
	for name, inTPM := range map[string]bool{"in the TPM": true, "in files": false} {
		t.Run(name, func(t *testing.T) {
			c, h := clienttest.Start(t), newHome(t)
			c.Life, c.Renewable = time.Hour, 10*time.Hour
			m, _ := enrolledMachine(t, h)
			prove := Prover(clienttest.Prove)
			if inTPM {
				prove = m.Prove
			}
			p := loggedIn(t, c, h, prove)
			before, err := p.Credentials()
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(p.RenewableUntil); left < 9*time.Hour {
				t.Errorf("renewable for %v", left)
			}
			files := names(t, p)
			c.Life = 3 * time.Hour
			r, err := p.renew(t.Context(), prove, options())
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(r.ValidUntil); left < 2*time.Hour || time.Until(r.RenewableUntil) < 9*time.Hour {
				t.Errorf("%+v", r)
			}
			after, err := p.Credentials()
			if err != nil || string(after.SSH.Key.Marshal()) != string(before.SSH.Key.Marshal()) || after.InTPM() != inTPM || !after.ValidUntil().Equal(r.ValidUntil) {
				t.Errorf("until %v, %v", after.ValidUntil(), err)
			}
			if diff := cmp.Diff(files, names(t, p)); diff != "" {
				t.Error(diff)
			}
			if _, err := p.HostAuthorities(); err != nil {
				t.Error(err)
			}
			if got := c.Ended(); len(got) != 0 {
				t.Errorf("ended %q", got)
			}
		})
	}
}

func TestARenewalNeverMakesALoginLess(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	m, _ := enrolledMachine(t, h)
	p := loggedIn(t, c, h, m.Prove)
	before, err := p.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*identity.Identity){
		"no device":           func(id *identity.Identity) { id.Device = identity.Device{} },
		"another device":      func(id *identity.Identity) { id.Device.CredentialID = "other" },
		"a software key":      func(id *identity.Identity) { id.PrivateKeyPolicy, id.KeyAttestation = "none", "" },
		"a key that is said":  func(id *identity.Identity) { id.KeyAttestation = "" },
		"another person":      func(id *identity.Identity) { id.User = "bob" },
		"another kind of key": func(id *identity.Identity) { id.PrivateKeyPolicy = "other" },
	} {
		next := before
		change(&next.Identity)
		if err := notLess(before, next); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := notLess(before, before); err != nil {
		t.Error(err)
	}
	// The server's answers to the end.
	c.Unattested = true
	if _, err := p.Renew(t.Context(), m, options()); err == nil || !strings.Contains(err.Error(), "unusable answer") {
		t.Errorf("error %v", err)
	}
	weaker := loggedIn(t, c, newHome(t), nil)
	creds, err := weaker.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	c.Certificates = func(m *dtv1.Certificates) { m.Ssh, m.Tls = creds.SSH.Marshal(), creds.TLS.Raw }
	if _, err := p.Renew(t.Context(), m, options()); err == nil || !strings.Contains(err.Error(), "unusable answer") {
		t.Errorf("error %v", err)
	}
	if after, err := p.Credentials(); err != nil || string(after.SSH.Marshal()) != string(before.SSH.Marshal()) {
		t.Errorf("what was kept is changed: %v", err)
	}
}

func TestARenewalLeavesAloneALoginThatBeganOrEndedMeanwhile(t *testing.T) {
	for name, meanwhile := range map[string]func(t *testing.T, c *clienttest.Cluster, h *Home){
		"another login": func(t *testing.T, c *clienttest.Cluster, h *Home) { loggedIn(t, c, h, nil) },
		"a logout": func(t *testing.T, _ *clienttest.Cluster, h *Home) {
			if _, err := h.LogoutAll(t.Context(), options()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, h := clienttest.Start(t), newHome(t)
			p := loggedIn(t, c, h, clienttest.Prove)
			var now *ssh.Certificate
			_, err := p.renew(t.Context(), func(ctx context.Context, args tpm.AuthArgs, s tpm.AuthenticateStream) (tpm.Authenticated, error) {
				proved, err := clienttest.Prove(ctx, args, s)
				meanwhile(t, c, h)
				if stored, err := h.Profile(c.Proxy); err == nil && stored.User != "" {
					creds, err := stored.Credentials()
					if err != nil {
						t.Error(err)
					}
					now = creds.SSH
				}
				return proved, err
			}, options())
			if !errors.Is(err, errChanged) {
				t.Errorf("error %v", err)
			}
			stored, err := h.Profile(c.Proxy)
			if err != nil {
				t.Fatal(err)
			}
			creds, err := stored.Credentials()
			if now == nil && !errors.Is(err, ErrNotLoggedIn) || now != nil && (err != nil || string(creds.SSH.Marshal()) != string(now.Marshal())) {
				t.Errorf("the login is another one: %v", err)
			}
		})
	}
}

func TestWhatIsNotOfADeviceOrHasExpiredIsNotRenewed(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	p := loggedIn(t, c, h, nil)
	if _, err := p.renew(t.Context(), clienttest.Prove, options()); err == nil || hintOf(t, err) == "" {
		t.Errorf("error %v", err)
	}
	p = loggedIn(t, c, h, clienttest.Prove)
	later := Options{Now: func() time.Time { return time.Now().Add(13 * time.Hour) }}
	if _, err := p.renew(t.Context(), clienttest.Prove, later); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("error %v", err)
	}
	if c.Stop(); true {
		if _, err := p.renew(t.Context(), clienttest.Prove, options()); err == nil || hintOf(t, err) == "" {
			t.Errorf("error %v", err)
		}
	}
}

func TestARenewalDoesNotKeepTheTPMForAServerThatIsSilent(t *testing.T) {
	t.Parallel() // it lasts
	c, h := clienttest.Start(t), newHome(t)
	p := loggedIn(t, c, h, clienttest.Prove)
	start := time.Now()
	_, err := p.renew(t.Context(), func(ctx context.Context, _ tpm.AuthArgs, stream tpm.AuthenticateStream) (none tpm.Authenticated, err error) {
		if _, err = stream.Receive(); err != nil && ctx.Err() != nil { // it was not asked
			err = context.Cause(ctx)
		}
		return none, err
	}, options())
	if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.Contains(r.Message, "does not answer") {
		t.Errorf("error %v", err)
	}
	if waited := time.Since(start); waited > signTimeout {
		t.Errorf("the TPM was kept for %v", waited)
	}
}
