package identity

import (
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func web() Host {
	return Host{
		NodeID: "9cdfc0ad-64b7", Names: []string{"web-1", "web-1.example.com", "192.0.2.1", "::1"},
		Serial: 9, ValidAfter: now.Add(-time.Minute), ValidBefore: now.Add(time.Hour),
	}
}

func TestAHostIsAcceptedUnderEachOfItsNames(t *testing.T) {
	authority := ed25519Signer(t)
	cert, err := web().SSHCertificate(ed25519Signer(t).PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	signed := wire(t, cert, authority)
	for _, name := range []string{"web-1", "WEB-1.example.com", "192.0.2.1", "::1"} {
		check := HostCheck{Authorities: []ssh.PublicKey{authority.PublicKey()}, Names: []string{"other", name}, Now: now}
		if err := check.Check(signed); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHostCheckRefuses(t *testing.T) {
	authority := ed25519Signer(t)
	nothing := func(*ssh.Certificate) {}
	same := func(*HostCheck) {}
	for name, row := range map[string]struct {
		fault  func(*ssh.Certificate)
		change func(*HostCheck)
		want   Reason
	}{
		"a user's certificate":     {func(c *ssh.Certificate) { c.CertType = ssh.UserCert }, same, ReasonWrongType},
		"another name":             {nothing, func(c *HostCheck) { c.Names = []string{"web-2"} }, ReasonPrincipal},
		"no name":                  {nothing, func(c *HostCheck) { c.Names = nil }, ReasonPrincipal},
		"no principals":            {func(c *ssh.Certificate) { c.ValidPrincipals = nil }, same, ReasonPrincipal},
		"a pattern as principal":   {func(c *ssh.Certificate) { c.ValidPrincipals = []string{"*"} }, same, ReasonPrincipal},
		"expired":                  {nothing, func(c *HostCheck) { c.Now = now.Add(time.Hour) }, ReasonExpired},
		"not yet valid":            {nothing, func(c *HostCheck) { c.Now = now.Add(-time.Hour) }, ReasonNotYetValid},
		"no time":                  {nothing, func(c *HostCheck) { c.Now = time.Time{} }, ReasonNotConfigured},
		"another authority":        {nothing, func(c *HostCheck) { c.Authorities = []ssh.PublicKey{ed25519Signer(t).PublicKey()} }, ReasonAuthority},
		"no authority":             {nothing, func(c *HostCheck) { c.Authorities = nil }, ReasonAuthority},
		"a critical option":        {func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "::/0"} }, same, ReasonCriticalOption},
		"a certified key too weak": {func(c *ssh.Certificate) { c.Key = rsaSigner(t, 1024).PublicKey() }, same, ReasonWeakKey},
	} {
		t.Run(name, func(t *testing.T) {
			cert, err := web().SSHCertificate(ed25519Signer(t).PublicKey())
			if err != nil {
				t.Fatal(err)
			}
			row.fault(cert)
			check := HostCheck{Authorities: []ssh.PublicKey{authority.PublicKey()}, Names: []string{"web-1"}, Now: now}
			row.change(&check)
			wantReason(t, check.Check(wire(t, cert, authority)), row.want)
		})
	}
	t.Run("a plain key", func(t *testing.T) {
		check := HostCheck{Authorities: []ssh.PublicKey{authority.PublicKey()}, Names: []string{"web-1"}, Now: now}
		wantReason(t, check.Check(authority.PublicKey()), ReasonNotACertificate)
	})
}

func TestAHostThatCouldPassForOthersIsNotWritten(t *testing.T) {
	key := ed25519Signer(t).PublicKey()
	for name, fault := range map[string]func(*Host){
		"no names":        func(h *Host) { h.Names = nil },
		"every name":      func(h *Host) { h.Names = []string{"*"} },
		"a pattern":       func(h *Host) { h.Names = []string{"web-?"} },
		"a negation":      func(h *Host) { h.Names = []string{"!web-1"} },
		"a list":          func(h *Host) { h.Names = []string{"web-1,web-2"} },
		"capitals":        func(h *Host) { h.Names = []string{"WEB-1"} },
		"an empty name":   func(h *Host) { h.Names = []string{""} },
		"too many names":  func(h *Host) { h.Names = make([]string, MaxLogins+1) },
		"no ID":           func(h *Host) { h.NodeID = "" },
		"serial 0":        func(h *Host) { h.Serial = 0 },
		"a life for ever": func(h *Host) { h.ValidBefore = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		t.Run(name, func(t *testing.T) {
			h := web()
			fault(&h)
			if _, err := h.SSHCertificate(key); err == nil {
				t.Error("was written")
			}
		})
	}
}
