package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"devicetrust/audit/event"
)

func newForwardingStock(t *testing.T, change ...func(*serverConfig)) (*testNode, *stock) {
	t.Helper()
	n := startNode(t, change...)
	n.decideBy(access(t, forwardsAll))
	return n, newStock(t, n, forwarder())
}

// background runs ssh until the test ends, and gives what it says on stderr.
func (s *stock) background(args ...string) *syncBuffer {
	s.t.Helper()
	var errs syncBuffer
	ctx, cancel := context.WithCancel(context.Background())
	cmd := s.command(ctx, append([]string{"-N", "-o", "ExitOnForwardFailure=yes", "-o", "StreamLocalBindUnlink=yes"}, append(args, tester+"@127.0.0.1")...)...)
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	return &errs
}

// reach talks to what is forwarded, once it is there.
func reach(t *testing.T, network, address string, what []byte) []byte {
	t.Helper()
	var conn net.Conn
	eventually(t, address+" is reached", func() bool {
		var err error
		conn, err = net.Dial(network, address)
		return err == nil
	})
	return talk(t, conn, what)
}

// freeAddress is one that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	l := tcpListener(t)
	defer l.Close()
	return l.Addr().String()
}

func TestAStockClientForwardsPortsAndSockets(t *testing.T) {
	_, ssh := newForwardingStock(t)
	what, sum := randomBytes(2 << 20)
	target := serveEach(t, tcpListener(t), sumOf).Addr().String()
	there, here := testerDir(t), testerDir(t)
	far := filepath.Join(there, "far")
	unix, err := net.Listen("unix", far)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(far, testerUID(), -1); err != nil {
		t.Fatal(err)
	}
	serveEach(t, unix, sumOf)
	local, fixed := freeAddress(t), freeAddress(t)
	near, remote := filepath.Join(here, "near"), filepath.Join(there, "remote")
	errs := ssh.background("-L", local+":"+target, "-L", near+":"+far,
		"-R", "0:"+target, "-R", fixed+":"+far, "-R", remote+":"+target)
	for network, addresses := range map[string][]string{"tcp": {local, fixed}, "unix": {near, remote}} {
		for _, address := range addresses {
			if got := reach(t, network, address, what); string(got) != sum {
				t.Errorf("%s: %q", address, got)
			}
		}
	}
	var chosen string
	eventually(t, "it has a port", func() bool {
		m := regexp.MustCompile(`Allocated port (\d+) `).FindStringSubmatch(errs.String())
		if m != nil {
			chosen = m[1]
		}
		return m != nil
	})
	for _, host := range []string{"127.0.0.1", "::1"} {
		if host == "::1" && !hasIPv6() {
			continue
		}
		if got := reach(t, "tcp", net.JoinHostPort(host, chosen), what); string(got) != sum {
			t.Errorf("%s: %q", host, got)
		}
	}
}

func hasIPv6() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err == nil {
		l.Close()
	}
	return err == nil
}

func TestAStockClientIsAProxy(t *testing.T) {
	_, ssh := newForwardingStock(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "a page") }))
	defer web.Close()
	out, errs, status := ssh.run("GET / HTTP/1.0\r\n\r\n", "-W", web.Listener.Addr().String(), tester+"@127.0.0.1")
	if !strings.HasSuffix(out, "a page") || status != 0 {
		t.Errorf("-W: %q, %q, %d", out, errs, status)
	}
	socks := freeAddress(t)
	ssh.background("-D", socks)
	eventually(t, "it is a proxy", func() bool { c, err := net.Dial("tcp", socks); _ = err == nil && c.Close() == nil; return err == nil })
	got, err := exec.CommandContext(t.Context(), "curl", "-sS", "--noproxy", "", "--socks5-hostname", socks, web.URL).CombinedOutput()
	if err != nil || string(got) != "a page" {
		t.Errorf("-D: %v, %q", err, got)
	}
	_, errs, status = ssh.run("", "-W", freeAddress(t), tester+"@127.0.0.1")
	if status != 255 || !strings.Contains(errs, "connect failed: connection refused") {
		t.Errorf("-W where nobody is: %q, %d", errs, status)
	}
}

func TestAStockClientIsToldWhyItMayNotForward(t *testing.T) {
	n := startNode(t)
	ssh := newStock(t, n, forwarder())
	at := tester + "@127.0.0.1"
	_, errs, status := ssh.run("", "-W", "localhost:1", at)
	if status != 255 || !strings.Contains(errs, `administratively prohibited: no role of user "alice" has port_forwarding`) {
		t.Errorf("-W: %q, %d", errs, status)
	}
	out, errs, status := ssh.run("", "-R", "0:localhost:1", at, "echo hello")
	if out != "hello\n" || status != 0 || !strings.Contains(errs, "remote port forwarding failed") {
		t.Errorf("-R: %q, %q, %d", out, errs, status)
	}
}

