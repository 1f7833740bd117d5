package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
)

// LogoutAll ends every login kept in h: at the servers where they can be
// reached, and here always: keys and certificates are removed. What remains
// is whom each profile trusts, and the device's enrollment. problems tells
// per dtauthd why certificates could not be revoked there; err, why something
// could not be removed. A profile that cannot be read goes too: it would keep
// the next login out.
func (h *Home) LogoutAll(ctx context.Context, o Options) (problems []error, err error) {
	leaving, problems, err := h.forgetLogins(ctx)
	for _, l := range leaving {
		if err := l.goodbye(ctx, o); err != nil {
			problems = append(problems, err)
		}
	}
	return problems, err
}

// leaver is a login that is forgotten here, and not yet ended at its server.
type leaver struct {
	profile *Profile
	creds   Credentials
	// replaced are earlier ones, which end with it.
	replaced []uint64
}

func (p *Profile) leaver(creds Credentials) *leaver {
	l := &leaver{profile: p, creds: creds}
	for _, r := range p.replaced {
		l.replaced = append(l.replaced, r.Serial)
	}
	return l
}

// forgetLogins does what LogoutAll does here, while nobody else changes the
// home. Servers are not asked meanwhile: one that does not answer would keep a
// login beside from being stored.
func (h *Home) forgetLogins(ctx context.Context) (leaving []*leaver, problems []error, err error) {
	unlock, err := h.Lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	profiles, damaged, err := h.profiles()
	if err != nil {
		return nil, nil, err
	}
	for _, path := range damaged {
		problems = append(problems, fmt.Errorf("the profile %s cannot be read", path))
		if err := os.Remove(path); err != nil {
			return nil, problems, unwritable(path, err)
		}
	}
	for _, p := range profiles {
		if p.User == "" {
			continue
		}
		creds, err := p.Credentials()
		if err != nil {
			problems = append(problems, err)
			continue
		}
		leaving = append(leaving, p.leaver(creds))
	}
	if err := os.RemoveAll(h.path("keys")); err != nil {
		return leaving, problems, unwritable(h.path("keys"), err)
	}
	for _, p := range profiles {
		p.User, p.Device, p.RenewableUntil, p.replaced = "", DeviceOutcome{}, time.Time{}, nil
		if err := p.save(); err != nil {
			return leaving, problems, err
		}
	}
	return leaving, problems, nil
}

// goodbye ends the login at the server. Expired ones have ended. Where its key
// is in the TPM, that has to answer in the time that the server has.
func (l leaver) goodbye(ctx context.Context, o Options) error {
	p := l.profile
	if l.creds.check(o.Now()) != nil {
		return nil
	}
	// The person may have given up by now; the server should still hear it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeTimeout)
	defer cancel()
	conn, err := dial(p.Proxy, p.Trust, l.creds.tls(), o)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Login.Logout(ctx, connect.NewRequest(&dtv1.LogoutRequest{ReplacedSerials: l.replaced}))
	o.log().Debug("logout", "server", p.Proxy, "error", err)
	if r, ok := errors.AsType[*api.Refusal](err); ok && r.Code == connect.CodeUnauthenticated {
		return nil // it has been ended already
	}
	return err
}

// profiles are all that are stored; damaged are the files of those that cannot
// be used.
func (h *Home) profiles() (all []*Profile, damaged []string, err error) {
	entries, err := os.ReadDir(h.path("profiles"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, unreadable(h.path("profiles"), err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" {
			continue
		}
		p, err := h.readProfile(strings.TrimSuffix(e.Name(), ".json"))
		if err != nil {
			damaged = append(damaged, h.path("profiles", e.Name()))
			continue
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *Profile) int { return strings.Compare(a.Proxy, b.Proxy) })
	return all, damaged, nil
}
