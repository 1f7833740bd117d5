package node

import (
	"bytes"
	"context"
	"sync"

	"devicetrust/api/dtv1"
)

// link is how a member of the cluster knows the control plane, and is known to
// it.
type link struct {
	member *member

	mu sync.Mutex
	// authorities that the control plane is believed by, and the certificate
	// that is shown to it.
	authorities [][]byte
	shown       *credentials
}

// show has the control plane see the certificate, and believes it by the
// authorities that came with the first one.
func (l *link) show(c *credentials) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shown = c
	if l.authorities == nil {
		for _, a := range c.tlsAuthorities {
			l.authorities = append(l.authorities, a.Raw)
		}
	}
	return l.reconnectLocked()
}

// believe takes the cluster's TLS authorities.
func (l *link) believe(ders [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if equal(l.authorities, ders) {
		return
	}
	before := l.authorities
	l.authorities = ders
	if err := l.reconnectLocked(); err != nil {
		l.authorities = before
		l.member.log.Error("the control plane's new TLS authorities cannot be used", "error", err)
	}
}

func equal(a, b [][]byte) bool { return bytes.Equal(bytes.Join(a, nil), bytes.Join(b, nil)) }

func (l *link) reconnectLocked() error {
	authorities, err := parseAuthorities(l.authorities)
	if err != nil {
		return err
	}
	l.member.control.use(trust{authorities: authorities}, l.shown.tlsCertificate(l.member.keys))
	return nil
}

// send gives the control plane audit records.
func (l *link) send(ctx context.Context, batch [][]byte) error {
	client, _ := l.member.control.current()
	_, err := call(ctx, client.RecordEvents, &dtv1.RecordEventsRequest{Events: batch})
	return err
}
