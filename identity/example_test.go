package identity_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/identity"
)

func newKey() (ssh.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromSigner(key)
}

func ExampleSSHCheck() {
	authority, err := newKey()
	if err != nil {
		panic(err)
	}
	person, err := newKey()
	if err != nil {
		panic(err)
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	cert, err := identity.Identity{
		User: "alice", Roles: []string{"access"}, Logins: []string{"ubuntu"}, Serial: 1,
		ValidAfter: now, ValidBefore: now.Add(time.Hour),
	}.SSHCertificate(person.PublicKey())
	if err != nil {
		panic(err)
	}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		panic(err)
	}

	check := identity.SSHCheck{Authorities: []ssh.PublicKey{authority.PublicKey()}, Login: "ubuntu", Now: now}
	id, err := check.Check(cert)
	fmt.Println(id.User, id.Roles, id.Device.Trusted(), err)

	check.Login = "root"
	_, err = check.Check(cert)
	fmt.Println(err)
	// Output:
	// alice [access] false <nil>
	// certificate refused: login "root" is not among its logins
}
