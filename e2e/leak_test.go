package e2e

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	gossh "golang.org/x/crypto/ssh"

	"devicetrust/e2e/stage"
)

// Ten thousand connections, good and bad, and what the server has of files,
// processes and memory is what it had; another person's session noticed
// nothing.
func TestNothingIsLeftAfterTenThousandConnections(t *testing.T) {
	s := startServer(t, "--diag-listen=127.0.0.1:0")
	metrics := s.metrics(t)
	alice, _, _ := s.person(t, "alice", "access")
	bob, _, _ := s.person(t, "bob", "access")
	other := s.echo(t, bob)

	target, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer target.Close()
	go func() {
		for {
			c, err := target.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "x")
			c.Close()
		}
	}()

	kinds := []struct {
		name  string
		count int
		visit func() error
	}{
		{"opens and closes", 3500, func() error { return s.say(nil, false) }},
		{"says garbage", 2500, func() error { return s.say(append([]byte("SSH-2.0-x\r\n"), bytes.Repeat([]byte{0xff}, 500)...), true) }},
		{"stops in the handshake", 2000, func() error { return s.say([]byte("SSH-2.0-x\r\n\x00\x00\x01\x0c\x04\x14abc"), false) }},
		{"is refused", 800, s.strangerIsRefused},
		{"runs a command", 800, func() error { return s.runsTrue(alice) }},
		{"looks at files", 100, func() error { return s.looksAtFiles(alice) }},
		{"forwards a port", 100, func() error { return s.forwards(alice, target.Addr().String()) }},
		{"is cut off in a session", 200, func() error { return s.cutOff(alice) }},
	}
	// What a server keeps once it has been used is not a leak.
	for _, k := range kinds {
		for range 20 {
			if err := k.visit(); err != nil {
				t.Fatalf("who %s: %v", k.name, err)
			}
		}
	}
	var before takes
	must(t, stage.Poll(t.Context(), func() bool {
		before = takesOf(t, s.noded.PID(), metrics)
		return before == takesOf(t, s.noded.PID(), metrics)
	}))

	var work []func() error
	for _, k := range kinds {
		for range k.count {
			work = append(work, k.visit)
		}
	}
	// A stride that has no divisor in common with their number mixes them.
	const stride = 7919
	var next atomic.Int64
	var all sync.WaitGroup
	for range 8 { // fewer than are dropped for being many
		all.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(len(work)) {
					return
				}
				if err := work[i*stride%int64(len(work))](); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for answered := 0; ; answered++ {
		must(t, other.answer())
		select {
		case <-done:
			t.Logf("%d connections, %d answers", len(work), answered)
		case <-time.After(10 * time.Millisecond):
			continue
		}
		break
	}

	after := takesOf(t, s.noded.PID(), metrics)
	err = stage.Poll(t.Context(), func() bool {
		after = takesOf(t, s.noded.PID(), metrics)
		return after.files <= before.files && after.children <= before.children &&
			after.goroutines <= before.goroutines && after.memory <= before.memory+memoryNoise
	})
	if err != nil {
		t.Errorf("before %+v, after %+v", before, after)
	}
	t.Logf("before %+v, after %+v", before, after)
	must(t, other.answer())
}

// memoryNoise, in KiB, is what a heap differs by from one collection to the
// next: a thousandth of a connection's 60 KiB, 10,000 times, would be more.
const memoryNoise = 16 << 10

// takes is what a process takes: open files, children, goroutines, resident
// memory (KiB).
type takes struct{ files, children, goroutines, memory int }

func takesOf(t testing.TB, pid int, metrics string) takes {
	t.Helper()
	goroutines := goroutinesOf(t, metrics) // whose connection has gone by then
	dir := fmt.Sprintf("/proc/%d", pid)
	files, err := os.ReadDir(dir + "/fd")
	must(t, err)
	children, err := filepath.Glob(dir + "/task/*/children")
	must(t, err)
	u := takes{files: len(files), goroutines: goroutines}
	for _, name := range children {
		text, _ := os.ReadFile(name) // a thread may have ended
		u.children += len(strings.Fields(string(text)))
	}
	status, err := os.ReadFile(dir + "/status")
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			u.memory, err = strconv.Atoi(strings.Fields(value)[0])
			must(t, err)
		}
	}
	return u
}

// metrics is where the server's are.
func (s *server) metrics(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(s.noded.Log)
	must(t, err)
	found := regexp.MustCompile(`msg=serving port=diag addr=(\S+)`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("no port of metrics in %s", text)
	}
	return "http://" + string(found[1]) + "/metrics"
}

func goroutinesOf(t testing.TB, metrics string) int {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	res, err := client.Get(metrics) //nolint:noctx // it has a time-out
	must(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(t, err)
	found := regexp.MustCompile(`(?m)^go_goroutines (\d+)$`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("no goroutines in %s", text)
	}
	n, err := strconv.Atoi(string(found[1]))
	must(t, err)
	return n
}

// say connects, writes, and leaves; or stays until the server has left.
func (s *server) say(text []byte, stay bool) error {
	c, err := net.Dial("tcp", s.noded.Addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = c.Write(text) // it may have left already
	if !stay {
		return nil
	}
	for b := make([]byte, 4096); err == nil; {
		_, err = c.Read(b)
	}
	if os.IsTimeout(err) {
		return fmt.Errorf("the server stays with who says %.20q", text)
	}
	return nil
}

func (s *server) strangerIsRefused() error {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	signer, err := gossh.NewSignerFromKey(key)
	if err != nil {
		return err
	}
	if c, err := s.dial(signer); err == nil {
		c.Close()
		return fmt.Errorf("a stranger entered")
	}
	return nil
}

func (s *server) runsTrue(signer gossh.Signer) error {
	c, err := s.dial(signer)
	if err != nil {
		return err
	}
	defer c.Close()
	session, err := c.NewSession()
	if err != nil {
		return err
	}
	return session.Run("true")
}

func (s *server) looksAtFiles(signer gossh.Signer) error {
	c, err := s.dial(signer)
	if err != nil {
		return err
	}
	defer c.Close()
	files, err := sftp.NewClient(c)
	if err != nil {
		return err
	}
	defer files.Close()
	_, err = files.ReadDir("/etc")
	return err
}

// forwards has a byte brought from the target, and listens.
func (s *server) forwards(signer gossh.Signer, target string) error {
	c, err := s.dial(signer)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	conn, err := c.Dial("tcp", target)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err
}

// cutOff leaves a session in the middle, as where a cable is pulled.
func (s *server) cutOff(signer gossh.Signer) error {
	tcp, err := net.Dial("tcp", s.noded.Addr)
	if err != nil {
		return err
	}
	defer tcp.Close()
	conn, channels, requests, err := gossh.NewClientConn(tcp, s.noded.Addr, &gossh.ClientConfig{
		User: s.login, Auth: []gossh.AuthMethod{gossh.PublicKeys(signer)}, HostKeyCallback: gossh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return err
	}
	session, err := gossh.NewClient(conn, channels, requests).NewSession()
	if err != nil {
		return err
	}
	if err := session.Start("cat /dev/zero"); err != nil {
		return err
	}
	return tcp.(*net.TCPConn).SetLinger(0) // reset, not closed
}
