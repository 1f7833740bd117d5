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
	"time"

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

// Obeyed tells whether those who are in came in by our part of the configuration:
// not where it was taken away, and not where the sshd that listened at the last
// look has not read it since it was written (install --no-reload). What cannot be
// told passes for obeyed.
func (w *Watch) Obeyed(ctx context.Context) bool {
	part, err := os.Stat(DropIn(w.settings.Config))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	clock, err2 := newBootClock(w.settings.Now())
	if w.obeyed || errors.Join(err, err2) != nil {
		return true
	}
	for _, one := range w.listeners {
		if clock.began(one).Before(part.ModTime()) && !w.hasReread(ctx, one, part.ModTime()) {
			return false
		}
	}
	w.obeyed = len(w.listeners) > 0 // it does not forget
	return true
}

// hasReread tells whether sshd has begun again since: it writes its PidFile then
// (sshd.c, main).
func (w *Watch) hasReread(ctx context.Context, one Process, since time.Time) bool {
	f, err := Server{Program: w.proc.program(one.PID), Config: w.settings.Config}.settings(ctx, "")
	if err != nil {
		return true
	}
	l := listener{pid: one.PID, pidFile: f.one("pidfile")}
	info, err := os.Stat(l.pidFile)
	return err != nil || !l.names() || !info.ModTime().Before(since)
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
