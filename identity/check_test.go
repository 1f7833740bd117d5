package identity

import (
	"crypto/elliptic"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/crypto/ssh"
)

func TestWhatWasEncodedIsWhatTheCheckGives(t *testing.T) {
	authority := ed25519Signer(t)
	keys := map[string]ssh.PublicKey{
		"ed25519": ed25519Signer(t).PublicKey(),
		"p256":    ecdsaSigner(t, elliptic.P256()).PublicKey(),
		"p384":    ecdsaSigner(t, elliptic.P384()).PublicKey(),
		"p521":    ecdsaSigner(t, elliptic.P521()).PublicKey(),
		"rsa2048": rsaSigner(t, 2048).PublicKey(),
		"sk":      skKey(t),
	}
	for name, key := range keys {
		t.Run(name, func(t *testing.T) {
			want := alice()
			cert := wire(t, encode(t, want, key), authority)
			got, err := SSHCheck{
				Authorities: []ssh.PublicKey{ed25519Signer(t).PublicKey(), authority.PublicKey()},
				Login:       "root", Addr: netip.MustParseAddr("::ffff:192.0.2.7"), Now: now,
			}.Check(cert)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
				t.Errorf("want (-), got (+):\n%s", d)
			}
		})
	}
}

// skKey is a FIDO key's public half, which software cannot sign with and need
// not here.
func skKey(t *testing.T) ssh.PublicKey {
	t.Helper()
	raw := ed25519Signer(t).PublicKey().Marshal()
	key, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Type        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, raw[len(raw)-32:], "ssh:"}))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Each row makes one fault in a good certificate, before it is signed.
