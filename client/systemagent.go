package client

import (
	"context"
	"net"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"devicetrust/api"
)

// AddToAgent adds the key and the certificate of p's login to the person's own
// ssh-agent at socket, until the certificate expires. Those of earlier logins
// there are taken out. A key in the TPM is refused: it cannot be handed over.
func (p *Profile) AddToAgent(ctx context.Context, socket string, o Options) error {
	creds, err := p.Credentials()
	if err == nil {
		err = creds.check(o.Now())
	}
	if err != nil {
		return err
	}
	if creds.InTPM() {
		return errKeyStays
	}
	return withAgent(ctx, socket, func(a agent.Agent) error {
		if err := p.removeFrom(a); err != nil {
			return err
		}
		left := creds.ValidUntil().Sub(o.Now())
		return a.Add(agent.AddedKey{
			PrivateKey: creds.keys.ssh, Certificate: creds.SSH, Comment: p.agentComment(),
			LifetimeSecs: uint32(max(left/time.Second, 1)), //nolint:gosec // certificates live for hours
		})
	})
}

var errKeyStays = api.Refuse(connect.CodeFailedPrecondition, "the key of this login is in the TPM, and cannot be added to another agent").
	WithHint("dtsh agent signs with it; or log in with: dtsh login --key=software --add-keys-to-agent")

// RemoveFromAgent takes out of the ssh-agent at socket what AddToAgent put
// there for logins.
func RemoveFromAgent(ctx context.Context, socket string, logins []*Profile) error {
	if len(logins) == 0 {
		return nil
	}
	return withAgent(ctx, socket, func(a agent.Agent) error {
		for _, p := range logins {
			if err := p.removeFrom(a); err != nil {
				return err
			}
		}
		return nil
	})
}

// agentComment tells our keys from others in an agent.
func (p *Profile) agentComment() string { return "dtsh " + p.User + "@" + p.Proxy }

// removeFrom takes p's certificates out of a, by their comment: the keys of
// earlier logins are not known any more.
func (p *Profile) removeFrom(a agent.Agent) error {
	keys, err := a.List()
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.Comment != p.agentComment() {
			continue
		}
		parsed, err := ssh.ParsePublicKey(k.Blob)
		if cert, ok := parsed.(*ssh.Certificate); err != nil || !ok || cert.KeyId != p.User {
			continue // somebody else's, whatever it is called
		}
		if err := a.Remove(k); err != nil {
			return err
		}
	}
	return nil
}

// withAgent runs f with the agent at socket, which has to answer in time.
func withAgent(ctx context.Context, socket string, f func(agent.Agent) error) error {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return agentRefusal(socket, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err = f(agent.NewClient(conn))
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return agentRefusal(socket, err)
	}
	return nil
}

func agentRefusal(socket string, err error) error {
	return api.Refuse(connect.CodeUnavailable, "cannot use the agent at %q, which SSH_AUTH_SOCK names: %s", socket, networkReason(err)).
		WithHint("See that it runs: ssh-add -l")
}
