package sshd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"devicetrust/identity/krl"
)

// stock is a stock sshd's, in a folder as sshd wants it: root's alone, all the
// way up.
type stock struct {
	testing.TB
	dir    string
	config Installation
	addr   string
	ca     ssh.Signer
}

const installedSSHD = "/usr/sbin/sshd"

// newStock has sshd's configuration with the given lines, of which %s is its
// folder, and nothing running.
func newStock(t testing.TB, lines string) *stock {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("what sshd runs has to be root's")
	}
	if _, err := os.Stat(installedSSHD); err != nil {
		t.Skip("there is no sshd: make test installs it")
	}
	dir, err := os.MkdirTemp("/var/lib", "dt-test-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	must(t, os.MkdirAll("/run/sshd", 0o755))
	for _, sub := range []string{"ssh", "ssh/sshd_config.d", "bin", "systemd"} {
		must(t, os.Mkdir(filepath.Join(dir, sub), 0o755))
	}
	m := &stock{TB: t, dir: dir, ca: newKey(t, 1)}
	for _, kind := range []string{"ed25519", "ecdsa"} {
		m.exec("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", m.ssh("ssh_host_"+kind+"_key"))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	m.addr = l.Addr().String()
	m.write("ssh/sshd_config", strings.ReplaceAll(lines, "%s", m.ssh(""))+fmt.Sprintf(`
ListenAddress %[2]s
HostKey %[1]s/ssh_host_ecdsa_key
HostKey %[1]s/ssh_host_ed25519_key
PidFile %[1]s/sshd.pid
`, m.ssh(""), m.addr), 0o644)
	m.write("bin/dtnoded", "#!/bin/sh\n", 0o755)
	m.config = Installation{
		Server: Server{Program: installedSSHD, Config: m.ssh("sshd_config")}, Noded: m.path("bin/dtnoded"),
		DataDir: m.path("data"), NoReload: true,
		systemd: systemd{running: m.path("booted"), units: m.path("systemd"), program: m.path("bin/systemctl")},
	}
	return m
}

const include = "Include %s/sshd_config.d/*.conf\n"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (m *stock) path(name string) string { return filepath.Join(m.dir, name) }
func (m *stock) ssh(name string) string  { return filepath.Join(m.dir, "ssh", name) }

func (m *stock) write(name, text string, mode fs.FileMode) {
	m.Helper()
	must(m, os.WriteFile(m.path(name), []byte(text), mode))
	must(m, os.Chmod(m.path(name), mode))
}

func (m *stock) exec(program string, args ...string) string {
	m.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		m.Fatalf("%s %q: %v: %s", program, args, err, out)
	}
	return string(out)
}

// start runs sshd, until the test ends or end is called.
func (m *stock) start() (end func()) {
	m.Helper()
	var log bytes.Buffer
	cmd := exec.Command(installedSSHD, "-D", "-e", "-f", m.config.Server.Config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = &log
	must(m, cmd.Start())
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	end = func() {
		_ = cmd.Process.Kill()
		<-done
	}
	m.Cleanup(end)
	m.config.NoReload = false
	m.eventually("sshd listens", func() bool { return m.banner() && isThere(m.ssh("sshd.pid")) })
	return end
}

// banner tells whether an sshd answers.
func (m *stock) banner() bool {
	c, err := net.DialTimeout("tcp", m.addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	b := make([]byte, 4)
	_, err = c.Read(b)
	return err == nil && string(b) == "SSH-"
}

func (m *stock) eventually(what string, is func() bool) {
	m.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(deadline) {
			m.Fatal("never: ", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// certified tells whether the running sshd shows a
// certificate of our authority.
func (m *stock) certified() bool {
	checker := &ssh.CertChecker{IsHostAuthority: func(k ssh.PublicKey, _ string) bool {
		return bytes.Equal(k.Marshal(), m.ca.PublicKey().Marshal())
	}}
	shown := false
	c, err := ssh.Dial("tcp", m.addr, &ssh.ClientConfig{
		HostKeyAlgorithms: []string{ssh.CertAlgoED25519v01},
		HostKeyCallback: func(h string, r net.Addr, k ssh.PublicKey) error {
			err := checker.CheckHostKey(h, r, k)
			shown = err == nil
			return err
		},
	})
	if err == nil {
		c.Close()
	}
	return shown
}

// asksPasswords tells whether the running sshd follows a configuration without
// ours. (The host certificate does not tell: each connection's process reads it
// anew.)
func (m *stock) asksPasswords() bool {
	asked := false
	c, err := ssh.Dial("tcp", m.addr, &ssh.ClientConfig{
		User: "nobody", HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		Auth: []ssh.AuthMethod{ssh.PasswordCallback(func() (string, error) {
			asked = true
			return "", errors.New("there is none")
		})},
	})
	if err == nil {
		c.Close()
	}
	return asked
}

// joined is what a cluster gives for the key.
func (m *stock) joined(key ssh.PublicKey) Joined {
	m.Helper()
	cert := &ssh.Certificate{Key: key, CertType: ssh.HostCert, ValidPrincipals: []string{"127.0.0.1"}, ValidBefore: ssh.CertTimeInfinity}
	must(m, cert.SignCert(zeros{}, m.ca))
	n := node1()
	list := krl.List{Version: 1, Date: n.Installed, Authorities: []krl.Authority{{Key: m.ca.PublicKey()}}}
	text, err := list.Marshal()
	must(m, err)
	return Joined{Cluster: n.Cluster, NodeID: n.ID, Name: n.Name, UserAuthorities: []ssh.PublicKey{m.ca.PublicKey()}, HostCertificate: cert, KRL: text}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// install does both halves.
func (m *stock) install() (Report, error) {
	p, err := Prepare(m.Context(), m.config)
	if err != nil {
		return Report{}, err
	}
	defer p.Close()
	return p.Install(m.Context(), m.joined(p.HostKey), node1().Installed)
}

// entry is all that there is of a file.
type entry struct {
	Mode    fs.FileMode
	Owner   [2]uint32
	Inode   uint64
	Changed time.Time
	Content string
}

// tree is all that lies on the machine but for what the running sshd makes.
// Folders change when files in them come and go: of those only the mode is
// looked at.
func (m *stock) tree() map[string]entry {
	m.Helper()
	all := map[string]entry{}
	must(m, filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == "sshd.pid" || d.Name() == "calls" {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		e := entry{Mode: info.Mode(), Owner: [2]uint32{stat.Uid, stat.Gid}, Inode: stat.Ino}
		switch {
		case info.Mode().IsRegular():
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			e.Content, e.Changed = string(text), info.ModTime()
		case info.Mode()&fs.ModeSymlink != 0:
			if e.Content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		all[strings.TrimPrefix(path, m.dir)] = e
		return nil
	}))
	return all
}

// unchanged fails where the machine is not as it was.
func (m *stock) unchanged(before map[string]entry) {
	m.Helper()
	if diff := cmp.Diff(before, m.tree()); diff != "" {
		m.Errorf("the machine is not as it was: %s", diff)
	}
}
