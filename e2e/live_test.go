package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"

	"devicetrust/e2e/stage"
)

// alive is what somebody has open on a server, by OpenSSH and the certificate
// of a profile: a shell on a terminal, and by a connection of its own a port
// that is forwarded, through which somebody talks.
type alive struct {
	user   string
	begun  time.Time
	ssh    []string // options, and whom to reach
	shell  *client
	tty    *os.File
	screen *screen
	tunnel *client
	talk   net.Conn
}

// client is a program with what it says of errors.
type client struct {
	*exec.Cmd
	errors bytes.Buffer
	ended  chan struct{}
}

func (c *client) watch() {
	c.ended = make(chan struct{})
	go func() {
		defer close(c.ended)
		_ = c.Wait() // the state says how it ended
	}()
}

// over waits until it has ended as ssh does that was cut off.
func (c *client) over() error {
	err := stage.Poll(context.Background(), func() bool { return c.hasEnded() })
	if err != nil {
		return fmt.Errorf("it goes on: %w", err)
	}
	if status := c.ProcessState.ExitCode(); status != 255 {
		return fmt.Errorf("exit status %d, not 255: %s", status, c.errors.String())
	}
	return nil
}

func (c *client) hasEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// live NAME LOGIN@SERVER opens a shell on a terminal and a forwarded port with
// the certificate of the profile, of which a copy stays when that is gone.
func cmdLive(ts *testscript.TestScript, neg bool, args []string) {
	s := setOf(ts, neg)
	usage(ts, args, 2, "live NAME LOGIN@SERVER")
	login, server, _ := strings.Cut(args[1], "@")
	node := s.daemons[server]
	if node == nil {
		ts.Fatalf("there is no server %s", server)
	}
	a := &alive{begun: time.Now(), screen: &screen{}}
	certificate, key := a.whose(ts)
	own := ts.MkAbs(args[0] + ".key")
	for from, to := range map[string]string{key: own, certificate: own + "-cert.pub"} {
		ts.Check(os.WriteFile(to, []byte(ts.ReadFile(from)), 0o600))
	}
	host, port, err := net.SplitHostPort(node.Addr)
	ts.Check(err)
	a.ssh = []string{
		"-F", "none", "-i", own, "-o", "CertificateFile=" + own + "-cert.pub", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
		"-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=INFO",
		"-p", port, login + "@" + host,
	}
	ts.Defer(a.close)
	ts.Check(a.openShell())
	ts.Check(a.openTunnel(ts))
	s.alive[args[0]] = a
}

