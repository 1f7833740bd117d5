package identity

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/crypto/ssh"
)

func TestAnIdentityThatCannotBeWrittenIsRefused(t *testing.T) {
	key := ed25519Signer(t).PublicKey()
	long := strings.Repeat("x", 300)
	for name, fault := range map[string]func(*Identity){
		"nobody":                      func(id *Identity) { *id = Identity{} },
		"a user with a space":         func(id *Identity) { id.User = "al ice" },
		"serial 0":                    func(id *Identity) { id.Serial = 0 },
		"a login with a comma":        func(id *Identity) { id.Logins = []string{"a,b"} },
		"a login in capitals":         func(id *Identity) { id.Logins = []string{"Root"} },
		"NoLogin as a login":          func(id *Identity) { id.Logins = []string{NoLogin} },
		"an empty login":              func(id *Identity) { id.Logins = []string{""} },
		"a login twice":               func(id *Identity) { id.Logins = []string{"a", "a"} },
		"too many logins":             func(id *Identity) { id.Logins = make([]string, MaxLogins+1) },
		"an empty role":               func(id *Identity) { id.Roles = []string{""} },
		"a role of two lines":         func(id *Identity) { id.Roles = []string{"a\nb"} },
		"a role that is no UTF-8":     func(id *Identity) { id.Roles = []string{"a\xff"} },
		"a long role":                 func(id *Identity) { id.Roles = []string{long} },
		"too many roles":              func(id *Identity) { id.Roles = make([]string, MaxRoles+1) },
		"a long trait":                func(id *Identity) { id.Traits = map[string][]string{"logins": {long}} },
		"an unnamed trait":            func(id *Identity) { id.Traits = map[string][]string{"": {"x"}} },
		"half a device":               func(id *Identity) { id.Device.AssetTag = "" },
		"a long device ID":            func(id *Identity) { id.Device.ID = long },
		"a device ID of two lines":    func(id *Identity) { id.Device.ID = "a\nb" },
		"evidence of no device":       func(id *Identity) { id.Device = Device{} },
		"evidence without a level":    func(id *Identity) { id.Evidence.Level = "" },
		"evidence of two words":       func(id *Identity) { id.Evidence.Level = "event log" },
		"a long level":                func(id *Identity) { id.Evidence.Level = strings.Repeat("x", 33) },
		"a manufacturer's name":       func(id *Identity) { id.Evidence.TPMManufacturer = "Infineon" },
		"a manufacturer of 9 digits":  func(id *Identity) { id.Evidence.TPMManufacturer = "id:000010145" },
		"an unprintable manufacturer": func(id *Identity) { id.Evidence.TPMManufacturer = "IF\x00" },
		"firmware in words":           func(id *Identity) { id.Evidence.TPMFirmware = "v7" },
		"firmware of five numbers":    func(id *Identity) { id.Evidence.TPMFirmware = "1.2.3.4.5" },
		"firmware of two lines":       func(id *Identity) { id.Evidence.TPMFirmware = "7\n" },
		"a key in hardware, unproved": func(id *Identity) { id.PrivateKeyPolicy = KeyPolicyHardware },
		"a proof of no such key":      func(id *Identity) { id.KeyAttestation = attested().KeyAttestation },
		"a proof, and no policy":      func(id *Identity) { id.KeyAttestation, id.PrivateKeyPolicy = attested().KeyAttestation, "" },
		"a proof without a device":    func(id *Identity) { *id = attested(); id.Device, id.Evidence = Device{}, Evidence{} },
		"half a proof":                func(id *Identity) { *id = attested(); id.KeyAttestation = id.KeyAttestation[1:] },
		"a proof in capitals":         func(id *Identity) { *id = attested(); id.KeyAttestation = strings.Repeat("0A", 32) },
		"a proof of two lines":        func(id *Identity) { *id = attested(); id.KeyAttestation = id.KeyAttestation[1:] + "\n" },
		"an unknown key policy":       func(id *Identity) { id.PrivateKeyPolicy = "x" },
		"a command with a zero byte":  func(id *Identity) { id.ForceCommand = "a\x00" },
		"a pinned address, not known": func(id *Identity) { id.LoginIP = netip.Addr{} },
		"no beginning":                func(id *Identity) { id.ValidAfter = time.Time{} },
		"no end":                      func(id *Identity) { id.ValidBefore = time.Time{} },
		"an end beyond 9999":          func(id *Identity) { id.ValidBefore = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"no life":                     func(id *Identity) { id.ValidAfter = id.ValidBefore },
	} {
		t.Run(name, func(t *testing.T) {
			id := alice()
			fault(&id)
			if cert, err := id.SSHCertificate(key); err == nil || cert != nil {
				t.Errorf("was written: %+v", cert)
			} else if strings.Contains(err.Error(), "\n") {
				t.Errorf("error is not one line: %q", err)
			}
		})
	}
}

func TestWeakKeysAreNotCertified(t *testing.T) {
	cert := encode(t, alice(), ed25519Signer(t).PublicKey())
	for name, key := range map[string]ssh.PublicKey{
		"none":          nil,
		"RSA 1024":      rsaSigner(t, 1024).PublicKey(),
		"DSA":           dsaKey(t),
		"a certificate": wire(t, cert, ed25519Signer(t)),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := alice().SSHCertificate(key); err == nil {
				t.Error("was certified")
			}
		})
	}
}