func TestCheckRefusesOneFaultAtATime(t *testing.T) {
	authority := ed25519Signer(t)
	for name, row := range map[string]struct {
		fault func(*ssh.Certificate)
		want  Reason
	}{
		"a host's certificate":              {func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, ReasonWrongType},
		"a certificate of unknown type":     {func(c *ssh.Certificate) { c.CertType = 0 }, ReasonWrongType},
		"no principal is not everybody":     {func(c *ssh.Certificate) { c.ValidPrincipals = nil }, ReasonMalformed},
		"another principal":                 {func(c *ssh.Certificate) { c.ValidPrincipals = []string{"ubuntu"} }, ReasonPrincipal},
		"no login":                          {func(c *ssh.Certificate) { c.ValidPrincipals = []string{NoLogin} }, ReasonPrincipal},
		"no login beside a login":           {func(c *ssh.Certificate) { c.ValidPrincipals = []string{"root", NoLogin} }, ReasonMalformed},
		"a principal with a comma":          {func(c *ssh.Certificate) { c.ValidPrincipals = []string{"root", "a,b"} }, ReasonMalformed},
		"a principal twice":                 {func(c *ssh.Certificate) { c.ValidPrincipals = []string{"root", "root"} }, ReasonMalformed},
		"an empty principal":                {func(c *ssh.Certificate) { c.ValidPrincipals = []string{"root", ""} }, ReasonMalformed},
		"not yet valid":                     {func(c *ssh.Certificate) { c.ValidAfter = uint64(now.Unix()) + 1 }, ReasonNotYetValid},
		"expired this second":               {func(c *ssh.Certificate) { c.ValidBefore = uint64(now.Unix()) }, ReasonExpired},
		"valid for ever":                    {func(c *ssh.Certificate) { c.ValidBefore = ssh.CertTimeInfinity }, ReasonMalformed},
		"valid from the end of time":        {func(c *ssh.Certificate) { c.ValidAfter = math.MaxUint64 }, ReasonNotYetValid},
		"valid from beyond int64":           {func(c *ssh.Certificate) { c.ValidAfter = math.MaxInt64 + 1 }, ReasonNotYetValid},
		"valid until beyond int64":          {func(c *ssh.Certificate) { c.ValidBefore = math.MaxInt64 + 1 }, ReasonMalformed},
		"valid since the beginning":         {func(c *ssh.Certificate) { c.ValidAfter = 0 }, ReasonMalformed},
		"valid until nothing":               {func(c *ssh.Certificate) { c.ValidBefore = 0 }, ReasonExpired},
		"a forced command that is none":     {critical("force-command", ""), ReasonCriticalOption},
		"a forced command with a zero byte": {critical("force-command", "a\x00b"), ReasonCriticalOption},
		"a long forced command":             {critical("force-command", strings.Repeat("x", maxCommand+1)), ReasonCriticalOption},
		"an unknown critical option":        {critical("verify-required", ""), ReasonCriticalOption},
		"a wide source address":             {critical("source-address", "0.0.0.0/0"), ReasonCriticalOption},
		"an empty source address":           {critical("source-address", ""), ReasonCriticalOption},
		"a source address without login-ip": {func(c *ssh.Certificate) { delete(c.Extensions, "login-ip") }, ReasonCriticalOption},
		"another source address": {func(c *ssh.Certificate) {
			c.Extensions["login-ip"], c.CriticalOptions["source-address"] = "192.0.2.8", "192.0.2.8/32"
		}, ReasonSourceAddress},
		"a key that nobody has to touch": {extension("no-touch-required", ""), ReasonNoTouch},
		"serial 0":                       {func(c *ssh.Certificate) { c.Serial = 0 }, ReasonMalformed},
		"no user":                        {func(c *ssh.Certificate) { c.KeyId = "" }, ReasonMalformed},
		"a user with a new line":         {func(c *ssh.Certificate) { c.KeyId = "alice\nroot" }, ReasonMalformed},
		"a flag with a value":            {extension("permit-pty", "no"), ReasonMalformed},
		"login-ip that is none":          {extension("login-ip", "localhost"), ReasonMalformed},
		"login-ip with a zone":           {extension("login-ip", "fe80::1%eth0"), ReasonMalformed},
		"an unknown key policy":          {extension("private-key-policy", "web_session"), ReasonMalformed},
		"an empty key policy":            {extension("private-key-policy", ""), ReasonMalformed},
		"roles that are no JSON":         {extension("teleport-roles", "access,editor"), ReasonMalformed},
		"no roles":                       {extension("teleport-roles", `{"version":"v1","roles":[]}`), ReasonMalformed},
		"null roles":                     {extension("teleport-roles", `{"version":"v1","roles":null}`), ReasonMalformed},
		"roles of another version":       {extension("teleport-roles", `{"version":"v2","roles":["access"]}`), ReasonMalformed},
		"roles without a version":        {extension("teleport-roles", `{"roles":["access"]}`), ReasonMalformed},
		"roles twice in the JSON":        {extension("teleport-roles", `{"version":"v1","roles":["access"],"roles":["admin"]}`), ReasonMalformed},
		"roles in another case":          {extension("teleport-roles", `{"version":"v1","Roles":["admin"]}`), ReasonMalformed},
		"an unknown field":               {extension("teleport-roles", `{"version":"v1","roles":["access"],"x":1}`), ReasonMalformed},
		"something after the roles":      {extension("teleport-roles", `{"version":"v1","roles":["access"]} `), ReasonMalformed},
		"the same role twice":            {extension("teleport-roles", `{"version":"v1","roles":["a","a"]}`), ReasonMalformed},
		"an empty role":                  {extension("teleport-roles", `{"version":"v1","roles":[""]}`), ReasonMalformed},
		"too many roles":                 {extension("teleport-roles", `{"version":"v1","roles":["a`+strings.Repeat(`","a`, maxJSON)+`"]}`), ReasonMalformed},
		"an empty roles extension":       {extension("teleport-roles", ""), ReasonMalformed},
		"traits that are a list":         {extension("teleport-traits", `["root"]`), ReasonMalformed},
		"a trait twice":                  {extension("teleport-traits", `{"logins":["root"],"logins":["x"]}`), ReasonMalformed},
		"a trait that is null":           {extension("teleport-traits", `{"logins":null}`), ReasonMalformed},
		"a trait with control bytes":     {extension("teleport-traits", `{"logins":["a\u0000"]}`), ReasonMalformed},
		"traits with nothing in them":    {extension("teleport-traits", `{}`), ReasonMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			cert := encode(t, alice(), ed25519Signer(t).PublicKey())
			row.fault(cert)
			id, err := goodCheck(authority).Check(wire(t, cert, authority))
			if got := ReasonOf(err); got != row.want {
				t.Errorf("got %q (%v), want %q", got, err, row.want)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("error is not one line: %q", err)
			}
			if d := cmp.Diff(Identity{}, id, cmpopts.EquateComparable(netip.Addr{})); err != nil && d != "" {
				t.Errorf("a refusal came with an identity: %s", d)
			}
		})
	}
}

func critical(name, value string) func(*ssh.Certificate) {
	return func(c *ssh.Certificate) { c.CriticalOptions[name] = value }
}

