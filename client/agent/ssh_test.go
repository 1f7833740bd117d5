package agent

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// server is an SSH server with a host certificate that lets in whom the cluster
// certifies, and tells each what its key was.
func (w *world) server(name string) (port string) {
	w.t.Helper()
	_, host := w.host(name)
	checker := &ssh.CertChecker{IsUserAuthority: func(k ssh.PublicKey) bool { return equal(k, w.userCA.PublicKey()) }}
	checker.SupportedCriticalOptions = nil
	tried := ""
	config := &ssh.ServerConfig{PublicKeyCallback: func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !strings.HasSuffix(tried, key.Type()+" ") {
			tried += key.Type() + " "
		}
		return checker.Authenticate(m, key)
	}}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tried = ""
			conn, chans, reqs, err := ssh.NewServerConn(c, config)
			if err != nil {
				_ = c.Close()
				continue
			}
			go ssh.DiscardRequests(reqs)
			for n := range chans {
				ch, reqs, err := n.Accept()
				if err != nil {
					break
				}
				for r := range reqs {
					_ = r.Reply(r.Type == "exec", nil)
					if r.Type == "exec" {
						_, _ = fmt.Fprintf(ch, "%stried: %s\n", conn.User()+" ", tried)
						_, _ = ch.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
						_ = ch.Close()
						break
					}
				}
				go ssh.DiscardRequests(reqs)
			}
		}
	}()
	w.t.Cleanup(func() { _ = l.Close(); <-done })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

// files are those of a login, as dtsh keeps them, and a known_hosts.
func (w *world) files() (dir string) {
	w.t.Helper()
	dir = w.t.TempDir()
	cert := w.logins[0].Certificate
	write(w.t, filepath.Join(dir, "alice.pub"), ssh.MarshalAuthorizedKey(cert.Key))
	write(w.t, filepath.Join(dir, "alice-cert.pub"), ssh.MarshalAuthorizedKey(cert))
	write(w.t, filepath.Join(dir, "known_hosts"), []byte("@cert-authority * "+string(ssh.MarshalAuthorizedKey(w.hostCA.PublicKey()))))
	return dir
}

func (w *world) sshArgs(dir, port string, more ...string) []string {
	return append([]string{
		"-F", "none", "-o", "BatchMode=yes", "-p", port, "-o", "UserKnownHostsFile=" + filepath.Join(dir, "known_hosts"),
		"-o", "HostKeyAlias=server-1", "-o", "IdentityAgent=" + w.socket, "-o", "GlobalKnownHostsFile=none",
	}, more...)
}

func TestPlainSSHShowsTheCertificateFirst(t *testing.T) {
	w := newWorld(t, permitAll)
	dir := w.files()
	port := w.server("server-1")
	for name, more := range map[string][]string{
		"what dtsh config writes": {"-o", "IdentitiesOnly=yes", "-o", "CertificateFile=" + dir + "/alice-cert.pub", "-o", "IdentityFile=" + dir + "/alice.pub"},
		"the agent only":          {"-o", "IdentityFile=none"},
	} {
		got := w.must("", "ssh", append(w.sshArgs(dir, port, more...), "root@127.0.0.1", "true")...)
		if !strings.Contains(got, "root tried: ssh-ed25519-cert-v01@openssh.com \n") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestSSHKeygenSignsByTheAgent(t *testing.T) {
	w := newWorld(t, permitAll)
	dir := w.files()
	message := filepath.Join(dir, "message")
	write(t, message, []byte("something to sign"))
	signers := filepath.Join(dir, "allowed_signers")
	write(t, signers, fmt.Appendf(nil, "alice@example.com %salice@example.com cert-authority %s",
		ssh.MarshalAuthorizedKey(w.logins[0].Certificate.Key), ssh.MarshalAuthorizedKey(w.userCA.PublicKey())))
	for _, key := range []string{"alice.pub", "alice-cert.pub"} {
		sig := w.must("", "ssh-keygen", "-Y", "sign", "-n", "git", "-f", filepath.Join(dir, key), message)
		if !strings.Contains(sig, "Write signature") {
			t.Errorf("%s: %s", key, sig)
		}
		if key == "alice-cert.pub" {
			continue // its principals are logins and no addresses
		}
		text, err := io.ReadAll(bytes.NewReader([]byte("something to sign")))
		if err != nil {
			t.Fatal(err)
		}
		if out := w.must(string(text), "ssh-keygen", "-Y", "verify", "-n", "git", "-I", "alice@example.com", "-f", signers, "-s", message+".sig"); !strings.Contains(out, "Good") {
			t.Errorf("%s: %s", key, out)
		}
		w.must("", "rm", message+".sig")
	}
}
