package client

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"devicetrust/client/clienttest"
)

func TestAnAgentServesEachLoginAsItIsNow(t *testing.T) {
	one, two, h := clienttest.Start(t), clienttest.Start(t), newHome(t)
	m, _ := enrolledMachine(t, h)
	var log bytes.Buffer
	s := h.AgentSource(slog.New(slog.NewTextHandler(&log, nil)))
	look := func(want int) []string {
		t.Helper()
		all, err := s.Identities(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != want {
			t.Fatalf("%d identities, want %d; log %s", len(all), want, log.String())
		}
		var keys []string
		for _, id := range all {
			sig, err := id.Sign(t.Context(), []byte("hello"))
			if err != nil {
				t.Fatal(err)
			}
			if err := id.Certificate.Key.Verify([]byte("hello"), sig); err != nil {
				t.Error(err)
			}
			if id.Comment != "alice@example" || len(id.HostAuthorities) != 1 {
				t.Errorf("%+v", id)
			}
			keys = append(keys, string(id.Certificate.Key.Marshal()))
		}
		return keys
	}
	look(0)
	loggedIn(t, one, h, m.Prove)
	first := look(1)
	if again := look(1); again[0] != first[0] {
		t.Error("the same login is another one")
	}
	loggedIn(t, two, h, nil)
	look(2)
	p := loggedIn(t, one, h, m.Prove)
	for _, key := range look(2) {
		if key == first[0] {
			t.Error("a login that was replaced is served")
		}
	}
	before, err := p.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Renew(t.Context(), m, options()); err != nil {
		t.Fatal(err)
	}
	all, err := s.Identities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range all {
		if id.Certificate.Serial == before.SSH.Serial && bytes.Equal(id.Certificate.Key.Marshal(), before.SSH.Key.Marshal()) {
			t.Error("the certificate from before the renewal is served")
		}
	}
	if _, err := h.LogoutAll(t.Context(), options()); err != nil {
		t.Fatal(err)
	}
	look(0)
	if log.Len() > 0 {
		t.Errorf("log %s", log.String())
	}
}

func TestALoginThatCannotBeReadIsToldAndLeftOut(t *testing.T) {
	one, two, h := clienttest.Start(t), clienttest.Start(t), newHome(t)
	p := loggedIn(t, one, h, nil)
	loggedIn(t, two, h, nil)
	good, err := os.ReadFile(p.keyPath("alice"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.keyPath("alice"), []byte("bad"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s := h.AgentSource(slog.New(slog.NewTextHandler(&log, nil)))
	for range 2 {
		all, err := s.Identities(t.Context())
		if err != nil || len(all) != 1 {
			t.Errorf("%d identities, %v", len(all), err)
		}
	}
	// Its files are as they were, and are read all the same: permissions do not
	// show in the folder.
	if err := os.WriteFile(p.keyPath("alice"), good, 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Identities(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("repaired: %d identities, %v", len(all), err)
	}
	if n := strings.Count(log.String(), "cannot be used"); n != 1 {
		t.Errorf("told %d times: %s", n, log.String())
	}
}

func TestASignatureOfTheAgentsEndsWithItsConnection(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	m, _ := enrolledMachine(t, h)
	creds, err := loggedIn(t, c, h, m.Prove).Credentials()
	if err != nil {
		t.Fatal(err)
	}
	m.Chip.Close()
	ctx, cancel := context.WithCancel(t.Context())
	m.Chip.Address = hangs(t, cancel)
	if _, err := creds.signSSH(ctx, []byte("hello")); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
