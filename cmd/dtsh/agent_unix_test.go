//go:build unix

package main

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"devicetrust/client"
	"devicetrust/client/agent"
	"devicetrust/client/clienttest"
)

// serves starts dtsh agent in the foreground at path, and gives how it ended.
func (s *seat) serves(path string, words ...string) <-chan result {
	s.t.Helper()
	ended := make(chan result, 1)
	go func() { ended <- s.dtsh(append([]string{"agent", "--socket=" + path}, words...)...) }()
	for range 2000 {
		if agent.Running(s.t.Context(), path) {
			return ended
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.t.Fatal("no agent")
	return nil
}

// socketPath is one whose name is short, with what a shell would take apart.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dta it's")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func TestAnAgentInTheForegroundSaysWhereItIs(t *testing.T) {
	for flag, set := range map[string]string{"--csh=false": "SSH_AUTH_SOCK='", "--csh": "setenv SSH_AUTH_SOCK '"} {
		s, path := newSeat(t), socketPath(t)
		ended := s.serves(path, flag)
		want(t, s.dtsh("agent", "--socket="+path), 1, "", `^ERROR: an agent is already running for this socket\nStop it with: dtsh agent --kill\n$`)
		if got := s.dtsh("agent", "--socket="+path, "--background"); got.status != 0 || !strings.Contains(got.stdout, "SSH_AUTH_SOCK=") || strings.Contains(got.stdout, "PID") {
			t.Errorf("beside a running one: %+v", got)
		}
		want(t, s.dtsh("agent", "--socket="+path, "--kill", flag), 0, `^echo Agent stopped;\n$`, "")
		got := <-ended
		if got.status != 0 || !strings.HasPrefix(got.stdout, set) || !strings.Contains(got.stdout, `it'\''s`) || got.stderr != "" {
			t.Errorf("%s: %+v", flag, got)
		}
		want(t, s.dtsh("agent", "--socket="+path, "--kill"), 1, "", `^ERROR: no agent is running for `)
	}
}

func TestWhyNoAgentStartedIsSaidInItsOwnWords(t *testing.T) {
	for said, want := range map[string][2]string{
		"ERROR: cannot listen\nName another place\n": {"cannot listen", "Name another place"},
		"ERROR: cannot listen\n":                     {"cannot listen", "See why with: dtsh agent --debug"},
		"":                                           {"it gave no reason", "See why with: dtsh agent --debug"},
		"panic: x\n\ngoroutine 1\n":                  {"panic: x", "See why with: dtsh agent --debug"},
	} {
		if message, hint := complaint(said); message != want[0] || hint != want[1] {
			t.Errorf("of %q: %q and %q", said, message, hint)
		}
	}
}

// listed is how many keys the agent at path shows.
func listed(t *testing.T, path string) int {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{0, 0, 0, 1, 11}); err != nil {
		t.Fatal(err)
	}
	var head [9]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		t.Fatal(err)
	}
	return int(head[8])
}

// Also where the person does not wait for the server.
func TestAKeyInThePersonsAgentGoesWithTheLogin(t *testing.T) {
	c, s, path := clienttest.Start(t), newSeat(t), socketPath(t)
	ended := newSeat(t).serves(path)
	s.env["SSH_AUTH_SOCK"] = path
	got := s.runs("correct horse\n", "login", "--proxy="+c.Proxy, "--user=alice", "--ca-pin="+c.Pin, "--password-stdin", "--add-keys-to-agent")
	if n := listed(t, path); got.status != 0 || n != 1 {
		t.Errorf("%d keys; %+v", n, got)
	}
	s.gone = true
	s.dtsh("logout")
	s.gone = false
	if n := listed(t, path); n != 0 {
		t.Errorf("%d keys after the logout", n)
	}
	want(t, s.dtsh("agent", "--socket="+path, "--kill"), 0, "Agent stopped", "")
	<-ended
}

