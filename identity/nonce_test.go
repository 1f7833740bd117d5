package identity

import (
	"encoding/hex"
	"testing"
)

// Both sides of a ceremony compute these; a change of one byte is a change of
// the protocol.
func TestTheNoncesAreWhatTheyWere(t *testing.T) {
	login := LoginNonce(LoginBinding{
		Challenge: []byte("challenge"), Cluster: "example", User: "alice", CredentialID: "id",
		SSHPublicKey: []byte("ssh"), TLSPublicKey: []byte("tls"),
	})
	enroll := EnrollNonce(EnrollBinding{Challenge: []byte("challenge"), Cluster: "example", User: "alice", CredentialID: "id"})
	for got, want := range map[[32]byte]string{
		login:  "2969bdeeb243b2746a66313ca923da754cc33ac3412e30465d298dddfb2197e7",
		enroll: "ab7b522f24e8aba6c21ebe37a0573c2be42830efb6fd8f366a1f1a0c7082e89d",
	} {
		if hex.EncodeToString(got[:]) != want {
			t.Errorf("got %x, want %s", got, want)
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
