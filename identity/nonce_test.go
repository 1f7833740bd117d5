package identity

import (
	"encoding/hex"
	"testing"
)

// Both sides of a ceremony compute these; a change of one byte is a change of
// the protocol.
func TestTheNoncesAreWhatTheyWere(t *testing.T) {
	login := LoginBinding{
		Challenge: []byte("challenge"), Cluster: "example", User: "alice", CredentialID: "id",
		SSHPublicKey: []byte("ssh"), TLSPublicKey: []byte("tls"),
	}
	enroll := EnrollNonce(EnrollBinding{Challenge: []byte("challenge"), Cluster: "example", User: "alice", CredentialID: "id"})
	for got, want := range map[[32]byte]string{
		LoginNonce(login):  "2969bdeeb243b2746a66313ca923da754cc33ac3412e30465d298dddfb2197e7",
		SSHKeyNonce(login): "dc8ca37fc1fbbc5c4367d4815a0125a0b611670b3faa239c3d0b3cf5f83eee80",
		TLSKeyNonce(login): "4e526e79b6f319dd54d0c9e72f2eff2771b020070f7a081288abeae6f82d44e4",
		enroll:             "ab7b522f24e8aba6c21ebe37a0573c2be42830efb6fd8f366a1f1a0c7082e89d",
	} {
		if hex.EncodeToString(got[:]) != want {
			t.Errorf("got %x, want %s", got, want)
		}
	}
}

func TestEveryPartOfALoginChangesEachOfItsNonces(t *testing.T) {
	good := LoginBinding{
		Challenge: []byte("challenge"), Cluster: "example", User: "alice", CredentialID: "id",
		SSHPublicKey: []byte("ssh"), TLSPublicKey: []byte("tls"),
	}
	seen := map[[32]byte]string{}
	for purpose, nonceOf := range map[string]func(LoginBinding) [32]byte{"a login": LoginNonce, "its SSH key": SSHKeyNonce, "its TLS key": TLSKeyNonce} {
		for part, change := range map[string]func(*LoginBinding){
			"nothing":           func(*LoginBinding) {},
			"the challenge":     func(b *LoginBinding) { b.Challenge = []byte("another") },
			"the cluster":       func(b *LoginBinding) { b.Cluster = "other" },
			"the user":          func(b *LoginBinding) { b.User = "bob" },
			"the credential":    func(b *LoginBinding) { b.CredentialID = "other" },
			"the SSH key":       func(b *LoginBinding) { b.SSHPublicKey = []byte("other") },
			"the TLS key":       func(b *LoginBinding) { b.TLSPublicKey = []byte("other") },
			"the keys' places":  func(b *LoginBinding) { b.SSHPublicKey, b.TLSPublicKey = b.TLSPublicKey, b.SSHPublicKey },
			"where a name ends": func(b *LoginBinding) { b.Cluster, b.User = "examplea", "lice" },
		} {
			changed := good
			change(&changed)
			n, what := nonceOf(changed), "a change of "+part+" in the nonce of "+purpose
			if before, ok := seen[n]; ok {
				t.Errorf("%s gives what %s gives", what, before)
			}
			seen[n] = what
		}
	}
}

func TestEveryPartOfAnEnrollmentChangesItsNonce(t *testing.T) {
	good := EnrollBinding{Challenge: []byte("challenge"), Cluster: "example", User: "alice", CredentialID: "id"}
	seen := map[[32]byte]string{EnrollNonce(good): "nothing"}
	for name, change := range map[string]func(*EnrollBinding){
		"the challenge":     func(b *EnrollBinding) { b.Challenge = []byte("another") },
		"the cluster":       func(b *EnrollBinding) { b.Cluster = "other" },
		"the user":          func(b *EnrollBinding) { b.User = "bob" },
		"the credential":    func(b *EnrollBinding) { b.CredentialID = "other" },
		"where a name ends": func(b *EnrollBinding) { b.Cluster, b.User = "examplea", "lice" },
	} {
		changed := good
		change(&changed)
		n := EnrollNonce(changed)
		if before, ok := seen[n]; ok {
			t.Errorf("a change of %s gives the nonce of a change of %s", name, before)
		}
		seen[n] = name
	}
}