func TestAStockClientsAgentIsReached(t *testing.T) {
	n, ssh := newForwardingStock(t)
	dir := t.TempDir()
	agent := filepath.Join(testerDir(t), "agent")
	command := exec.Command("ssh-agent", "-D", "-a", agent)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = command.Process.Kill(); _ = command.Wait() }()
	eventually(t, "an agent", func() bool { _, err := os.Stat(agent); return err == nil })
	ssh.env = []string{"SSH_AUTH_SOCK=" + agent}
	key := filepath.Join(dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "of-the-laptop", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v, %s", err, out)
	}
	add := exec.Command("ssh-add", "-q", key)
	add.Env = append(os.Environ(), ssh.env...)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v, %s", err, out)
	}
	at := tester + "@127.0.0.1"
	out, errs, status := ssh.run("", "-A", at, "ssh-add -l; ssh-add -l; stat -c '%a %u' $SSH_AUTH_SOCK $(dirname $SSH_AUTH_SOCK); echo $SSH_AUTH_SOCK")
	if strings.Count(out, "of-the-laptop") != 2 || !strings.Contains(out, fmt.Sprintf("600 %d\n700 %d\n/tmp/ssh-", testerUID(), testerUID())) || status != 0 {
		t.Errorf("%q, %q, %d", out, errs, status)
	}
	socket := strings.TrimSpace(out[strings.LastIndex(out, "/tmp/ssh-"):])
	eventually(t, "the folder is removed", func() bool { _, err := os.Stat(filepath.Dir(socket)); return err != nil })
	if e := n.recorded(event.AgentForward); !e.Success || e.SessionID != n.recorded(event.SessionStart).SessionID || e.TrustedDevice == nil {
		t.Errorf("%+v", e)
	}
	if out, _, _ := ssh.run("", at, "echo no $SSH_AUTH_SOCK"); out != "no\n" {
		t.Errorf("a session that did not ask: %q", out)
	}
}

func TestAStockClientsDisplayIsReached(t *testing.T) {
	home := testerDir(t)
	n, ssh := newForwardingStock(t, func(c *serverConfig) {
		passwd, group := testPasswd()
		passwd = strings.Replace(passwd, "::/:/bin/sh\nhomeless", "::"+home+":/bin/sh\nhomeless", 1)
		c.accounts = testAccounts(t, passwd, group, "")
	})
	// An X server of the person's, that takes its own cookie only.
	asked := make(chan []byte, 1)
	var screen net.Listener
	number := 500
	eventually(t, "a free display", func() (ok bool) {
		number++
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 6000+number))
		screen = l
		return err == nil
	})
	serveEach(t, screen, func(conn net.Conn) {
		setup := make([]byte, 12+20+16)
		_, _ = io.ReadFull(conn, setup)
		asked <- setup
		_, _ = io.WriteString(conn, "welcome")
		conn.Close()
	})
	laptop := t.TempDir()
	ssh.env = []string{fmt.Sprintf("DISPLAY=localhost:%d.0", number), "XAUTHORITY=" + filepath.Join(laptop, "xauthority")}
	real := strings.Repeat("a1", 16)
	xauth := exec.Command("xauth", "add", fmt.Sprintf("unix:%d", number), "MIT-MAGIC-COOKIE-1", real)
	xauth.Env = append(os.Environ(), ssh.env...)
	if out, err := xauth.CombinedOutput(); err != nil {
		t.Fatalf("%v, %s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := ssh.command(ctx, "-Y", tester+"@127.0.0.1", "echo $DISPLAY; xauth list; cat")
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	lines.Scan()
	display := lines.Text()
	lines.Scan()
	f := strings.Fields(lines.Text())
	at := regexp.MustCompile(`^localhost:(\d+)\.0$`).FindStringSubmatch(display)
	if at == nil || len(f) != 3 || f[1] != "MIT-MAGIC-COOKIE-1" || f[2] == real {
		t.Fatalf("%q, %q", display, f)
	}
	there, _ := strconv.Atoi(at[1])
	cookie, err := hex.DecodeString(f[2])
	if err != nil {
		t.Fatal(err)
	}
	setup := append([]byte("l\x00\x0b\x00\x00\x00\x12\x00\x10\x00\x00\x00MIT-MAGIC-COOKIE-1\x00\x00"), cookie...)
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", 6000+there))
	if err != nil {
		t.Fatal(err)
	}
	if uid := socketUID(t, conn.RemoteAddr()); uid != testerUID() {
		t.Errorf("the display belongs to %d", uid)
	}
	if _, err := conn.Write(setup); err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(conn)
	want, _ := hex.DecodeString(real)
	if string(got) != "welcome" || !bytes.HasSuffix(<-asked, want) {
		t.Errorf("%q", got)
	}
	conn.Close()
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	eventually(t, "the display is gone", func() bool { _, err := net.Dial("tcp", conn.RemoteAddr().String()); return err != nil })
	if e := n.recorded(event.X11); !e.Success || e.SessionID == "" {
		t.Errorf("%+v", e)
	}
	if strings.Contains(n.log.String(), f[2]) {
		t.Error("the cookie is in the log")
	}
}