func TestAnAgentServesTheLoginsThereAre(t *testing.T) {
	c, s, path := clienttest.Start(t), newSeat(t), socketPath(t)
	ended := s.serves(path)
	keys := func() int { return listed(t, path) }
	if n := keys(); n != 0 {
		t.Errorf("%d keys before the login", n)
	}
	s.login(c)
	if n := keys(); n != 2 {
		t.Errorf("%d keys, want the certificate and its key", n)
	}
	want(t, s.dtsh("logout"), 0, "All users logged out", "")
	if n := keys(); n != 0 {
		t.Errorf("%d keys after the logout", n)
	}
	want(t, s.dtsh("agent", "--socket="+path, "--kill"), 0, "Agent stopped", "")
	<-ended
}

func TestWhatSystemdHandsOverIsOneSocket(t *testing.T) {
	s, path := newSeat(t), socketPath(t)
	for fds, complaint := range map[string]string{"2": "sockets were handed over, want 1", "x": "sockets were handed over, want 1"} {
		s.env["LISTEN_PID"], s.env["LISTEN_FDS"] = strconv.Itoa(os.Getpid()), fds
		want(t, s.dtsh("agent", "--socket="+path), 1, "", complaint)
	}
	// Somebody else's.
	s.env["LISTEN_PID"] = strconv.Itoa(os.Getpid() + 1)
	ended := s.serves(path)
	want(t, s.dtsh("agent", "--socket="+path, "--kill"), 0, "Agent stopped", "")
	<-ended
}

// beside is what an agent in the background looks at, with one login of alice.
func beside(t *testing.T) (*seat, *upkeep) {
	t.Helper()
	c, s, path := clienttest.Start(t), newSeat(t), socketPath(t)
	c.Life = time.Hour
	s.login(c)
	home, err := client.OpenHome(s.env["DTSH_HOME"])
	if err != nil {
		t.Fatal(err)
	}
	l, err := agent.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	u := &upkeep{
		home: home, path: path, detached: true, now: func() time.Time { return s.now() },
		keys: agent.New(agent.Config{Source: home.AgentSource(slog.New(slog.DiscardHandler)), Now: s.now, Log: slog.New(slog.DiscardHandler)}),
	}
	if u.socket, err = os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	if u.step() {
		t.Fatal("it ends at once")
	}
	return s, u
}

func TestAnAgentInTheBackgroundEndsWhenItIsOfNoUse(t *testing.T) {
	for name, tt := range map[string]struct {
		happens func(*seat, *upkeep) error
		end     bool
	}{
		"nothing":       {func(*seat, *upkeep) error { return nil }, false},
		"a logout":      {func(s *seat, _ *upkeep) error { want(s.t, s.dtsh("logout"), 0, ".", ""); return nil }, true},
		"no home":       {func(_ *seat, u *upkeep) error { return os.RemoveAll(u.home.Dir()) }, true},
		"no socket":     {func(_ *seat, u *upkeep) error { return os.Remove(u.path) }, true},
		"no keys, soon": {func(_ *seat, u *upkeep) error { return os.RemoveAll(filepath.Join(u.home.Dir(), "keys")) }, false},
		"another agent": {func(_ *seat, u *upkeep) error {
			if err := os.Remove(u.path); err != nil {
				return err
			}
			l, err := net.Listen("unix", u.path)
			if err == nil {
				t.Cleanup(func() { _ = l.Close() })
			}
			return err
		}, true},
		"an expired login": {func(s *seat, _ *upkeep) error {
			s.now = func() time.Time { return time.Now().Add(time.Hour + time.Minute) }
			return nil
		}, true},
		"a login that has just expired": {func(s *seat, u *upkeep) error {
			s.now = func() time.Time { return time.Now().Add(time.Hour - time.Minute) }
			if u.step() {
				return errors.New("it ends while the login is good")
			}
			s.now = func() time.Time { return time.Now().Add(time.Hour + time.Minute) }
			return nil
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, u := beside(t)
			if err := tt.happens(s, u); err != nil {
				t.Fatal(err)
			}
			if got := u.step(); got != tt.end {
				t.Errorf("it ends: %v, want %v", got, tt.end)
			}
			u.detached = false
			if u.step() {
				t.Error("one in the foreground ends")
			}
		})
	}
}