// whose sets the user, and gives the files of the profile.
func (a *alive) whose(ts *testscript.TestScript) (certificate, key string) {
	ts.Check(ts.Exec("dtsh", "status", "--format=json"))
	var status struct {
		Username    string `json:"username"`
		Certificate string `json:"ssh_certificate"`
		Key         struct {
			Path string `json:"path"`
		} `json:"key"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &status))
	if status.Key.Path == "" {
		ts.Fatalf("live: the key is in the TPM, and nothing of it stays: log in with --key=software")
	}
	a.user = status.Username
	return status.Certificate, status.Key.Path
}

func (a *alive) openShell() (err error) {
	a.shell = &client{Cmd: exec.Command("ssh", append([]string{"-tt"}, a.ssh...)...)}
	a.shell.Env = append(os.Environ(), "TERM=xterm")
	if a.tty, err = pty.Start(a.shell.Cmd); err != nil {
		return err
	}
	go func() { _, _ = a.screen.ReadFrom(a.tty) }()
	a.shell.watch()
	return a.types()
}

// types tells whether the shell answers.
func (a *alive) types() error {
	if _, err := a.tty.WriteString("echo rea''dy\n"); err != nil {
		return err
	}
	return a.screen.wait("ready")
}

func (a *alive) openTunnel(ts *testscript.TestScript) error {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ts.Defer(func() { other.Close() })
	go func() {
		for {
			conn, err := other.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				conn.Close()
			}()
		}
	}()
	// Short: a path may be longer than a socket's can be.
	dir, err := os.MkdirTemp("", "dt-live")
	if err != nil {
		return err
	}
	ts.Defer(func() { os.RemoveAll(dir) })
	socket := dir + "/s"
	a.tunnel = &client{Cmd: exec.Command("ssh", append([]string{"-N", "-L", socket + ":" + other.Addr().String()}, a.ssh...)...)}
	a.tunnel.Stderr = &a.tunnel.errors
	if err := a.tunnel.Start(); err != nil {
		return err
	}
	a.tunnel.watch()
	err = stage.Poll(context.Background(), func() bool {
		a.talk, err = net.Dial("unix", socket)
		return err == nil || a.tunnel.hasEnded()
	})
	if a.talk == nil {
		return fmt.Errorf("no tunnel: %s %w", a.tunnel.errors.String(), errors.Join(err, errNoTunnel))
	}
	return a.talks()
}

var errNoTunnel = errors.New("nobody listens")

// talks tells whether what is said through the tunnel comes back.
func (a *alive) talks() error {
	_ = a.talk.SetDeadline(time.Now().Add(time.Minute)) // a socket takes it
	if _, err := a.talk.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(a.talk, make([]byte, 1))
	return err
}

// silent waits until nothing comes through the tunnel any more.
func (a *alive) silent() error {
	_ = a.talk.SetDeadline(time.Now().Add(time.Minute))
	if n, err := a.talk.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("what is forwarded goes on: %w", err)
	}
	return nil
}

func (a *alive) close() {
	for _, c := range []*client{a.shell, a.tunnel} {
		if c != nil && c.ended != nil {
			_ = c.Process.Kill()
			<-c.ended
		}
	}
	if a.tty != nil {
		a.tty.Close()
	}
	if a.talk != nil {
		a.talk.Close()
	}
}

func liveOf(ts *testscript.TestScript, neg bool, args []string, form string) (*set, *alive) {
	s := setOf(ts, neg)
	usage(ts, args, strings.Count(form, " "), form)
	a := s.alive[args[0]]
	if a == nil {
		ts.Fatalf("nothing of %s is live", args[0])
	}
	return s, a
}

// cut NAME PATTERN wants all of it to be over, as PATTERN says: on the terminal,
// to whoever tries the certificate again, and in the record.
func cmdCut(ts *testscript.TestScript, neg bool, args []string) {
	s, a := liveOf(ts, neg, args, "cut NAME PATTERN")
	pattern := regexp.MustCompile(args[1])
	begun := time.Now()
	ts.Check(a.shell.over())
	ts.Check(a.silent())
	ts.Check(a.tunnel.over())
	ts.Logf("over after %s", time.Since(begun).Round(time.Millisecond))
	if stage.Poll(context.Background(), func() bool { return pattern.MatchString(a.screen.String()) }) != nil {
		ts.Fatalf("the terminal says %q", a.screen.String())
	}
	var told bytes.Buffer
	again := exec.Command("ssh", append(a.ssh, "true")...)
	again.Stderr = &told
	if err := again.Run(); err == nil || !pattern.Match(told.Bytes()) {
		ts.Fatalf("the certificate was tried again: %v, %s", err, told.String())
	}
	for _, kind := range []string{"session.end", "session.rejected", "port"} {
		if err := stage.Poll(context.Background(), func() bool { return a.recorded(s.daemons["authd"], kind, pattern) }); err != nil {
			ts.Fatalf("there is no %s of user %s that says %s", kind, a.user, args[1])
		}
	}
	a.close()
	delete(s.alive, args[0])
}

// recorded tells whether there is such an event since it began.
func (a *alive) recorded(authd *stage.Daemon, kind string, pattern *regexp.Regexp) bool {
	out, err := authd.DTCtl(context.Background(), "audit", "ls", "--type="+kind, "--user="+a.user, "--failed", "--format=json")
	if err != nil {
		return false
	}
	var events []struct {
		Time    time.Time `json:"time"`
		Message string    `json:"message"`
	}
	if json.Unmarshal([]byte(out), &events) != nil {
		return false
	}
	for _, e := range events {
		if e.Time.After(a.begun) && pattern.MatchString(e.Message) {
			return true
		}
	}
	return false
}

// goes-on NAME wants the shell and the tunnel of it to answer.
func cmdGoesOn(ts *testscript.TestScript, neg bool, args []string) {
	_, a := liveOf(ts, neg, args, "goes-on NAME")
	ts.Check(a.types())
	ts.Check(a.talks())
}

// closed NAME PATTERN wants what is forwarded to be over while the shell, on
// whose connection it is not, goes on.
func cmdClosed(ts *testscript.TestScript, neg bool, args []string) {
	s, a := liveOf(ts, neg, args, "closed NAME PATTERN")
	pattern := regexp.MustCompile(args[1])
	ts.Check(a.silent())
	ts.Check(a.types())
	ts.Check(stage.Poll(context.Background(), func() bool { return a.recorded(s.daemons["authd"], "port", pattern) }))
}
