package client

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/ssh"

	"devicetrust/client/agent"
)

// Logins are the profiles of a home that somebody is logged in with. Those that
// cannot be read are left out.
func (h *Home) Logins() ([]*Profile, error) {
	all, _, err := h.profiles()
	if err != nil {
		return nil, err
	}
	var logins []*Profile
	for _, p := range all {
		if p.User != "" {
			logins = append(logins, p)
		}
	}
	return logins, nil
}

// AgentSource are the logins of a home as an agent serves them. It reads a
// login again where its files have changed.
type AgentSource struct {
	home *Home
	log  *slog.Logger

	mu sync.Mutex
	// seen are the profiles by the name of their file; guarded by mu.
	seen map[string]seenLogin
}

var _ agent.Source = (*AgentSource)(nil)

// seenLogin is what was read, when the files were these.
type seenLogin struct {
	profile, keys fs.FileInfo // keys is nil where there is no folder
	// identity is nil where nobody is logged in, or the login cannot be read.
	identity *agent.Identity
	// failed is why it cannot be read; empty where it can.
	failed string
}

// AgentSource serves the logins of h. What cannot be read is told to log.
func (h *Home) AgentSource(log *slog.Logger) *AgentSource {
	return &AgentSource{home: h, log: log, seen: map[string]seenLogin{}}
}

// Identities implements agent.Source. The TPM is not asked before a signature.
func (s *AgentSource) Identities(context.Context) ([]agent.Identity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.home.path("profiles"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadable(s.home.path("profiles"), err)
	}
	var all []agent.Identity
	now := map[string]seenLogin{}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" {
			continue
		}
		l, ok := s.lookLocked(e.Name())
		if !ok {
			continue
		}
		now[e.Name()] = l
		if l.identity != nil {
			all = append(all, *l.identity)
		}
	}
	s.seen = now
	return all, nil
}

// lookLocked gives the login of the profile in the file name, as it was read
// before where nothing has changed since.
func (s *AgentSource) lookLocked(name string) (l seenLogin, ok bool) {
	// The files are looked at before they are read: what changes in between is
	// read once more than it has to be.
	profile, err := os.Stat(s.home.path("profiles", name))
	if err != nil {
		return l, false // gone
	}
	l.profile = profile
	stem := name[:len(name)-len(".json")]
	if keys, err := os.Stat(s.home.path("keys", stem)); err == nil {
		l.keys = keys
	}
	before := s.seen[name]
	if before.failed == "" && same(before.profile, l.profile) && same(before.keys, l.keys) {
		return before, true
	}
	identity, err := s.home.agentIdentity(stem)
	if err != nil {
		l.failed = err.Error()
	}
	if err != nil && l.failed != before.failed {
		s.log.Warn("a login cannot be used", "profile", s.home.path("profiles", name), "error", err)
	}
	l.identity = identity
	return l, true
}

// same tells whether a and b are of one file that has not changed. Whatever
// writes these files puts new ones in their place.
func same(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// agentIdentity is nil where nobody is logged in.
func (h *Home) agentIdentity(name string) (*agent.Identity, error) {
	p, err := h.readProfile(name)
	if err != nil {
		return nil, err
	}
	if p.User == "" {
		return nil, nil //nolint:nilnil // said above
	}
	creds, err := p.Credentials()
	if err != nil {
		return nil, err
	}
	hosts, err := p.HostAuthorities()
	if err != nil {
		return nil, err
	}
	return &agent.Identity{
		Certificate: creds.SSH, Comment: p.User + "@" + p.Cluster, Sign: creds.signSSH, HostAuthorities: hosts,
	}, nil
}

// signSSH signs data with the SSH key, in the time that ctx gives.
func (c Credentials) signSSH(ctx context.Context, data []byte) (*ssh.Signature, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	key := c.keys.ssh
	if inChip, ok := key.(*chipKey); ok {
		key = inChip.within(ctx)
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		return nil, err
	}
	return signer.Sign(nil, data)
}
