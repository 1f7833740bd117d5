package sshd

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/identity"
	"devicetrust/policy"
)

// TestMain is the helper too: sshd starts this program where a test gives it.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "sshd" && os.Args[2] == "principals" {
		h := Helper{
			Now: time.Now, Location: time.Local, Stdout: os.Stdout, Stderr: os.Stderr,
			Log: filepath.Join(filepath.Dir(os.Args[0]), "log"), PID: os.Getpid(),
		}
		os.Exit(h.Run(os.Args[3:]))
	}
	os.Exit(m.Run())
}

// helped is a stock sshd on the site, of this machine.
type helped struct {
	*site
	folder  string // all of it
	address string
	keyFile string // of alice
	key     ssh.Signer
	log     helperLog // of the helper
	sshdLog helperLog
}

// helperLog may be written while they are read.
type helperLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *helperLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *helperLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// helperRootOwned is a folder that sshd takes a helper from: nobody but root may write
// to it, or to one above (misc.c, safe_path); so it is not in /tmp.
func helperRootOwned(t testing.TB) string {
	t.Helper()
	folder, err := os.MkdirTemp("/var/lib", "dt-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	return folder
}

func startHelped(t testing.TB) *helped {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a stock sshd that changes the user needs root")
	}
	folder := helperRootOwned(t)
	s := &helped{folder: folder, keyFile: filepath.Join(folder, "alice"), key: newKey(t, 9)}
	dir := DirOf(filepath.Join(folder, "sshd_config"))
	if err := os.Mkdir(string(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	group, err := strconv.Atoi(nobody.Gid)
	if err != nil {
		t.Fatal(err)
	}
	s.site = newSiteIn(t, dir, group, time.Now().Truncate(time.Second))
	s.listen()
	s.writeKey(s.keyFile, 9)
	s.writeKey(filepath.Join(folder, "host"), 8)
	self, err := os.Executable()
	s.must(err)
	s.address = s.serve("sshd_config", s.asks(s.program(self)))
	return s
}

// program is a copy that sshd may start.
func (s *helped) program(of string) (path string) {
	s.t.Helper()
	path = filepath.Join(s.folder, "dtnoded")
	s.must(exec.Command("cp", of, path).Run())
	return path
}

// asks has sshd ask the helper.
func (s *helped) asks(program string) string {
	return "AuthorizedPrincipalsCommand " + program + " sshd principals --dir=" + string(s.dir) + " " + Tokens +
		"\nAuthorizedPrincipalsCommandUser nobody\nAuthorizedPrincipalsFile none"
}

// listen is the system's log to the helper.
func (s *helped) listen() {
	s.t.Helper()
	path := filepath.Join(s.folder, "log")
	log, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	s.must(err)
	s.must(os.Chmod(path, 0o666))
	s.t.Cleanup(func() { log.Close() })
	go func() {
		line := make([]byte, 4096)
		for {
			n, err := log.Read(line)
			if err != nil {
				return
			}
			fmt.Fprintf(&s.log, "%s\n", line[:n])
		}
	}()
}

// writeKey writes the key that newKey makes of seed.
func (s *helped) writeKey(path string, seed byte) {
	s.t.Helper()
	block, err := ssh.MarshalPrivateKey(keyOf(seed), "")
	s.must(err)
	s.must(os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
}

// serve starts an sshd that knows by principals who may log in as whom.
func (s *helped) serve(name, principals string) (address string) {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	address = l.Addr().String()
	l.Close()
	_, port, err := net.SplitHostPort(address)
	s.must(err)
	config := filepath.Join(s.folder, name)
	s.must(os.WriteFile(config, []byte(strings.Join([]string{
		"ListenAddress 127.0.0.1:" + port,
		"HostKey " + filepath.Join(s.folder, "host"),
		"TrustedUserCAKeys " + s.dir.UserCA(),
		principals, "AuthorizedKeysFile none", "AuthorizedKeysCommand none",
		"AuthenticationMethods publickey", "AllowStreamLocalForwarding no",
		"Subsystem sftp internal-sftp", "UsePAM no", "UseDNS no", "PidFile none", "LogLevel DEBUG1", "MaxStartups 100", "",
	}, "\n")), 0o600))
	// Its privilege separation directory is compiled in.
	s.must(os.MkdirAll("/run/sshd", 0o755))
	cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", config)
	cmd.Stderr = &s.sshdLog
	s.must(cmd.Start())
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if s.t.Failed() {
			s.t.Logf("the helper's log:\n%s\nsshd's:\n%s", s.log.String(), s.sshdLog.String())
		}
	})
	s.poll("sshd to listen", func() bool {
		c, err := net.Dial("tcp", address)
		return err == nil && c.Close() == nil
	})
	return address
}

func (s *helped) poll(what string, is func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	for !is() {
		select {
		case <-ctx.Done():
			s.t.Fatalf("waited in vain for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// ssh runs the stock client with the certificate; args come after the options.
func (s *helped) ssh(cert *ssh.Certificate, login string, args ...string) (out string, err error) {
	s.t.Helper()
	s.must(os.WriteFile(s.keyFile+"-cert.pub", ssh.MarshalAuthorizedKey(cert), 0o600))
	_, port, err := net.SplitHostPort(s.address)
	s.must(err)
	options := []string{"-F", "none", "-p", port, "-i", s.keyFile, "-l", login,
		"-o", "CertificateFile=" + s.keyFile + "-cert.pub", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes"}
	cmd := exec.CommandContext(s.t.Context(), "ssh", append(options, args...)...)
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// enter opens a session that ends at once, without the account's shell: what that
// does at its start is not ours.
func (s *helped) enter(cert *ssh.Certificate, login string, options ...string) (out string, err error) {
	s.t.Helper()
	return s.ssh(cert, login, append(options, "-s", "127.0.0.1", "sftp")...)
}

// own is alice's certificate for her key, with the change.
func (s *helped) own(change func(*identity.Identity)) *ssh.Certificate {
	return s.certify(s.key.PublicKey(), change)
}

func TestAStockSshdAdmitsWhomPolicyAdmits(t *testing.T) {
	t.Parallel() // they wait more than they work
	s := startHelped(t)
	enter := func(what string, cert *ssh.Certificate, login string, want bool, why string) {
		t.Helper()
		logged := s.log.String()
		out, err := s.enter(cert, login)
		if in := err == nil; in != want {
			t.Errorf("%s: %q, %v", what, out, err)
		}
		if why != "" {
			s.poll(what+" in the log", func() bool {
				now := strings.TrimPrefix(s.log.String(), logged)
				return strings.Contains(now, "refused: ") && strings.Contains(now, why)
			})
		} else if now := strings.TrimPrefix(s.log.String(), logged); now != "" {
			t.Errorf("%s: logged %q", what, now)
		}
	}
	good := s.own(nil)
	enter("a good certificate", good, "root", true, "")
	enter("an expired one", s.own(func(id *identity.Identity) { id.ValidBefore = s.now }), "root", false, "cause=certificate-expired")
	enter("one for another login", s.own(func(id *identity.Identity) { id.Logins = []string{"alice"} }), "root", false, "cause=certificate-not-a-principal")
	enter("one for this address", s.own(func(id *identity.Identity) { id.LoginIP, id.PinSourceIP = netipLoopback, true }), "root", true, "")
	enter("one for another address", s.own(func(id *identity.Identity) {
		id.LoginIP, id.PinSourceIP = netipLoopback.Next(), true
	}), "root", false, "") // sshd itself refuses
	s.publish(func() { s.content.Locks = []policy.Lock{lock(policy.LockTarget{User: "alice"}, "under investigation")} })
	enter("who is locked", good, "root", false, "user=alice serial=42 login=root cause=locked state_age=")
	s.publish(func() { s.content.Locks = nil })
	enter("who is unlocked", good, "root", true, "")
	s.publish(func() { s.content.Revoked = []policy.Revocation{{First: 42, Last: 42, Reason: "logged out"}} })
	enter("what is revoked", good, "root", false, "logged out")
	s.publish(func() { s.content.Revoked = nil; delete(s.content.Roles, "access") })
	enter("whose role is gone", good, "root", false, "cause=unknown-role")
	s.publish(func() { s.setRole("access", map[string]any{"device_trust_mode": "required"}, nil) })
	enter("who has no device", good, "root", false, policy.ReasonTrustedDevice)
	enter("who has one", s.own(func(id *identity.Identity) {
		id.Device = identity.Device{ID: "d", AssetTag: "t", CredentialID: "c"}
	}), "root", true, "")
	s.publish(func() { s.setRole("access", map[string]any{"require_attested_key": true}, nil) })
	enter("whose key is software", s.own(func(id *identity.Identity) {
		id.Device = identity.Device{ID: "d", AssetTag: "t", CredentialID: "c"}
	}), "root", false, "cause=attested-key-required")
	enter("whose key is in the TPM", s.own(inTPM), "root", true, "")
	s.publish(func() { s.setRole("access", nil, nil) })
	s.must(os.Rename(s.dir.State(), s.dir.State()+".away"))
	if text := s.sshdLog.String(); strings.Contains(text, "failed, status") || !strings.Contains(text, "does not contain an authorized principal") {
		t.Error("sshd takes a refusal for a fault of the helper, or logs none")
	}
	enter("without a state", good, "root", false, "cause=state state_age=unknown: open "+s.dir.State())
	s.must(os.Rename(s.dir.State()+".away", s.dir.State()))
	s.must(os.Chmod(s.dir.State(), 0o600))
	enter("with a state that the helper may not read", good, "root", false, "cause=state state_age=unknown: open "+s.dir.State()+": permission denied")
	s.must(os.Chmod(s.dir.State(), 0o640))
	enter("with a state again", good, "root", true, "")
}

// greeter says its name to whoever connects.
func (s *helped) greeter(name string) (address string) {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, name)
			c.Close()
		}
	}()
	return l.Addr().String()
}

func TestAStockSshdForwardsWhatRolesPermit(t *testing.T) {
	t.Parallel() // they wait more than they work
	s := startHelped(t)
	permitted, other := s.greeter("permitted"), s.greeter("other")
	cert := s.own(nil)
	try := func(what string, options map[string]any, open, openOther, listen bool) {
		t.Helper()
		s.publish(func() { s.setRole("access", options, nil) })
		c := s.client(cert)
		for address, want := range map[string]bool{permitted: open, other: openOther, nowhere: false} {
			conn, err := c.Dial("tcp", address)
			if got := err == nil; got != want {
				t.Errorf("%s: to %s: %v", what, address, err)
			}
			if err == nil {
				conn.Close()
			}
		}
		l, err := c.Listen("tcp", "127.0.0.1:0")
		if got := err == nil; got != listen {
			t.Errorf("%s: to be listened for: %v", what, err)
		}
		if err == nil {
			l.Close()
		} else {
			s.listensNowhere(what, c)
		}
	}
	yes := true
	try("nothing", nil, false, false, false)
	try("everything", map[string]any{"port_forwarding": yes}, true, true, true)
	try("one target", map[string]any{"port_forwarding": yes, "permit_open": []string{permitted}}, true, false, true)
	try("one target, and no listening", map[string]any{"port_forwarding": yes, "permit_open": []string{permitted}, "permit_listen": []string{"none"}}, true, false, false)
	try("listening only", map[string]any{"port_forwarding": yes, "permit_open": []string{"none"}}, false, false, true)
	try("another host for listening", map[string]any{"port_forwarding": yes, "permit_listen": []string{"192.0.2.1:*"}}, true, true, false)
	// And with the stock client.
	s.publish(func() {
		s.setRole("access", map[string]any{"port_forwarding": yes, "permit_open": []string{permitted}, "permit_listen": []string{"none"}}, nil)
	})
	if out, err := s.ssh(cert, "root", "-W", permitted, "127.0.0.1"); out != "permitted" {
		t.Errorf("ssh -W %s: %q, %v", permitted, out, err)
	}
	if out, err := s.ssh(cert, "root", "-W", other, "127.0.0.1"); err == nil || strings.HasPrefix(out, "other") {
		t.Errorf("ssh -W %s: %q, %v", other, out, err)
	}
	if out, err := s.enter(cert, "root", "-R", "127.0.0.1:0:"+permitted); err == nil {
		t.Errorf("ssh -R: %q", out)
	}
	try("sockets", map[string]any{"port_forwarding": yes, "permit_open": []string{"/run/*"}, "permit_listen": []string{"/run/*"}}, false, false, false)
}

// client is one that says what it likes.
func (s *helped) client(cert *ssh.Certificate) *ssh.Client {
	s.t.Helper()
	signer, err := ssh.NewCertSigner(cert, s.key)
	s.must(err)
	c, err := ssh.Dial("tcp", s.address, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	s.must(err)
	s.t.Cleanup(func() { c.Close() })
	return c
}

// listensNowhere tries what stands for no address, as whoever may listen on port
// 1: nobody that asks has it.
func (s *helped) listensNowhere(what string, c *ssh.Client) {
	s.t.Helper()
	for _, host := range []string{"NONE", "none", "None", "*", "", "localhost", "255.255.255.255"} {
		ok, _, err := c.SendRequest("tcpip-forward", true, ssh.Marshal(struct {
			Host string
			Port uint32
		}{host, 1}))
		if ok || err != nil {
			s.t.Errorf("%s: listens on %q: %v", what, host, err)
		}
	}
}

func TestAStockSshdGivesATerminalAndTheAgentWhereBothPermit(t *testing.T) {
	t.Parallel() // they wait more than they work
	s := startHelped(t)
	agent := map[string]any{"forward_agent": true}
	for name, row := range map[string]struct {
		options   map[string]any
		permit    identity.Permit
		tty, sock bool
	}{
		"nothing":        {nil, identity.Permit{}, false, false},
		"a terminal":     {nil, identity.Permit{PTY: true, AgentForwarding: true}, true, false},
		"both":           {agent, identity.Permit{PTY: true, AgentForwarding: true}, true, true},
		"the role alone": {agent, identity.Permit{PTY: true}, true, false},
	} {
		s.publish(func() { s.setRole("access", row.options, nil) })
		cert := s.own(func(id *identity.Identity) { id.Permit = row.permit })
		c := s.client(cert)
		session, err := c.NewSession()
		s.must(err)
		if got := session.RequestPty("xterm", 24, 80, nil) == nil; got != row.tty {
			t.Errorf("%s: terminal: %v", name, got)
		}
		if got, err := session.SendRequest("auth-agent-req@openssh.com", true, nil); got != row.sock || err != nil {
			t.Errorf("%s: agent: %v, %v", name, got, err)
		}
	}
}
