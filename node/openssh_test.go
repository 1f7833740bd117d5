package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/identity"
)

// stock is OpenSSH's own client with a person's key and certificate.
type stock struct {
	t    *testing.T
	node *testNode
	args []string
	env  []string // beside what all have
}

// newStock certifies id. The client knows hosts by the cluster's authority
// only.
func newStock(t *testing.T, n *testNode, id identity.Identity) *stock {
	t.Helper()
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Fatalf("needs OpenSSH's client (Debian package openssh-client): %v", err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := gossh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	cert := n.cluster.certify(t, id, signer).PublicKey()
	_, port, _ := net.SplitHostPort(n.address)
	known := fmt.Appendf(nil, "@cert-authority * %s", gossh.MarshalAuthorizedKey(n.cluster.host.PublicKey()))
	return &stock{t: t, node: n, args: []string{
		"-F", "none", "-p", port, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "LogLevel=INFO", "-o", "ConnectTimeout=10", "-o", "HostKeyAlgorithms=ssh-ed25519-cert-v01@openssh.com",
		"-o", "UserKnownHostsFile=" + write("known_hosts", known), "-o", "GlobalKnownHostsFile=none",
		"-o", "CertificateFile=" + write("key-cert.pub", gossh.MarshalAuthorizedKey(cert)), "-i", write("key", pem.EncodeToMemory(block)),
	}}
}

func (s *stock) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ssh", append(append([]string{}, s.args...), args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LANG=C.UTF-8", "TERM=xterm"}, s.env...)
	return cmd
}

func (s *stock) run(stdin string, args ...string) (stdout, stderr string, status int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	cmd := s.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		s.t.Fatalf("ssh %q hangs; stderr %q", args, errs.String())
	}
	if cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestAStockClientRunsCommands(t *testing.T) {
	n := startNode(t)
	ssh := newStock(t, n, alice())
	out, errs, status := ssh.run("from stdin\n", tester+"@127.0.0.1", "cat; echo to stderr >&2; exit 42")
	if out != "from stdin\n" || errs != "to stderr\n" || status != 42 {
		t.Errorf("%q, %q, %d", out, errs, status)
	}
	out, _, status = ssh.run("echo $0; exit 5\n", tester+"@127.0.0.1")
	if out != "-sh\n" || status != 5 {
		t.Errorf("a shell: %q, %d", out, status)
	}
	out, _, status = ssh.run("", "-tt", tester+"@127.0.0.1", "tty; echo $TERM")
	if !strings.Contains(out, "/dev/pts/") || !strings.Contains(out, "xterm\r\n") || status != 0 {
		t.Errorf("a terminal: %q, %d", out, status)
	}
	_, _, status = ssh.run("", tester+"@127.0.0.1", "kill -KILL $$")
	if status != 255 {
		t.Errorf("killed: %d", status)
	}
}

func TestAStockClientIsToldOnceWhyItIsDenied(t *testing.T) {
	n := startNode(t)
	n.decideBy(access(t, requireDevice))
	ssh := newStock(t, n, alice())
	_, port, _ := net.SplitHostPort(n.address)
	_, errs, status := ssh.run("", "root@127.0.0.1", "true")
	want := fmt.Sprintf("access denied to root connecting to server:%s: access to resource requires a trusted device", port)
	lines := strings.Split(strings.ReplaceAll(strings.TrimSpace(errs), "\r", ""), "\n")
	if len(lines) != 3 || lines[0] != want || lines[1] != enrollHint || !strings.HasPrefix(lines[2], "root@127.0.0.1: Permission denied") || status != 255 {
		t.Errorf("%q, %d", lines, status)
	}
}

func TestAStockClientIsRefusedWhatIsNotThere(t *testing.T) {
	n := startNode(t)
	ssh := newStock(t, n, alice())
	at := tester + "@127.0.0.1"
	out, errs, status := ssh.run("", "-s", at, "netconf")
	if out != "" || status != 255 || !strings.Contains(errs, "subsystem request failed") {
		t.Errorf("netconf: %q, %q, %d", out, errs, status)
	}
}

func TestAStockClientSeesWhyItsSessionEnds(t *testing.T) {
	n := startNode(t)
	ssh := newStock(t, n, alice())
	done := make(chan string, 1)
	go func() {
		_, errs, _ := ssh.run("", tester+"@127.0.0.1", "echo up >&2; sleep 1000")
		done <- errs
	}()
	eventually(t, "it is up", func() bool { return n.sessions() == 1 })
	n.decideBy(access(t, requireDevice))
	if errs := <-done; !strings.Contains(errs, "requires a trusted device") {
		t.Errorf("%q", errs)
	}
}

func TestAStockClientIsToldThatNothingCanBeRecorded(t *testing.T) {
	n := startNode(t)
	n.spool.fill(10)
	out, errs, status := newStock(t, n, alice()).run("", tester+"@127.0.0.1", "echo ran")
	if out != "" || status != 255 || !strings.Contains(errs, "audit spool is full") {
		t.Errorf("%q, %q, %d", out, errs, status)
	}
}

func TestAStockClientWithItsOwnAlgorithmsGetsIn(t *testing.T) {
	n := startNode(t)
	ssh := newStock(t, n, alice())
	for _, option := range []string{
		"Ciphers=chacha20-poly1305@openssh.com", "Ciphers=aes256-gcm@openssh.com", "Ciphers=aes128-ctr",
		"KexAlgorithms=curve25519-sha256", "KexAlgorithms=curve25519-sha256@libssh.org",
	} {
		if _, errs, status := ssh.run("", "-o", option, tester+"@127.0.0.1", "true"); status != 0 {
			t.Errorf("%s: %d, %q", option, status, errs)
		}
	}
	for _, option := range []string{
		"KexAlgorithms=diffie-hellman-group14-sha1", "KexAlgorithms=diffie-hellman-group14-sha256", "Ciphers=aes128-cbc",
	} {
		if _, errs, status := ssh.run("", "-o", option, tester+"@127.0.0.1", "true"); status != 255 || !strings.Contains(errs, "no matching") {
			t.Errorf("%s: %d, %q", option, status, errs)
		}
	}
	if _, errs, status := ssh.run("", "-o", "Ciphers=aes128-ctr", "-o", "MACs=hmac-sha1-etm@openssh.com", tester+"@127.0.0.1", "true"); status != 255 {
		t.Errorf("SHA-1 MAC: %d, %q", status, errs)
	}
}