func extension(name, value string) func(*ssh.Certificate) {
	return func(c *ssh.Certificate) { c.Extensions[name] = value }
}

func goodCheck(authority ssh.Signer) SSHCheck {
	return SSHCheck{
		Authorities: []ssh.PublicKey{authority.PublicKey()},
		Login:       "root", Addr: netip.MustParseAddr("192.0.2.7"), Now: now,
	}
}

func TestCheckRefusesWhatIsSignedBySomebodyElse(t *testing.T) {
	authority, other := ed25519Signer(t), ed25519Signer(t)
	cert := encode(t, alice(), ed25519Signer(t).PublicKey())

	_, err := goodCheck(authority).Check(wire(t, cert, other))
	wantReason(t, err, ReasonAuthority)

	// The right authority's key beside somebody else's signature.
	forged := wire(t, cert, other)
	forged.SignatureKey = authority.PublicKey()
	_, err = goodCheck(authority).Check(forged)
	wantReason(t, err, ReasonSignature)
}

func TestCheckRefusesAnyChangeAfterSigning(t *testing.T) {
	authority := ed25519Signer(t)
	for name, change := range map[string]func(*ssh.Certificate){
		"key":        func(c *ssh.Certificate) { c.Key = ed25519Signer(t).PublicKey() },
		"serial":     func(c *ssh.Certificate) { c.Serial++ },
		"user":       func(c *ssh.Certificate) { c.KeyId = "bob" },
		"principals": func(c *ssh.Certificate) { c.ValidPrincipals = append(c.ValidPrincipals, "mallory") },
		"life":       func(c *ssh.Certificate) { c.ValidBefore++ },
		"options":    func(c *ssh.Certificate) { c.CriticalOptions = nil },
		"device":     func(c *ssh.Certificate) { c.Extensions["teleport-device-id"] = "another" },
		"nonce":      func(c *ssh.Certificate) { c.Nonce[0] ^= 1 },
		"signature":  func(c *ssh.Certificate) { c.Signature.Blob[0] ^= 1 },
		"reserved":   func(c *ssh.Certificate) { c.Reserved = []byte{1} },
	} {
		t.Run(name, func(t *testing.T) {
			cert := wire(t, encode(t, alice(), ed25519Signer(t).PublicKey()), authority)
			change(cert)
			_, err := goodCheck(authority).Check(cert)
			wantReason(t, err, ReasonSignature)
		})
	}
}

func TestCheckRefusesWeakAndNestedKeys(t *testing.T) {
	authority := ed25519Signer(t)
	sign := func(key ssh.PublicKey, by ssh.Signer) *ssh.Certificate {
		cert := encode(t, alice(), ed25519Signer(t).PublicKey())
		cert.Key = key
		if err := cert.SignCert(cryptoRand{}, by); err != nil {
			t.Fatal(err)
		}
		return cert
	}
	good := ed25519Signer(t).PublicKey()
	inner := sign(good, authority)
	rsa1024 := rsaSigner(t, 1024)
	rsa2048 := rsaSigner(t, 2048)

	t.Run("RSA of 1024 bits", func(t *testing.T) {
		_, err := goodCheck(authority).Check(sign(rsa1024.PublicKey(), authority))
		wantReason(t, err, ReasonWeakKey)
	})
	t.Run("DSA", func(t *testing.T) {
		_, err := goodCheck(authority).Check(sign(dsaKey(t), authority))
		wantReason(t, err, ReasonWeakKey)
	})
	t.Run("an authority of 1024 bits", func(t *testing.T) {
		_, err := goodCheck(rsa1024).Check(sign(good, rsa1024))
		wantReason(t, err, ReasonWeakKey)
	})
	t.Run("a certificate as the key", func(t *testing.T) {
		cert := sign(good, authority)
		cert.Key = inner
		_, err := goodCheck(authority).Check(cert)
		wantReason(t, err, ReasonWeakKey)
	})
	t.Run("a certificate as the authority", func(t *testing.T) {
		cert := sign(good, authority)
		cert.SignatureKey = inner
		check := goodCheck(authority)
		check.Authorities = append(check.Authorities, inner)
		_, err := check.Check(cert)
		wantReason(t, err, ReasonWeakKey)
	})
	t.Run("SHA-1", func(t *testing.T) {
		_, err := goodCheck(rsa2048).Check(sign(good, sha1Signer{rsa2048}))
		wantReason(t, err, ReasonWeakKey)
	})
	t.Run("RSA with SHA-2 is good", func(t *testing.T) {
		if _, err := goodCheck(rsa2048).Check(sign(good, rsa2048)); err != nil {
			t.Error(err)
		}
	})
}

