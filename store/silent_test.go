package store_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"devicetrust/store"
	"devicetrust/store/storetest"
)

// silencing is a way to PostgreSQL on which the connections that listen can be
// made silent without being closed, as by a firewall that forgot them.
type silencing struct {
	socket  string
	silence atomic.Pointer[chan struct{}] // nil: not yet; closed at the end
	wg      sync.WaitGroup
}

func (s *silencing) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", s.socket)
		if err != nil {
			_ = c.Close()
			return
		}
		born := s.silence.Load() // later ones are not silenced
		var listens atomic.Bool
		s.wg.Go(func() {
			_, _ = io.Copy(writerFunc(func(p []byte) (int, error) {
				if strings.Contains(string(p), "LISTEN dt_changes") {
					listens.Store(true)
				}
				return server.Write(p)
			}), c)
			_ = server.Close()
		})
		s.wg.Go(func() {
			_, _ = io.Copy(writerFunc(func(p []byte) (int, error) {
				if until := s.silence.Load(); listens.Load() && until != born {
					<-*until
					return 0, errors.New("it is over")
				}
				return c.Write(p)
			}), server)
			_ = c.Close()
		})
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// through opens the PostgreSQL store at address over l.
func through(t *testing.T, l net.Listener, address string) (*silencing, *store.DB) {
	t.Helper()
	u, err := url.Parse(strings.Replace(address, "@/", "@x/", 1))
	if err != nil {
		t.Fatal(err)
	}
	s := &silencing{socket: u.Query().Get("host") + "/.s.PGSQL.5432"}
	s.wg.Go(func() { s.serve(l) })
	db, err := store.Open(t.Context(), fmt.Sprintf("postgres://dt@%s%s?sslmode=disable", l.Addr(), u.Path), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s, db
}

func TestASilentConnectionDoesNotKeepChangesFromFollowers(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := storetest.PostgresURL(t)
	way, far := through(t, l, address)
	over := make(chan struct{})
	t.Cleanup(func() {
		close(over)
		if err := errors.Join(l.Close(), far.Close()); err != nil {
			t.Error(err)
		}
		way.wg.Wait()
	})
	ch := far.Follow(t.Context())
	near := storetest.OpenAt(t, address)
	write := func() {
		t.Helper()
		if err := near.Write(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if !woken(t, ch) {
		t.Fatal("it never listened")
	}
	way.silence.Store(&over)
	// What was on its way before may wake it once more.
	for drained := false; !drained; {
		select {
		case <-ch:
		case <-time.After(time.Second):
			drained = true
		}
	}
	write()
	select {
	case <-ch:
	case <-time.After(time.Minute):
		t.Fatal("a minute later the follower has not been woken")
	}
}
