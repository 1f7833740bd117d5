package node

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"connectrpc.com/connect"
	gossh "golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/api/dtv1"
)

// member is the node as one of the cluster: its keys, what they are certified
// with, and the way to the control plane.
type member struct {
	dir     string
	keys    keys
	info    *dtv1.NodeInfo
	control *control
	log     *slog.Logger
	now     func() time.Time
	// reports is what heartbeats tell of the state in force.
	reports reports

	// saving is held while the saved identity is replaced.
	saving sync.Mutex
}

// credentials takes the node's saved identity, or joins where there is none.
// Once joined the token is not looked at any more, unless the identity
// expired.
func (m *member) credentials(ctx context.Context, saved *savedIdentity, token string, pins []Pin) (*credentials, error) {
	if saved != nil {
		c, err := saved.check(m.keys)
		if err != nil {
			return nil, broken(err)
		}
		_, until := c.life()
		switch {
		case m.now().Before(until):
			if token != "" {
				m.log.Info("this node has joined already; the token is not used", "node_id", c.nodeID, "cluster", c.cluster)
			}
			return c, nil
		case token == "":
			return nil, api.Refuse(connect.CodeUnauthenticated, "this node's certificate expired at %s", clock(until)).
				WithHint("%s", joinAgain(c.nodeID))
		}
		m.log.Warn("this node's certificate has expired; joining again", "expired", until)
	}
	return m.join(ctx, token, pins)
}

// joinAgain is what is left to do when the certificate is past. The entry of
// the node as it was has its name (authd's checkFree).
func joinAgain(nodeID string) string {
	return fmt.Sprintf("Join again: remove the old entry (dtctl rm node/%s), make a token (dtctl tokens add --type=node) and start with it as --token.", nodeID)
}

func broken(err error) error {
	return api.Refuse(connect.CodeDataLoss, "cannot use the node's saved identity: %v", err).
		WithHint("Restore the data directory, or remove it and join again with a new token.")
}

// join spends the token.
func (m *member) join(ctx context.Context, token string, pins []Pin) (*credentials, error) {
	if token == "" || len(pins) == 0 {
		return nil, cannotJoin()
	}
	const what = "cannot join"
	m.control.use(trust{pins: pins}, nil)
	if err := m.control.checkClock(ctx); err != nil {
		return nil, m.control.explain(what, err)
	}
	public, err := x509.MarshalPKIXPublicKey(&m.keys.tls.PublicKey)
	if err != nil {
		return nil, err
	}
	client, _ := m.control.current()
	answer, err := call(ctx, client.Join, &dtv1.JoinRequest{
		Token: token, Node: m.info,
		SshPublicKey: m.keys.host.Marshal(), TlsPublicKey: public,
	})
	if err != nil {
		return nil, joinHint(m.control.explain(what, err))
	}
	c, err := m.take(answer)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	m.log.Info("joined", "cluster", c.cluster, "node_id", c.nodeID)
	return c, nil
}

func cannotJoin() error {
	return api.Refuse(connect.CodeInvalidArgument, "this node has not joined a cluster yet, which needs --auth-server, --token and --ca-pin").
		WithHint("Make a token on the control plane: dtctl tokens add --type=node")
}

// joinHint says how to get a token where the control plane does not.
func joinHint(err error) error {
	var r *api.Refusal
	if errors.As(err, &r) && r.Hint == "" && (r.Code == connect.CodeUnauthenticated || r.Code == connect.CodePermissionDenied || r.Code == connect.CodeNotFound) {
		return r.WithHint("Make a new token on the control plane: dtctl tokens add --type=node")
	}
	return err
}

// take checks and saves what the control plane certified.
func (m *member) take(answer *dtv1.JoinResponse) (*credentials, error) {
	saved := fromJoin(answer, m.control.address)
	c, err := saved.check(m.keys)
	if err != nil {
		return nil, fmt.Errorf("the control plane's answer: %w", err)
	}
	m.saving.Lock()
	defer m.saving.Unlock()
	if err := saved.save(m.dir); err != nil {
		return nil, fmt.Errorf("cannot save the node's identity: %w", err)
	}
	return c, nil
}

// renew certifies the keys again.
func (m *member) renew(ctx context.Context) (*credentials, error) {
	public, err := x509.MarshalPKIXPublicKey(&m.keys.tls.PublicKey)
	if err != nil {
		return nil, err
	}
	client, _ := m.control.current()
	answer, err := call(ctx, client.Renew, &dtv1.RenewRequest{
		Node: m.info, SshPublicKey: m.keys.host.Marshal(), TlsPublicKey: public,
	})
	if err != nil {
		return nil, m.control.explain("cannot renew the node's certificates", err)
	}
	return m.take(answer)
}

// keeper keeps a state in file, which is believed by the authorities in the
// node's identity.
func (m *member) keeper(file stateStore) *keeper {
	return &keeper{file: file, anchors: m.userAuthorities, trust: m.trustUserAuthorities}
}

func (m *member) userAuthorities() ([]gossh.PublicKey, error) {
	saved, err := loadIdentity(m.dir)
	if err != nil || saved == nil {
		return nil, err // by none, nothing is believed
	}
	var keys []gossh.PublicKey
	for _, wire := range saved.UserAuthorities {
		key, err := gossh.ParsePublicKey(wire)
		if err != nil {
			return nil, fmt.Errorf("%s: a user authority: %w", identityFile, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func (m *member) trustUserAuthorities(keys []gossh.PublicKey) error {
	m.saving.Lock()
	defer m.saving.Unlock()
	saved, err := loadIdentity(m.dir)
	if err != nil || saved == nil {
		return cmp.Or(err, errors.New("the node's identity is gone"))
	}
	wires := make([][]byte, 0, len(keys))
	for _, key := range keys {
		wires = append(wires, key.Marshal())
	}
	if equal(saved.UserAuthorities, wires) {
		return nil
	}
	saved.UserAuthorities = wires
	return saved.save(m.dir)
}
