package sshd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// HelperGroup is the group that the helper runs with: that of nobody.
func HelperGroup() (int, error) {
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(nobody.Gid)
}

// KeepNode, KeepUserCA, KeepKRL and KeepHostCertificate put the files of the
// folder that everybody may read.
func (k *Kept) KeepNode(n Node) error {
	return k.Put("node.json", func() error { return k.Dir.WriteNode(n) }, k.Dir.NodeFile())
}

func (k *Kept) KeepUserCA(keys []ssh.PublicKey) error {
	return k.Put("user_ca.pub", func() error { return k.Dir.WriteUserCA(keys) }, k.Dir.UserCA())
}

func (k *Kept) KeepKRL(list []byte) error {
	return k.Put("krl", func() error { return public().Write(k.Dir.KRL(), list) }, k.Dir.KRL())
}

func (k *Kept) KeepHostCertificate(c *ssh.Certificate) error {
	path := k.Dir.HostCertificate(keyType(c.Key))
	return k.Put("the host certificate", func() error { return public().Write(path, ssh.MarshalAuthorizedKey(c)) }, path)
}

// Installed tells whether the server with the configuration has our part of it.
func Installed(sshdConfig string) bool {
	_, err := os.Stat(DropIn(sshdConfig))
	return !errors.Is(err, fs.ErrNotExist)
}

// Reload has the sshd with the configuration read it again, and its
// certificates, as all of them from 9.8 on do then and only then. One that would
// end by what it reads is left alone.
func (w *Watch) Reload(ctx context.Context) error {
	all, err := w.proc.all()
	if err != nil {
		return err
	}
	for pid, one := range all {
		if !w.proc.sshd(one) || w.proc.contained(pid) {
			continue
		}
		if uid, ok := w.proc.uid(pid); !ok || uid != 0 {
			continue
		}
		title := w.proc.title(pid)
		r, arguments := titled(title)
		if r != listens || !samePath(configOf(arguments), w.settings.Config) || !strings.Contains(title, " [listener] ") {
			continue
		}
		out, err := exec.CommandContext(ctx, w.proc.program(pid), "-t", "-f", w.settings.Config).CombinedOutput()
		if err != nil {
			return fmt.Errorf("sshd would not take its configuration: %w: %.512s", err, out)
		}
		return w.proc.signal(one.Process, unix.SIGHUP)
	}
	return errNotRunning
}
