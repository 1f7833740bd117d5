// Package krl writes and reads OpenSSH key revocation lists (PROTOCOL.krl), as
// far as they are about the serials of certificates: what RevokedKeys of an
// sshd names. It has no clock, file or store.
package krl

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/policy"
)

// List is what is revoked.
type List struct {
	// Version rises with each list that says something else.
	Version uint64
	// Date is when it was made; whole seconds count.
	Date time.Time
	// Comment is one line for people.
	Comment string
	// Authorities are those whose certificates it is about, also those of which
	// none is revoked.
	Authorities []Authority
}

// Authority is what is revoked of one authority's certificates: ascending, and
// apart from each other. The format has no reasons; ranges that touch are one.
type Authority struct {
	Key     ssh.PublicKey
	Revoked []policy.Revocation
}

// Revokes tells whether l revokes the certificate that authority gave serial.
func (l List) Revokes(authority ssh.PublicKey, serial uint64) bool {
	a := l.of(authority)
	if a == nil {
		return false
	}
	_, found := slices.BinarySearchFunc(a.Revoked, serial, func(r policy.Revocation, serial uint64) int {
		switch {
		case r.Last < serial:
			return -1
		case r.First > serial:
			return 1
		}
		return 0
	})
	return found
}

func (l List) of(authority ssh.PublicKey) *Authority {
	wire := authority.Marshal()
	for i := range l.Authorities {
		if bytes.Equal(l.Authorities[i].Key.Marshal(), wire) {
			return &l.Authorities[i]
		}
	}
	return nil
}

// Check reads a list that was fetched or found, and tells whether it may be put
// where an sshd reads it: that it is whole, and says of each of authorities what
// is revoked. A list that was cut off between two authorities, and one of
// another cluster, are valid to OpenSSH and revoke nothing. A file of no bytes
// lets everybody in, and one that OpenSSH cannot read nobody. Who made the list
// is for its signature to say.
func Check(data []byte, authorities []ssh.PublicKey) (List, error) {
	if len(authorities) == 0 {
		return List{}, errors.New("krl: there is no authority that it should be about")
	}
	l, err := Parse(data)
	if err != nil {
		return List{}, err
	}
	for _, a := range authorities {
		if l.of(a) == nil {
			return List{}, fmt.Errorf("krl: it says nothing of authority %s: it is cut off, or another cluster's", ssh.FingerprintSHA256(a))
		}
	}
	return l, nil
}
