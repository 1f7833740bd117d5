//go:build unix

package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"devicetrust/api"
)

func TestTheSocketIsItsOwnersOnly(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "new", "agent.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = l.Close()
		if _, err := os.Stat(filepath.Dir(path)); !os.IsNotExist(err) {
			t.Errorf("the folder is left: %v", err)
		}
	}()
	for p, want := range map[string]os.FileMode{filepath.Dir(path): 0o700, path: 0o600, path + ".lock": 0o600} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", p, info.Mode(), err)
		}
	}
	if os.Getuid() == 0 {
		as := func(uid int) bool { return connectsAs(t, path, uid) }
		// Whoever gets by the folder and the mode is still somebody else.
		for _, p := range []string{dir, filepath.Dir(path)} {
			if err := os.Chmod(p, 0o711); err != nil { //nolint:gosec // that is the test
				t.Fatal(err)
			}
		}
		if err := os.Chmod(path, 0o666); err != nil { //nolint:gosec // that is the test
			t.Fatal(err)
		}
		a := New(Config{Source: nobody{}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = a.Serve(ctx, l) }()
		defer func() { cancel(); <-done }()
		if as(65534) {
			t.Error("another user was answered")
		}
		if !as(0) {
			t.Error("the owner was not answered")
		}
	}
}

// connectsAs tells whether the user with that ID is answered. It is done in a
// program of its own: the IDs of a process are those of all its threads.
func connectsAs(t *testing.T, path string, uid int) bool {
	t.Helper()
	cmd := helperCommand(t, "connect", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.Contains(string(out), "answered")
}

// A socket in /tmp can be made by whoever is first, who is then given keys.
func TestAnAgentOfSomebodyElseIsNoneOfOurs(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("another user's socket needs root")
	}
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // that is the test
		t.Fatal(err)
	}
	path := filepath.Join(dir, "agent.sock")
	cmd := helperCommand(t, "listen", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	if _, err := stdout.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if Running(t.Context(), path) {
		t.Error("it is taken for ours")
	}
	if c, err := DialOwn(t.Context(), path); err == nil {
		_ = c.Close()
		t.Error("it would be given keys")
	}
	if err := CheckPlace(path); err == nil {
		t.Error("its place is said to be ours alone")
	}
}

func TestALeftOverSocketIsReplacedAndARunningAgentIsNot(t *testing.T) {
	path := filepath.Join(shortDir(t), "agent.sock")
	left, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	// Another program's agent, which does not know the lock.
	if _, err := Listen(path); !errors.Is(err, ErrRunning) {
		t.Errorf("beside another agent: %v", err)
	}
	_ = left.Close()
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); !errors.Is(err, ErrRunning) {
		t.Errorf("a second agent: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
	// It is removed only where it is still ours.
	second, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, nil)
	_ = second.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("somebody else's file has gone: %v", err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("a file was replaced")
	}
}

func TestAFolderThatOthersWriteToIsRefused(t *testing.T) {
	dir := shortDir(t)
	for _, mode := range []os.FileMode{0o770, 0o777, 0o1777} {
		if err := os.Chmod(dir, mode); err != nil { //nolint:gosec // that is the test
			t.Fatal(err)
		}
		if l, err := Listen(filepath.Join(dir, "agent.sock")); err == nil {
			t.Errorf("%o: listens", mode)
			_ = l.Close()
		}
	}
	long := filepath.Join(dir, strings.Repeat("x", maxPath))
	if _, err := Listen(long); err == nil {
		t.Error("a path that no socket has")
	}
}

func TestAPlaceWhereNoSocketCanBeIsToldWithARemedy(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	listen := func(path string) error { _, err := Listen(path); return err }
	for _, tt := range []struct {
		make func(string) error
		path string
	}{
		{listen, filepath.Join(file, "s")}, {listen, filepath.Join(dir, strings.Repeat("x", maxPath))}, {listen, file},
		{CheckPlace, filepath.Join(file, "s")},
	} {
		err := tt.make(tt.path)
		r, ok := errors.AsType[*api.Refusal](err)
		if !ok || !strings.HasPrefix(r.Message, "cannot listen on ") || strings.Count(r.Message, dir) != 1 || !strings.Contains(r.Hint, "--socket=PATH") {
			t.Errorf("got %v, hint %q", err, r.Hint)
		}
	}
}

func TestAHomeWithALongPathHasASocketElsewhere(t *testing.T) {
	long := "/home/" + strings.Repeat("x", 100)
	for _, c := range []struct{ home, runtime, want string }{
		{"/home/alice/.dtsh", "/run/user/1", "/home/alice/.dtsh/agent.sock"},
		{long, "/run/user/1", "/run/user/1/dtsh-"},
		{long, "", "/tmp/dtsh-"},
		{long, "relative", "/tmp/dtsh-"},
		{long, long, "/tmp/dtsh-"},
	} {
		got := SocketPath(c.home, c.runtime, "/tmp")
		if !strings.HasPrefix(got, c.want) || len(got) > maxPath {
			t.Errorf("%q: %q", c, got)
		}
	}
	if SocketPath(long, "", "/tmp") == SocketPath(long+"y", "", "/tmp") {
		t.Error("two homes have one socket")
	}
}

func TestAnAgentThatIsAskedToStopEndsAndLeavesNothing(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "agent.sock")
	for range 50 {
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		a := New(Config{Source: nobody{}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		var left []os.DirEntry
		done := make(chan error, 1)
		go func() {
			err := a.Serve(t.Context(), l)
			// The program would end now.
			left, _ = os.ReadDir(dir)
			done <- err
		}()
		if !Running(t.Context(), path) {
			t.Error("not running")
		}
		if err := Stop(t.Context(), path); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil || len(left) > 0 {
			t.Fatalf("%v, left %v", err, left)
		}
		if Running(t.Context(), path) || Stop(t.Context(), path) == nil {
			t.Error("still running")
		}
	}
}

func TestAnAgentThatHasStoppedLeavesItsPlaceToTheNext(t *testing.T) {
	path := filepath.Join(shortDir(t), "agent.sock")
	for range 200 {
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		a := New(Config{Source: nobody{}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		done := make(chan error, 1)
		go func() { done <- a.Serve(t.Context(), l) }()
		if err := Stop(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Fatalf("the socket is still there: %v", err)
		}
		defer func() { <-done }()
	}
}
