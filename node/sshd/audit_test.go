package sshd

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"devicetrust/durable"
	"devicetrust/feed"
	"devicetrust/identity"
	"devicetrust/identity/krl"
)

// machine is one with a stock sshd, as it is installed.
type machine struct {
	t         *testing.T
	folder    string
	config    AuditConfig
	dir       Dir
	authority ssh.Signer
	now       time.Time
}

// newMachine lies in a folder of root's that nobody else can write: what sshd
// believes has to.
func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("sshd's configuration is root's, and so must be who makes and audits it")
	}
	folder, err := os.MkdirTemp("/var/lib", "dt-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	m := &machine{t: t, folder: folder, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	m.must(os.Chmod(folder, 0o755))
	for _, name := range []string{"sshd_config.d", "devicetrust", "proc"} {
		m.must(os.Mkdir(m.path(name), 0o755))
	}
	m.must(os.Mkdir(m.path("data"), 0o700))
	m.must(os.MkdirAll("/run/sshd", 0o755)) // sshd's own, which its service makes
	m.config = AuditConfig{
		SSHDConfig: m.path("sshd_config"), SSHD: auditedSSHD(t), DataDir: m.path("data"), Program: m.path("dtnoded"),
		Proc: m.path("proc"), DefaultConfig: "/etc/ssh/sshd_config", Now: func() time.Time { return m.now },
	}
	m.dir = DirOf(m.config.SSHDConfig)
	m.write("dtnoded", "#!/bin/sh\n", 0o755)
	m.write("sshd_config", "Include "+m.path("sshd_config.d/*.conf")+"\nPort 22\nHostKey "+m.path("host")+"\nPidFile "+m.path("pid")+"\nUsePAM yes\n", 0o644)
	m.write("sshd_config.d/00-devicetrust.conf", m.dropIn(), 0o644)
	m.authority = m.newKey()
	m.must(m.dir.WriteUserCA([]ssh.PublicKey{m.authority.PublicKey()}))
	m.must(m.dir.WriteNode(node1()))
	m.saveState(m.authority, m.now)
	m.write("devicetrust/krl", m.krl(m.authority), 0o644)
	m.hostKey(m.now.Add(time.Hour))
	return m
}

func auditedSSHD(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func (m *machine) dropIn() string {
	return string(dropInText(dropInLines(m.dir, m.config.Program, "ed25519")))
}

func (m *machine) path(name string) string { return filepath.Join(m.folder, name) }

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) write(name, text string, mode os.FileMode) {
	m.t.Helper()
	m.must(os.WriteFile(m.path(name), []byte(text), mode))
	m.must(os.Chmod(m.path(name), mode))
}

// before puts lines where they win over the drop-in.
func (m *machine) before(lines ...string) {
	m.t.Helper()
	m.write("sshd_config.d/00-a.conf", strings.Join(lines, "\n")+"\n", 0o644)
}

// after puts lines at the end of the configuration.
func (m *machine) after(lines ...string) {
	m.t.Helper()
	text, err := os.ReadFile(m.config.SSHDConfig)
	m.must(err)
	m.write("sshd_config", string(text)+strings.Join(lines, "\n")+"\n", 0o644)
}

func (m *machine) newKey() ssh.Signer {
	m.t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	m.must(err)
	signer, err := ssh.NewSignerFromKey(key)
	m.must(err)
	return signer
}

// saveState is signed by signer, with its key as the cluster's authority.
func (m *machine) saveState(signer ssh.Signer, at time.Time) {
	m.t.Helper()
	sign := func(ns identity.Namespace, message []byte) ([]byte, error) {
		return identity.SignMessage(signer, ns, message)
	}
	source, err := feed.NewSource(node1().Cluster, 1, feed.Content{
		UserAuthorities: []ssh.PublicKey{signer.PublicKey()}, TLSAuthorities: [][]byte{{1}}, Preference: []byte("{}"),
	})
	m.must(err)
	statement, err := source.Statement(at, sign)
	m.must(err)
	facts, err := feed.NewFacts(node1().Cluster, node1().ID, node1().Name, nil, sign)
	m.must(err)
	var none *feed.State
	state, err := none.Apply(statement.Update(&feed.Has{}, facts), node1().Cluster, node1().ID)
	m.must(err)
	m.must(m.dir.StateFile(65534).Save(state))
}

// hostKey makes a host key with a certificate.
func (m *machine) hostKey(until time.Time) {
	m.t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	m.must(err)
	signer, err := ssh.NewSignerFromKey(key)
	m.must(err)
	block, err := ssh.MarshalPrivateKey(key, "")
	m.must(err)
	m.write("host", string(pem.EncodeToMemory(block)), 0o600)
	m.write("host.pub", string(ssh.MarshalAuthorizedKey(signer.PublicKey())), 0o644)
	m.certify(signer.PublicKey(), until)
}

func (m *machine) certify(key ssh.PublicKey, until time.Time) {
	m.t.Helper()
	c := &ssh.Certificate{Key: key, CertType: ssh.HostCert, ValidPrincipals: []string{"db1"}, ValidBefore: uint64(until.Unix())}
	m.must(c.SignCert(rand.Reader, m.authority))
	m.must(durable.File{Mode: 0o644}.Write(m.dir.HostCertificate("ed25519"), ssh.MarshalAuthorizedKey(c)))
}

// krl is the list of authority, on which nothing is.
func (m *machine) krl(authority ssh.Signer) string {
	m.t.Helper()
	text, err := krl.List{Version: 1, Date: m.now, Authorities: []krl.Authority{{Key: authority.PublicKey()}}}.Marshal()
	m.must(err)
	return string(text)
}

func (m *machine) audit() []Finding {
	m.t.Helper()
	found, err := Audit(m.t.Context(), m.config)
	m.must(err)
	return found
}

func codes(found []Finding) []string {
	var all []string
	for _, f := range found {
		all = append(all, f.Code)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestWhatIsInstalledLeavesNoWayAround(t *testing.T) {
	m := newMachine(t)
	if diff := cmp.Diff([]Finding(nil), m.audit()); diff != "" {
		t.Error(diff)
	}
	// What is usual on a server changes nothing.
	m.write("sshd_config.d/50-cloud-init.conf", "PasswordAuthentication yes\n", 0o644)
	m.after("KbdInteractiveAuthentication no", "X11Forwarding yes", "PrintMotd no", "AcceptEnv LANG LC_*", "PermitRootLogin yes",
		"Subsystem sftp /usr/lib/openssh/sftp-server", "Match Group games", "ChrootDirectory /srv/%u", "ForceCommand internal-sftp",
		"AllowTcpForwarding no", "Match User nobody-here Address 10.0.0.0/8", "MaxSessions 1")
	if diff := cmp.Diff([]Finding(nil), m.audit()); diff != "" {
		t.Error(diff)
	}
}
