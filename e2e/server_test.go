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
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/e2e/stage"
)

// server is a cluster with one dtnoded, and people who may enter it.
type server struct {
	stage *stage.Stage
	authd *stage.Daemon
	noded *stage.Daemon
	pin   string
	// login is the account that people enter.
	login string
	tpm   *stage.TPM
}

func startServer(t testing.TB, flags ...string) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "dt-server") //nolint:usetesting // its path is too long for a socket
	must(t, err)
	s := &server{stage: &stage.Stage{Dir: dir, Bin: binDir}, login: loginAccount}
	t.Cleanup(func() {
		must(t, s.stage.Close())
		checkLogs(t, dir)
		if s.noded != nil {
			checkFaults(t, s.noded.Log)
		}
		must(t, os.RemoveAll(dir))
	})
	if !isRoot() {
		me, err := user.Current()
		must(t, err)
		s.login = me.Username
	}
	s.authd, err = s.stage.Authd(t.Context(), "authd")
	must(t, err)
	s.pin, err = s.authd.Pin(t.Context())
	must(t, err)
	s.noded, err = s.stage.Noded(t.Context(), s.authd, "server-1", flags...)
	must(t, err)
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// checkFaults finds what a server may not have logged: a fault that ended a
// connection.
func checkFaults(t testing.TB, log string) {
	text, err := os.ReadFile(log)
	must(t, err)
	if found := regexp.MustCompile(`(?m)^.*fault; .*$`).Find(text); found != nil {
		t.Errorf("%.4000s", found)
	}
}

// person logs in as a new user with the roles, on a machine without a TPM,
// and gives the certificate that the login got, and its files.
func (s *server) person(t testing.TB, name, roles string) (signer gossh.Signer, key, certificate string) {
	t.Helper()
	s.dtsh(t, name, "dtctl", "users", "add", name, "--roles="+roles, "--logins="+s.login, "--password-stdin")
	s.dtsh(t, name, "dtsh", "login", "--ca-pin="+s.pin, "--password-stdin")
	return s.credentials(t, name)
}

// withDevice is a person on a machine that is enrolled, whose key is a file.
func (s *server) withDevice(t testing.TB, name, roles string) gossh.Signer {
	t.Helper()
	var err error
	s.tpm, err = s.stage.TPM(t.Context(), "laptop")
	must(t, err)
	must(t, stage.DMI(filepath.Join(s.stage.Dir, "dmi"), "TAG-1"))
	s.person(t, name, roles+",device-admin")
	s.dtsh(t, name, "dtsh", "device", "enroll", "--current-device")
	s.dtsh(t, name, "dtsh", "login", "--key=software", "--password-stdin")
	signer, _, _ := s.credentials(t, name)
	return signer
}

func (s *server) credentials(t testing.TB, name string) (signer gossh.Signer, key, certificate string) {
	t.Helper()
	var status struct {
		Key         struct{ Path string }
		Certificate string `json:"ssh_certificate"`
	}
	must(t, json.Unmarshal([]byte(s.dtsh(t, name, "dtsh", "status", "--format=json")), &status))
	pem, err := os.ReadFile(status.Key.Path)
	must(t, err)
	plain, err := gossh.ParsePrivateKey(pem)
	must(t, err)
	text, err := os.ReadFile(status.Certificate)
	must(t, err)
	public, _, _, _, err := gossh.ParseAuthorizedKey(text)
	must(t, err)
	cert, ok := public.(*gossh.Certificate)
	if !ok {
		t.Fatalf("%s holds a %s", status.Certificate, public.Type())
	}
	signer, err = gossh.NewCertSigner(cert, plain)
	must(t, err)
	return signer, status.Key.Path, status.Certificate
}

func (s *server) dtsh(t testing.TB, person, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), filepath.Join(binDir, program), args...)
	cmd.Env = append(os.Environ(), "DTCTL_DATA_DIR="+s.authd.DataDir, "DTSH_PROXY="+s.authd.Addr, "DTSH_USER="+person,
		"DTSH_HOME="+filepath.Join(s.stage.Dir, person), "DTSH_DMI_DIR="+filepath.Join(s.stage.Dir, "dmi"), "DTSH_TPM=unix:/nowhere")
	if s.tpm != nil {
		cmd.Env = append(cmd.Env, "DTSH_TPM="+s.tpm.Address())
	}
	cmd.Stdin = strings.NewReader(benchPassword + "\n")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, &stderr)
	}
	return string(out)
}

// dial enters the server, at most a patience later.
func (s *server) dial(signer gossh.Signer) (*gossh.Client, error) { return s.dialFrom("", signer) }

// dialFrom enters it from a local address.
func (s *server) dialFrom(from string, signer gossh.Signer) (*gossh.Client, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	tcp, err := d.Dial("tcp", s.noded.Addr)
	if err != nil {
		return nil, err
	}
	if err := tcp.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return nil, err
	}
	conn, channels, requests, err := gossh.NewClientConn(tcp, s.noded.Addr, &gossh.ClientConfig{
		User: s.login, Auth: []gossh.AuthMethod{gossh.PublicKeys(signer)}, HostKeyCallback: gossh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		tcp.Close()
		return nil, err
	}
	return gossh.NewClient(conn, channels, requests), tcp.SetDeadline(time.Time{})
}

// echo is a session that answers, as long as nobody else disturbs it.
type echo struct {
	client *gossh.Client
	in     io.Writer
	out    io.Reader
}

func (s *server) echo(t testing.TB, signer gossh.Signer) *echo {
	t.Helper()
	c, err := s.dial(signer)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	session, err := c.NewSession()
	must(t, err)
	e := &echo{client: c}
	e.in, err = session.StdinPipe()
	must(t, err)
	e.out, err = session.StdoutPipe()
	must(t, err)
	must(t, session.Start("cat"))
	must(t, e.answer())
	return e
}

// answer asks for a line, and how long it may take is how long people would
// call it "at once" on a busy machine.
func (e *echo) answer() error {
	const line, atOnce = "still here\n", 3 * time.Second
	answered := make(chan error, 1)
	go func() {
		got := make([]byte, len(line))
		_, err := io.WriteString(e.in, line)
		if err == nil {
			_, err = io.ReadFull(e.out, got)
		}
		if err == nil && string(got) != line {
			err = fmt.Errorf("%q", got)
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		return err
	case <-time.After(atOnce):
		return errors.New("another person's session does not answer")
	}
}
