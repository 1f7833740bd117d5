package krl_test

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/identity/krl"
	"devicetrust/policy"
)

func ExampleCheck() {
	authority, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		panic(err)
	}
	data, err := krl.List{
		Version: 12, Date: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Comment: "example.com",
		Authorities: []krl.Authority{{Key: authority.PublicKey(), Revoked: []policy.Revocation{{First: 5, Last: 9}}}},
	}.Marshal()
	if err != nil {
		panic(err)
	}
	list, err := krl.Check(data, []ssh.PublicKey{authority.PublicKey()})
	fmt.Println(list.Revokes(authority.PublicKey(), 7), list.Revokes(authority.PublicKey(), 10), err)
	// All that was before the section of certificates is a list to OpenSSH.
	_, err = krl.Check(data[:55], []ssh.PublicKey{authority.PublicKey()})
	fmt.Println(err)
	// Output:
	// true false <nil>
	// krl: it says nothing of authority SHA256:tAXFyTXI8xtDaujAEcwJslAYc9/6FKcUkd2Lw0xDhPo: it is cut off, or another cluster's
}
