package stage

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// SSHD is a stock sshd that listens, with a configuration of its own.
type SSHD struct {
	*Daemon
	// Dir is as /etc/ssh is: sshd_config, sshd_config.d and host keys. It is
	// root's, as sshd wants what it runs to be, and is removed by Remove.
	Dir string
	// Config is the file.
	Config string
	// Noded is a dtnoded that sshd would run.
	Noded string
}

const sshdProgram = "/usr/sbin/sshd"

// sshdListens: sshd's server_listen.
var sshdListens = regexp.MustCompile(`Server listening on (\S+) port \d+`)

// SSHD starts a stock sshd on a free port of 127.0.0.1; lines come after those
// that it needs. Not everybody may write to any folder above what it runs, so
// it is not below the stage's.
func (s *Stage) SSHD(ctx context.Context, name, lines string) (*SSHD, error) {
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // its chroot
		return nil, err
	}
	dir, err := os.MkdirTemp("/var/lib", "dt-test-")
	if err != nil {
		return nil, err
	}
	d := &SSHD{
		Dir: dir, Config: filepath.Join(dir, "sshd_config"), Noded: filepath.Join(dir, "bin", "dtnoded"),
		Daemon: &Daemon{stage: s, DataDir: filepath.Join(s.Dir, name), ready: sshdListens, sameArgs: true},
	}
	if err := d.setUp(s.Bin, lines); err != nil {
		return d, err
	}
	d.command = Command{Name: name, Program: sshdProgram, Args: []string{"-D", "-e", "-f", d.Config}}
	return d, d.start(ctx)
}

func (d *SSHD) setUp(bin, lines string) error {
	if err := os.Chmod(d.Dir, 0o755); err != nil {
		return err
	}
	for _, sub := range []string{"sshd_config.d", "bin"} {
		if err := os.Mkdir(filepath.Join(d.Dir, sub), 0o755); err != nil {
			return err
		}
	}
	for _, kind := range []string{"ed25519", "ecdsa"} {
		key := filepath.Join(d.Dir, "ssh_host_"+kind+"_key")
		if out, err := exec.Command("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", key).CombinedOutput(); err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	if err := copyProgram(filepath.Join(bin, "dtnoded"), d.Noded); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := l.Close(); err != nil { // sshd takes no port 0
		return err
	}
	d.Addr = l.Addr().String()
	text := fmt.Sprintf(`Include %[1]s/sshd_config.d/*.conf
ListenAddress %[2]s
HostKey %[1]s/ssh_host_ed25519_key
HostKey %[1]s/ssh_host_ecdsa_key
PidFile %[1]s/sshd.pid
LogLevel VERBOSE
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
%[3]s`, d.Dir, d.Addr, lines)
	return os.WriteFile(d.Config, []byte(text), 0o644)
}

// Remove removes its folder.
func (d *SSHD) Remove() error { return os.RemoveAll(d.Dir) }

func copyProgram(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}
