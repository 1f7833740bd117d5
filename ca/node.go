package ca

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/store"
)

// NodeRequest asks for a node's SSH host certificate and X.509 client
// certificate. Whether the node may bear the names is check's to see.
type NodeRequest struct {
	NodeID     string
	Name       string
	Hostname   string
	Principals []string // further names and addresses
	SSHKey     ssh.PublicKey
	TLSKey     []byte // PKIX DER
}

// IssueNode is IssueUser for a node: the same order, the same promises. The
// certificates live for NodeLife.
func (c *CA) IssueNode(ctx context.Context, req NodeRequest, check func(tx *store.Tx) error) (host *ssh.Certificate, tlsDER []byte, err error) {
	p, h, err := c.prepareNode(req) // 1.
	if err != nil {
		return nil, nil, err
	}
	r, err := c.record(ctx, p, check) // 2.–5.
	if err != nil {
		return nil, nil, c.refused(ctx, p.event, err)
	}
	s, err := c.sign(r) // 6.
	if err == nil {
		err = c.verifyNode(s, h, p) // 7.
	}
	if err != nil {
		return nil, nil, c.withdraw(ctx, r, err)
	}
	return s.ssh, s.tls.Raw, nil
}

func (c *CA) prepareNode(req NodeRequest) (prepared, identity.Host, error) {
	now := c.now()
	p, err := prepareKeys(req.SSHKey, req.TLSKey)
	if err != nil {
		return prepared{}, identity.Host{}, err
	}
	h := identity.Host{
		NodeID: req.NodeID, Names: hostNames(req),
		ValidAfter: now.Add(-skew), ValidBefore: c.notBeyondRoot(now.Add(NodeLife)),
	}
	for _, n := range h.Names {
		if err := identity.CheckHostName(n); err != nil {
			return prepared{}, identity.Host{}, api.Refuse(connect.CodeInvalidArgument, "%v", err)
		}
	}
	p.holder = holder{subject: req.NodeID}
	p.authority, p.now, p.validBefore = c.host, now, h.ValidBefore
	p.encodeSSH = func(serial uint64) (*ssh.Certificate, error) {
		h := h
		h.Serial = serial
		return h.SSHCertificate(req.SSHKey)
	}
	p.encodeTLS = func(serial uint64) (*x509.Certificate, error) {
		return identity.NodeTemplate(c.cluster, req.NodeID, serial, h.ValidAfter, h.ValidBefore)
	}
	p.event = event.Event{
		Type: event.CertCreate, User: "node:" + req.NodeID, Kind: "node", Name: req.Name,
		NodeID: req.NodeID, NodeName: req.Name, ValidUntil: h.ValidBefore.UTC(),
	}
	return p, h, nil
}

// hostNames are the principals, each once, in lower case as ssh compares them.
func hostNames(req NodeRequest) []string {
	var out []string
	for _, n := range append([]string{req.Name, req.Hostname}, req.Principals...) {
		if n = strings.ToLower(n); n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func (c *CA) verifyNode(s signed, h identity.Host, p prepared) error {
	for _, name := range h.Names {
		if err := (identity.HostCheck{Authorities: c.HostAuthorities(), Names: []string{name}, Now: p.now}).Check(s.ssh); err != nil {
			return fmt.Errorf("ca: own host certificate: %w", err)
		}
	}
	caller, err := identity.VerifyX509(s.tls, c.TLSAuthorities(), p.now)
	if err != nil {
		return fmt.Errorf("ca: own X.509 certificate: %w", err)
	}
	if caller.Kind() != identity.KindNode || caller.Name() != h.NodeID {
		return fmt.Errorf("ca: own X.509 certificate is %s %q's and not node %q's", caller.Kind(), caller.Name(), h.NodeID)
	}
	return nil
}