func TestTheZeroCheckRefuses(t *testing.T) {
	authority := ed25519Signer(t)
	cert := wire(t, encode(t, alice(), ed25519Signer(t).PublicKey()), authority)
	for name, row := range map[string]struct {
		change func(*SSHCheck)
		want   Reason
	}{
		"no authority":  {func(c *SSHCheck) { c.Authorities = nil }, ReasonAuthority},
		"nil authority": {func(c *SSHCheck) { c.Authorities = []ssh.PublicKey{nil} }, ReasonAuthority},
		"no login":      {func(c *SSHCheck) { c.Login = "" }, ReasonPrincipal},
		"NoLogin":       {func(c *SSHCheck) { c.Login = NoLogin }, ReasonPrincipal},
		"no time":       {func(c *SSHCheck) { c.Now = time.Time{} }, ReasonNotConfigured},
		"no address":    {func(c *SSHCheck) { c.Addr = netip.Addr{} }, ReasonSourceAddress},
		"another address, whoever checks it": {func(c *SSHCheck) {
			c.Addr, c.ServerChecksAddr = netip.MustParseAddr("192.0.2.8"), true
		}, ReasonSourceAddress},
		"nothing": {func(c *SSHCheck) { *c = SSHCheck{} }, ReasonPrincipal},
	} {
		t.Run(name, func(t *testing.T) {
			check := goodCheck(authority)
			row.change(&check)
			_, err := check.Check(cert)
			wantReason(t, err, row.want)
		})
	}
	for name, key := range map[string]ssh.PublicKey{
		"a nil key": nil, "a plain key": authority.PublicKey(), "a nil certificate": (*ssh.Certificate)(nil),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := goodCheck(authority).Check(key)
			wantReason(t, err, ReasonNotACertificate)
		})
	}
	t.Run("an empty certificate", func(t *testing.T) {
		_, err := goodCheck(authority).Check(&ssh.Certificate{CertType: ssh.UserCert})
		wantReason(t, err, ReasonWeakKey)
	})
	t.Run("an unsigned certificate", func(t *testing.T) {
		c := encode(t, alice(), ed25519Signer(t).PublicKey())
		c.SignatureKey = authority.PublicKey()
		_, err := goodCheck(authority).Check(c)
		wantReason(t, err, ReasonSignature)
	})
}

func TestAnAddressThatTheServerChecksIsNotAskedFor(t *testing.T) {
	authority := ed25519Signer(t)
	check := goodCheck(authority)
	check.Addr, check.ServerChecksAddr = netip.Addr{}, true
	id, err := check.Check(wire(t, encode(t, alice(), ed25519Signer(t).PublicKey()), authority))
	if err != nil || !id.PinSourceIP {
		t.Errorf("%v, pinned: %v", err, id.PinSourceIP)
	}
	// And nothing else is let pass with it.
	cert := encode(t, alice(), ed25519Signer(t).PublicKey())
	cert.CriticalOptions["source-address"] = "0.0.0.0/0"
	_, err = check.Check(wire(t, cert, authority))
	wantReason(t, err, ReasonCriticalOption)
}

func TestHalfADeviceIsNone(t *testing.T) {
	authority := ed25519Signer(t)
	for name, fault := range map[string]func(*ssh.Certificate){
		"no ID":                  func(c *ssh.Certificate) { delete(c.Extensions, "teleport-device-id") },
		"no asset tag":           func(c *ssh.Certificate) { delete(c.Extensions, "teleport-device-asset-tag") },
		"no credential":          func(c *ssh.Certificate) { delete(c.Extensions, "teleport-device-credential-id") },
		"an empty ID":            extension("teleport-device-id", ""),
		"an empty asset tag":     extension("teleport-device-asset-tag", ""),
		"an empty credential":    extension("teleport-device-credential-id", ""),
		"an overlong credential": extension("teleport-device-credential-id", strings.Repeat("x", maxDeviceField+1)),
		"a tag with a new line":  extension("teleport-device-asset-tag", "C00\nAA"),
	} {
		t.Run(name, func(t *testing.T) {
			cert := encode(t, alice(), ed25519Signer(t).PublicKey())
			fault(cert)
			id, err := goodCheck(authority).Check(wire(t, cert, authority))
			if err != nil {
				t.Fatal(err)
			}
			if id.Device != (Device{}) {
				t.Errorf("got %+v, want no device", id.Device)
			}
			if id.Evidence != (Evidence{}) {
				t.Errorf("got %+v of no device", id.Evidence)
			}
		})
	}
}

