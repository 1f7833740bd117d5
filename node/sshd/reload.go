package sshd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"devicetrust/durable"
)

// listener is the sshd that runs with a configuration.
type listener struct {
	pid     int
	pidFile string
}

// errNotRunning: certainly no sshd runs with the configuration.
var errNotRunning = errors.New("no sshd runs with this configuration")

// listening finds the sshd that runs with the configuration. Its PidFile has to
// name it: by that it is seen later whether it listens again.
func (s Server) listening(f inForce) (listener, error) {
	running, err := s.running()
	if err != nil {
		return listener{}, err
	}
	if len(running) == 0 {
		return listener{}, errNotRunning
	}
	l := listener{pidFile: f.one("pidfile")}
	if l.pidFile == "" || l.pidFile == "none" {
		return l, fmt.Errorf("sshd, process %d, has no PidFile by which to see whether it reads its configuration", running[0])
	}
	text, err := durable.Read(l.pidFile, maxPIDFile)
	if err != nil {
		return l, err
	}
	// A file may have outlived its process.
	l.pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || !slices.Contains(running, l.pid) {
		return l, fmt.Errorf("%s does not name the sshd that runs with this configuration, process %d", l.pidFile, running[0])
	}
	return l, nil
}

// running are all that listen with this program and configuration.
func (s Server) running() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && s.is(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// is tells whether the process is an sshd of this program that listens with
// this configuration.
func (s Server) is(pid int) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	program, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return false
	}
	ours, err := filepath.EvalSymlinks(s.Program)
	// An upgrade leaves the old one running.
	if err != nil || strings.TrimSuffix(program, " (deleted)") != ours {
		return false
	}
	title, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	return err == nil && len(title) <= maxTitle && s.titled(string(title))
}

// titled tells whether the title of a process is that of this server's
// listener: its command line in one piece, with [listener] behind it (sshd.c,
// and prepare_proctitle).
func (s Server) titled(title string) bool {
	title, _, _ = strings.Cut(title, "\x00")
	command, _, ok := strings.Cut(title, " [listener]")
	if !ok || !strings.HasPrefix(command, "sshd: ") {
		return false
	}
	config := defaultConfig
	words := strings.Fields(command)
	for i, w := range words {
		switch {
		case w == "-f" && i+1 < len(words):
			config = words[i+1]
		case strings.HasPrefix(w, "-f"):
			config = w[2:]
		}
	}
	return config == s.Config
}

const defaultConfig = "/etc/ssh/sshd_config"

// reload has it read its configuration again, and waits until it listens: it
// writes its PidFile then (sshd.c, main). A configuration that it cannot use
// ends it.
func (l listener) reload(ctx context.Context, s Server) error {
	before, err := os.Stat(l.pidFile)
	if err != nil {
		return err
	}
	if !s.is(l.pid) {
		return errNotRunning
	}
	if err := unix.Kill(l.pid, unix.SIGHUP); err != nil {
		return fmt.Errorf("cannot signal sshd, process %d: %w", l.pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	tick := time.NewTicker(reloadPoll)
	defer tick.Stop()
	for !l.wrote(before) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("sshd, process %d, was told to read its configuration, and does not listen again: %w", l.pid, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// wrote tells whether it has written another PidFile than before.
func (l listener) wrote(before fs.FileInfo) bool {
	now, err := os.Stat(l.pidFile)
	if err != nil || os.SameFile(before, now) && now.ModTime().Equal(before.ModTime()) {
		return false
	}
	return l.names()
}

// names tells whether the PidFile names it.
func (l listener) names() bool {
	text, err := durable.Read(l.pidFile, maxPIDFile)
	return err == nil && bytes.Equal(bytes.TrimSpace(text), []byte(strconv.Itoa(l.pid)))
}

// listensAt are the addresses that it is told to listen at, HOST:PORT.
func listensAt(f inForce) []string { return slices.Clone(f["listenaddress"]) }
