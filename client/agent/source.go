package agent

import (
	"context"

	"golang.org/x/crypto/ssh"
)

// Source is where the agent finds the logins' keys.
type Source interface {
	// Identities gives those of every login there is now. It is asked for each
	// list and each signature, from several goroutines at once, so it reads
	// again only what has changed. A login that cannot be read is left out of
	// the answer and told to the log; an error is for where nothing can be read
	// at all. Expired certificates may be in it: the agent leaves them out.
	Identities(ctx context.Context) ([]Identity, error)
}

// Identity is the key of one login with its certificate.
type Identity struct {
	// Certificate is a user's, and for the key that Sign signs with.
	Certificate *ssh.Certificate
	// Comment is what ssh-add -l shows, such as USER@CLUSTER.
	Comment string
	// Sign signs data with the certificate's key: Ed25519 or ECDSA, which know
	// one way each. It returns ctx's error when ctx ends first, as the
	// connection's does with the connection. It may be called from several
	// goroutines at once, and queues them where the key signs one by one.
	Sign func(ctx context.Context, data []byte) (*ssh.Signature, error)
	// HostAuthorities certify the hosts of the login's cluster: the keys of its
	// @cert-authority lines. Where there are none, the key is not used by way
	// of agent forwarding at all.
	HostAuthorities []ssh.PublicKey
}
