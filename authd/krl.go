package authd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/ca"
	"devicetrust/identity"
	"devicetrust/identity/krl"
	"devicetrust/policy"
	"devicetrust/store"
)

// signedKRL is a revocation list with the signature over it. It does not
// change.
type signedKRL struct {
	revoked []policy.Revocation
	list    []byte
	armored []byte // the signature
	etag    string

	// sequence is the store's change that it was last found to be of, and until
	// when it is that of without another one.
	sequence uint64
	until    time.Time
}

// krlMaker makes the list of revoked certificates that any sshd can read, once
// for each change however many ask for it: anybody may.
type krlMaker struct {
	s      *Server
	latest atomic.Pointer[signedKRL] // nil where there is none yet

	// turn is held by the one call that makes a list; no other is made before
	// rest, which it guards.
	turn chan struct{}
	rest time.Time

	// make is next; tests stand in for it to count.
	make func(ctx context.Context, now time.Time) (*signedKRL, error)
}

func newKRLMaker(s *Server) *krlMaker {
	m := &krlMaker{s: s, turn: make(chan struct{}, 1)}
	m.make = m.next
	return m
}

// current gives the list of what the store has now.
func (m *krlMaker) current(ctx context.Context) (*signedKRL, error) {
	if k, err := m.known(ctx); k != nil || err != nil {
		return k, err
	}
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-m.turn }()
	// Somebody else may have made it meanwhile.
	if k, err := m.known(ctx); k != nil || err != nil {
		return k, err
	}
	pause := time.NewTimer(m.rest.Sub(m.s.now()))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	// Whoever asks and leaves must not have others begin from the beginning.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), krlTimeout)
	defer cancel()
	began := m.s.now()
	k, err := m.make(ctx, began)
	m.rest = m.s.now().Add(krlRest * m.s.now().Sub(began))
	if err != nil {
		return nil, err
	}
	m.latest.Store(k)
	return k, nil
}

// known is the latest list, where the store has nothing newer.
func (m *krlMaker) known(ctx context.Context) (*signedKRL, error) {
	ctx, cancel := context.WithTimeout(ctx, feedLookTimeout)
	defer cancel()
	var sequence uint64
	err := m.s.db.Read(ctx, func(tx *store.Tx) (err error) {
		sequence, err = tx.Sequence()
		return err
	})
	k := m.latest.Load()
	if err != nil || k == nil || k.sequence != sequence || !m.s.now().Before(k.until) {
		return nil, err
	}
	return k, nil
}

// next is the list as of now. One that says the same as the latest is that one:
// what servers have fetched is then still the newest.
func (m *krlMaker) next(ctx context.Context, now time.Time) (*signedKRL, error) {
	k := &signedKRL{until: now.Add(krlLife)}
	err := m.s.db.Read(ctx, func(tx *store.Tx) (err error) {
		if k.sequence, err = tx.Sequence(); err != nil {
			return err
		}
		state, err := m.s.policyState(tx)
		if err != nil {
			return err
		}
		for _, l := range state.Locks {
			if !l.Expires.IsZero() && l.Expires.Before(k.until) {
				k.until = l.Expires
			}
		}
		k.revoked, err = ca.RevokedForSSHD(tx, now, m.refused(tx, state, now))
		return err
	})
	if err != nil {
		return nil, err
	}
	if old := m.latest.Load(); old != nil && slices.Equal(old.revoked, k.revoked) {
		k.list, k.armored, k.etag = old.list, old.armored, old.etag
		return k, nil
	}
	return k, m.sign(k, now)
}

// refused asks policy whether somebody may hold a certificate at all: who is
// locked, or has a role that is none, may not.
func (m *krlMaker) refused(tx *store.Tx, state *policy.State, now time.Time) func(user, deviceID string) (bool, error) {
	type holder struct{ user, deviceID string }
	roles, answers := map[string][]string{}, map[holder]bool{}
	return func(user, deviceID string) (bool, error) {
		h := holder{user, deviceID}
		if answer, asked := answers[h]; asked {
			return answer, nil
		}
		if _, read := roles[user]; !read {
			u, err := m.s.login.GetUser(tx, user)
			if err != nil && !isNotFound(err) {
				return false, err
			}
			roles[user] = u.Spec.Roles // of nobody none, which policy refuses
		}
		d := policy.Decide(state, policy.Request{
			Action: policy.LogIn, Subject: policy.Subject{User: user, Roles: roles[user], DeviceID: deviceID}, Now: now,
		})
		answers[h] = !d.Allowed()
		return answers[h], nil
	}
}

// sign makes k's revoked into a list.
func (m *krlMaker) sign(k *signedKRL, now time.Time) error {
	l := krl.List{Version: k.sequence, Date: now, Comment: m.s.ca.Cluster()}
	for _, key := range m.s.ca.UserAuthorities() {
		l.Authorities = append(l.Authorities, krl.Authority{Key: key, Revoked: k.revoked})
	}
	var err error
	if k.list, err = l.Marshal(); err != nil {
		return err
	}
	signature, err := m.s.ca.SignMessage(identity.NamespaceKRL, k.list)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(k.list)
	k.etag = `"` + hex.EncodeToString(digest[:]) + `"`
	k.armored, err = identity.ArmorSignature(signature)
	return err
}

func (h adminService) ExportKRL(ctx context.Context, _ *connect.Request[dtv1.ExportKRLRequest]) (*connect.Response[dtv1.ExportKRLResponse], error) {
	k, err := h.s.krl.current(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.ExportKRLResponse{Krl: k.list, Signature: string(k.armored)}), nil
}

// serveKRL answers GET /v1/krl, and with the signature GET /v1/krl.sig. Both
// have the same ETag: it tells which go together.
func (s *Server) serveKRL(signature bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		k, err := s.krl.current(r.Context())
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				s.log.Error("the revocation list could not be made", "error", err)
			}
			http.Error(w, "the store does not answer", http.StatusServiceUnavailable)
			return
		}
		content, kind := k.list, "application/octet-stream"
		if signature {
			content, kind = k.armored, "text/plain; charset=utf-8"
		}
		h := w.Header()
		h.Set("Content-Type", kind)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-cache") // to be asked about each time
		h.Set("ETag", k.etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}

// holdKRL bounds what strangers may be fetching of ExportKRL at once: each
// answer is a copy, in two forms, other than that of GET /v1/krl. leave gives
// the share back.
func (s *Server) holdKRL(r *http.Request) (leave func(), ok bool) {
	if r.URL.Path != dtv1connect.AdminServiceExportKRLProcedure || !s.isStranger(r) {
		return func() {}, true
	}
	n := int64(maxAnswersBytesPerPlace) // not known yet: one at a time
	if k := s.krl.latest.Load(); k != nil {
		n = krlCopies * int64(len(k.list))
	}
	p, _ := r.Context().Value(peerKey{}).(peer)
	from := placeOf(p.addr)
	if !s.answers.take(from, n) {
		return nil, false
	}
	return func() { s.answers.give(from, n) }, true
}