// A certificate is good for all who ask for no evidence, whatever it says of
// that.
func TestEvidenceThatCannotBeReadIsNone(t *testing.T) {
	authority := ed25519Signer(t)
	for name, text := range map[string]string{
		"nothing":               ``,
		"no JSON":               `quote`,
		"another type":          `["v1","quote"]`,
		"null":                  `null`,
		"no version":            `{"level":"quote"}`,
		"a later version":       `{"version":"v2","level":"quote"}`,
		"no level":              `{"version":"v1","level":""}`,
		"a level of two words":  `{"version":"v1","level":"event log"}`,
		"a long level":          `{"version":"v1","level":"` + strings.Repeat("x", 33) + `"}`,
		"an unknown field":      `{"version":"v1","level":"quote","pcrs":"0"}`,
		"a level twice":         `{"version":"v1","level":"quote","level":"secure_boot"}`,
		"a level in capitals":   `{"version":"v1","Level":"secure_boot"}`,
		"fields in other order": `{"level":"quote","version":"v1"}`,
		"white space":           `{"version":"v1", "level":"quote"}`,
		"something behind it":   `{"version":"v1","level":"quote"} `,
		"two of them":           `{"version":"v1","level":"quote"}{"version":"v1","level":"secure_boot"}`,
		"a long manufacturer":   `{"version":"v1","level":"quote","tpm_manufacturer":"Infineon"}`,
		"no manufacturer":       `{"version":"v1","level":"quote","tpm_manufacturer":""}`,
		"an escape sequence":    `{"version":"v1","level":"quote","tpm_manufacturer":"\u001b[2J"}`,
		"firmware in words":     `{"version":"v1","level":"quote","tpm_firmware":"new"}`,
		"firmware as a number":  `{"version":"v1","level":"quote","tpm_firmware":7.85}`,
		"firmware of two lines": `{"version":"v1","level":"quote","tpm_firmware":"7\n8"}`,
		"too much":              `{"version":"v1","level":"quote"` + strings.Repeat(" ", maxJSON) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			cert := encode(t, alice(), ed25519Signer(t).PublicKey())
			cert.Extensions["device-evidence@devicetrust"] = text
			id, err := goodCheck(authority).Check(wire(t, cert, authority))
			if err != nil {
				t.Fatal(err)
			}
			if id.Evidence != (Evidence{}) || id.Device != alice().Device {
				t.Errorf("got %+v of %+v, want the device and no evidence", id.Evidence, id.Device)
			}
		})
	}
}

func TestEvidenceHasOneFormInACertificate(t *testing.T) {
	for want, e := range map[string]Evidence{
		`{"version":"v1","level":"key"}`:                                                               {Level: "key"},
		`{"version":"v1","level":"quote","tpm_manufacturer":"id:00001014"}`:                            {Level: "quote", TPMManufacturer: "id:00001014"},
		`{"version":"v1","level":"quote","tpm_firmware":"8217.4131.22.13878"}`:                         {Level: "quote", TPMFirmware: "8217.4131.22.13878"},
		`{"version":"v1","level":"secure_boot","tpm_manufacturer":"IFX","tpm_firmware":"7.85.4555.0"}`: {"secure_boot", "IFX", "7.85.4555.0"},
	} {
		id := alice()
		id.Evidence = e
		cert := encode(t, id, ed25519Signer(t).PublicKey())
		if got := cert.Extensions["device-evidence@devicetrust"]; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if back, err := UnverifiedFromSSH(cert); err != nil || back.Evidence != e {
			t.Errorf("%s was read as %+v, %v", want, back.Evidence, err)
		}
	}
	none := alice()
	none.Evidence = Evidence{}
	if got, ok := encode(t, none, ed25519Signer(t).PublicKey()).Extensions["device-evidence@devicetrust"]; ok {
		t.Errorf("no evidence was written as %q", got)
	}
}

func wantReason(t *testing.T, err error, want Reason) {
	t.Helper()
	if got := ReasonOf(err); got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}
