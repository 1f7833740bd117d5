package sshd

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"devicetrust/durable"
)

// server is a process that serves SSH.
type server struct {
	pid     int
	program string // file that it runs
	args    []string
	started time.Time
}

// servers are the names of programs that serve SSH.
var servers = map[string]bool{"sshd": true, "dropbear": true, "dropbearmulti": true, "tinysshd": true, "lshd": true}

// listeners finds the servers that run on this machine; not those of containers,
// which are machines of their own, and not the processes of their sessions.
func listeners(proc string) ([]server, error) {
	names, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	boot := bootTime(proc)
	own, _ := os.Readlink(filepath.Join(proc, "self/ns/pid"))
	var all []server
	for i, name := range names {
		pid, err := strconv.Atoi(name.Name())
		if err != nil || i > maxProcesses {
			continue
		}
		folder := filepath.Join(proc, name.Name())
		if theirs, err := os.Readlink(filepath.Join(folder, "ns/pid")); err == nil && theirs != own {
			continue
		}
		p, ok := readProcess(folder)
		if ok {
			p.pid, p.started = pid, boot.Add(startTime(folder))
			all = append(all, p)
		}
	}
	return all, nil
}

// readProcess: sshd writes over its arguments (sshd.c, setproctitle): the one that
// listens is "sshd: " + its arguments + " [listener] …", and those of sessions are
// "sshd: user@pts/0".
func readProcess(folder string) (server, bool) {
	program, err := os.Readlink(filepath.Join(folder, "exe"))
	if err != nil {
		return server{}, false // it has ended, or is the kernel's
	}
	program = strings.TrimSuffix(program, " (deleted)")
	text, err := readSome(filepath.Join(folder, "cmdline"))
	if err != nil || len(text) == 0 {
		return server{}, false
	}
	line := strings.ReplaceAll(strings.TrimRight(string(text), "\x00"), "\x00", " ")
	title, titled := strings.CutPrefix(line, "sshd: ")
	before, _, listening := strings.Cut(title, " [listener]")
	if !servers[filepath.Base(program)] && !(titled && listening) {
		return server{}, false
	}
	if titled && !listening {
		return server{}, false // a session
	}
	return server{program: program, args: strings.Fields(before)}, true
}

func readSome(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, maxCommandLine)
	n, err := f.Read(buf)
	if n > 0 {
		err = nil
	}
	return buf[:n], err
}

// bootTime and startTime: proc(5), /proc/stat and /proc/PID/stat; the latter is
// in hundredths of a second (USER_HZ) on all of Linux's systems.
func bootTime(proc string) time.Time {
	text, _ := readSome(filepath.Join(proc, "stat"))
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "btime "); ok {
			seconds, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return time.Unix(seconds, 0)
		}
	}
	return time.Unix(0, 0)
}

func startTime(folder string) time.Duration {
	text, _ := readSome(filepath.Join(folder, "stat"))
	_, after, _ := bytes.Cut(text, []byte(") ")) // the name may hold anything
	if i := bytes.LastIndex(text, []byte(") ")); i >= 0 {
		after = text[i+2:]
	}
	fields := strings.Fields(string(after))
	if len(fields) < 20 {
		return 0
	}
	ticks, _ := strconv.ParseInt(fields[19], 10, 64) // field 22, of which two are before
	return time.Duration(ticks) * 10 * time.Millisecond
}

// option is the value of a one-letter option of sshd.
func (p server) option(letter string) (values []string) {
	for i, arg := range p.args {
		if value, ok := strings.CutPrefix(arg, "-"+letter); ok && i > 0 {
			if value == "" && i+1 < len(p.args) {
				value = p.args[i+1]
			}
			values = append(values, value)
		}
	}
	return values
}

// processes looks whether what runs does what the configuration says.
func (a *auditor) processes() {
	all, err := listeners(a.Proc)
	if err != nil {
		a.add(Finding{
			Code: "processes-unreadable", Severity: SeverityOpen, Setting: "processes", Value: brief(err.Error()), File: a.Proc,
			Problem: "It cannot be told which servers run.", Remedy: "Run it where /proc is mounted.",
		})
	}
	seen := map[string]bool{}
	for _, p := range all {
		line := brief(strings.Join(p.args, " "))
		if seen[line] {
			continue
		}
		seen[line] = true
		if !a.isOurs(p) {
			a.add(Finding{
				Code: "other-server", Severity: SeverityOpen, Setting: "process", Value: line, Want: a.SSHD + " -f " + a.SSHDConfig, File: p.program,
				Problem: "Process " + strconv.Itoa(p.pid) + " serves SSH with another configuration than was audited.",
				Remedy:  "End it, or audit its configuration with --sshd and --sshd-config.",
			})
			continue
		}
		a.started(p, line)
	}
}

func (a *auditor) isOurs(p server) bool {
	if filepath.Base(p.program) != filepath.Base(a.SSHD) || !isSameFile(p.program, a.SSHD) && exists(p.program) {
		return false
	}
	config := a.DefaultConfig
	if given := p.option("f"); len(given) > 0 {
		config = given[len(given)-1]
	}
	// In which folder sshd was started is not known any more.
	return filepath.IsAbs(config) && isSameFile(config, a.SSHDConfig)
}

// started looks what a server was started with, and when.
func (a *auditor) started(p server, line string) {
	for _, option := range p.option("o") {
		a.add(Finding{
			Code: "command-line-option", Severity: SeverityOpen, Setting: "process", Value: option, Want: "no -o", File: p.program,
			Problem: "Process " + strconv.Itoa(p.pid) + " was started with an option that wins over the configuration.",
			Remedy:  "Remove it where the service is defined, as in /etc/default/ssh, and start it again.",
		})
	}
	loaded, slack := p.started, 2*time.Second // the time of the start is in whole seconds
	if written, ok := a.pidFile(p.pid); ok {
		loaded, slack = written, 0
	}
	if changed, file := a.changed(); changed.After(loaded.Add(slack)) {
		a.add(Finding{
			Code: "not-reloaded", Severity: SeverityOpen, Setting: "process", Value: line, Want: "started or reloaded after " + file + " changed", File: file,
			Problem: "Process " + strconv.Itoa(p.pid) + " does what the configuration said before it changed.",
			Remedy:  "Reload it: systemctl reload ssh, or kill -HUP " + strconv.Itoa(p.pid) + ".",
		})
	}
}

// pidFile is when the process wrote its number, which it does again when it is
// told to read its configuration again (sshd.c, sighup_restart).
func (a *auditor) pidFile(pid int) (time.Time, bool) {
	path := a.baseline.Get("pidfile")
	text, err := durable.Read(path, 64)
	if err != nil || strings.TrimSpace(string(text)) != strconv.Itoa(pid) {
		return time.Time{}, false
	}
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}, false
	}
	return info.ModTime(), true
}

// changed is when the configuration last did, and where. A file's time of change
// cannot be set back, as that of its content can.
func (a *auditor) changed() (last time.Time, file string) {
	look := func(path string, at func(fs.FileInfo) time.Time) {
		if info, err := os.Stat(path); err == nil && at(info).After(last) {
			last, file = at(info), path
		}
	}
	for _, path := range a.config.files {
		look(path, changeTime)
	}
	for _, pattern := range a.config.globs { // what was removed
		look(folderOf(pattern), fs.FileInfo.ModTime)
	}
	return last, file
}

func isSameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errors.Join(errX, errY) == nil && os.SameFile(x, y)
}

func changeTime(info fs.FileInfo) time.Time {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.ModTime()
	}
	return time.Unix(stat.Ctim.Sec, stat.Ctim.Nsec)
}