func TestAnIdentityWithoutLoginsGetsAPrincipalOfNobody(t *testing.T) {
	id := alice()
	id.Logins, id.Traits = nil, map[string][]string{"logins": {}}
	cert := encode(t, id, ed25519Signer(t).PublicKey())
	if d := cmp.Diff([]string{NoLogin}, cert.ValidPrincipals); d != "" {
		t.Error(d)
	}
	if _, ok := cert.Extensions["teleport-traits"]; ok {
		t.Error("a trait without values was written")
	}
	back, err := UnverifiedFromSSH(cert)
	if err != nil {
		t.Fatal(err)
	}
	id.Traits = nil
	if d := cmp.Diff(id, back, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Error(d)
	}
	if CheckLogin(NoLogin) == nil {
		t.Error("NoLogin could be a login")
	}
}

// OpenSSH is the judge of what a certificate says.
func TestOpenSSHReadsTheCertificateAsIntended(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Fatalf("ssh-keygen is needed (Debian package openssh-client): %v", err)
	}
	file := filepath.Join(t.TempDir(), "cert.pub")
	cert := wire(t, encode(t, alice(), ed25519Signer(t).PublicKey()), ed25519Signer(t))
	if err := os.WriteFile(file, ssh.MarshalAuthorizedKey(cert), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), keygen, "-L", "-f", file)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got []string
	for _, line := range strings.Split(string(out), "\n") {
		line = strings.TrimSpace(line)
		// ssh-keygen says the length of what it does not know, not its text.
		line, _, _ = strings.Cut(line, " UNKNOWN")
		if line != "" && !strings.Contains(line, "SHA256:") && !strings.HasPrefix(line, file) {
			got = append(got, line)
		}
	}
	want := []string{
		"Type: ssh-ed25519-cert-v01@openssh.com user certificate",
		`Key ID: "alice@example.com"`,
		"Serial: 42",
		"Valid: from 2026-03-01T11:59:00 to 2026-03-01T13:00:00",
		"Principals:", "alice", "root",
		"Critical Options:", "force-command /usr/local/bin/backup --all", "source-address 192.0.2.7/32",
		"Extensions:",
	}
	if d := cmp.Diff(want, got[:min(len(want), len(got))]); d != "" {
		t.Fatalf("want (-), got (+):\n%s\n%s", d, out)
	}
	for _, name := range []string{
		"device-evidence@devicetrust", "login-ip", "permit-agent-forwarding", "permit-port-forwarding", "permit-pty", "private-key-policy",
		"teleport-device-asset-tag", "teleport-device-credential-id", "teleport-device-id", "teleport-roles", "teleport-traits",
	} {
		if !strings.Contains(string(out), name) {
			t.Errorf("%s is missing in\n%s", name, out)
		}
	}
	if strings.Contains(string(out), "permit-X11-forwarding") {
		t.Error("X11 forwarding was not to be permitted")
	}
}
