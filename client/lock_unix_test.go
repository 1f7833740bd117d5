//go:build unix

package client

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"devicetrust/client/clienttest"
)

func TestALoginIsNotKeptWhileAnotherProgramChangesTheHome(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	p := loggedIn(t, c, h, nil)
	before, err := p.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	other := loggedIn(t, c, newHome(t), nil)
	creds, err := other.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := h.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // rather than wait
	if _, err := p.keep(ctx, creds, nil, time.Now()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if now, err := p.Credentials(); err != nil || string(now.SSH.Marshal()) != string(before.SSH.Marshal()) {
		t.Errorf("something was changed, %v", err)
	}
	unlock()
	if _, err := p.keep(ctx, creds, nil, time.Now()); err != nil {
		t.Errorf("nobody has the lock any more: %v", err)
	}
}

func TestFirstLoginsAtOnceAllSucceedAndOneIsLeft(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	const logins = 8
	var all sync.WaitGroup
	for range logins {
		all.Go(func() {
			p, err := h.Profile(c.Proxy)
			if err == nil {
				_, err = p.Login(t.Context(), ask(c, nil), options())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	p, err := LoadProfile(h.Dir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Credentials(); err != nil {
		t.Error(err)
	}
	if got := len(p.replaced); got != logins-1 || len(c.Ended()) != 0 {
		t.Errorf("%d logins are remembered, want all but one of %d; ended %q", got, logins, c.Ended())
	}
}

// A pipe in the place of the file that is read last holds the reader up there.
func TestKeysThatAreReplacedWhileTheyAreReadAreReadAgain(t *testing.T) {
	c, h, elsewhere := clienttest.Start(t), newHome(t), newHome(t)
	p, next := loggedIn(t, c, h, nil), loggedIn(t, c, elsewhere, nil)
	want, err := next.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	last, err := os.ReadFile(next.keyPath("alice" + tlsCertSuffix))
	if err != nil {
		t.Fatal(err)
	}
	pipe := p.keyPath("alice" + tlsCertSuffix)
	if err := errors.Join(os.Remove(pipe), unix.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	replaced := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(pipe, os.O_WRONLY, 0) // once it is being read
		if err == nil {
			err = exchange(elsewhere.path("keys", fileName(c.Proxy)), h.path("keys", fileName(c.Proxy)))
			_, writeErr := f.Write(last)
			err = errors.Join(err, writeErr, f.Close())
		}
		replaced <- err
	}()
	got, err := p.Credentials()
	if err := <-replaced; err != nil {
		t.Fatal(err)
	}
	if err != nil || string(got.SSH.Marshal()) != string(want.SSH.Marshal()) {
		t.Errorf("got other keys, %v", err)
	}
}
