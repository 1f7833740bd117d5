package identity

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestACertificateSaysThatItsKeyIsInTheTPM(t *testing.T) {
	key, authority := ed25519Signer(t).PublicKey(), ed25519Signer(t)
	cert := wire(t, encode(t, attested(), key), authority)
	if got, want := cert.Extensions[extKeyAttestation], attested().KeyAttestation; got != want || cert.Extensions[extKeyPolicy] != "hardware_key" {
		t.Errorf("it says %q and %q", cert.Extensions[extKeyPolicy], got)
	}
	id, err := UnverifiedFromSSH(cert)
	if err != nil || !id.KeyAttested() {
		t.Errorf("read as %+v, %v", id, err)
	}
	if d := cmp.Diff(attested(), id, cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreFields(Identity{}, "ValidAfter", "ValidBefore")); d != "" {
		t.Errorf("it reads otherwise (-want +got):\n%s", d)
	}
	plain := wire(t, encode(t, alice(), key), authority)
	if _, ok := plain.Extensions[extKeyAttestation]; ok || plain.Extensions[extKeyPolicy] != "none" {
		t.Errorf("a software key's says %q", plain.Extensions)
	}
}

func TestHalfOfWhatSaysThatAKeyIsInTheTPMSaysNothing(t *testing.T) {
	key, authority := ed25519Signer(t).PublicKey(), ed25519Signer(t)
	for name, change := range map[string]func(extensions map[string]string){
		"no digest":              func(e map[string]string) { delete(e, extKeyAttestation) },
		"an empty digest":        func(e map[string]string) { e[extKeyAttestation] = "" },
		"a short digest":         func(e map[string]string) { e[extKeyAttestation] = strings.Repeat("0a", 31) },
		"a long digest":          func(e map[string]string) { e[extKeyAttestation] = strings.Repeat("0a", 33) },
		"a digest in capitals":   func(e map[string]string) { e[extKeyAttestation] = strings.Repeat("0A", 32) },
		"a digest that is none":  func(e map[string]string) { e[extKeyAttestation] = strings.Repeat("0g", 32) },
		"another policy":         func(e map[string]string) { e[extKeyPolicy] = KeyPolicyNone },
		"no policy":              func(e map[string]string) { delete(e, extKeyPolicy) },
		"no device ID":           func(e map[string]string) { delete(e, extDeviceID) },
		"no asset tag":           func(e map[string]string) { delete(e, extDeviceAssetTag) },
		"no credential":          func(e map[string]string) { delete(e, extDeviceCredID) },
		"an empty credential ID": func(e map[string]string) { e[extDeviceCredID] = "" },
	} {
		t.Run(name, func(t *testing.T) {
			cert := encode(t, attested(), key)
			change(cert.Extensions)
			id, err := UnverifiedFromSSH(wire(t, cert, authority))
			if err != nil {
				t.Fatal(err)
			}
			if id.KeyAttested() || id.KeyAttestation != "" || id.PrivateKeyPolicy == KeyPolicyHardware {
				t.Errorf("read as policy %q with digest %q", id.PrivateKeyPolicy, id.KeyAttestation)
			}
			checkStable(t, id, key)
		})
	}
}
