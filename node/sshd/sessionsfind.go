package sshd

import (
	"os"
	"path/filepath"
	"strings"
)

// How processes of sshd are called. From OpenSSH 9.8 on the one that listens and
// those of connections are programs of their own.
func isSSHD(program string) bool {
	switch filepath.Base(program) {
	case "sshd", "sshd-session":
		return true
	default:
		return false
	}
}

// sshdRole is what a process of sshd's does.
type sshdRole int

const (
	// listens for connections, or was just started for one and is not known as
	// its own yet.
	listens sshdRole = iota + 1
	// prepares: nobody is let in yet, or it is root's side of a connection.
	prepares
	// serves: somebody is in.
	serves
)

// titled reads what a process of sshd's calls itself (sshd.c, monitor.c,
// session.c: setproctitle), which is after "sshd: " or "sshd-session: ":
//
//	/usr/sbin/sshd -D -f FILE [listener] 0 of 10-100 startups
//	[accepted] · [rexeced] · [net] · unknown [priv] · LOGIN [priv] · LOGIN [net]
//	LOGIN · LOGIN@notty · LOGIN@pts/0,pts/1
//
// detail is the arguments of one that listens, else the login.
func titled(title string) (r sshdRole, detail string) {
	name, rest, ok := strings.Cut(title, ": ")
	if !ok || name != "sshd" && name != "sshd-session" {
		return listens, title // before OpenSSH 8.2 its arguments are its title
	}
	if arguments, _, is := strings.Cut(rest, " [listener] "); is {
		return listens, arguments
	}
	if strings.HasPrefix(rest, "[") {
		return prepares, ""
	}
	if login, state, bracket := strings.Cut(rest, " ["); bracket && strings.HasSuffix(state, "]") {
		return prepares, login
	}
	login := rest
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		login = rest[:at]
	}
	return serves, login
}

// configOf is the file that an sshd with the arguments reads.
func configOf(arguments string) string {
	f := strings.Fields(arguments)
	for i, word := range f {
		switch {
		case word == "-f" && i+1 < len(f):
			return f[i+1]
		case strings.HasPrefix(word, "-f"):
			return word[2:]
		}
	}
	return defaultConfig
}

func samePath(a, b string) bool {
	if a == b {
		return true
	}
	one, err1 := os.Stat(a)
	other, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(one, other)
}

// served is a connection on which somebody is in.
type served struct {
	// top is root's process of the connection.
	top Process
	// worker does what the person asks for, as that person; where that is root
	// it is top.
	worker Process
	login  string
	uid    uint32
	// orphan: which sshd took the connection cannot be told, since that has
	// ended or never listened.
	orphan bool
}

// findServed gives the connections of the sshd with the configuration, and of those
// whose sshd cannot be told; which listen with it; and root's processes of the
// connections of others.
func findServed(p proc, all processes, config string) (found []served, listeners, strangers []Process) {
	ours, others := map[int]bool{}, map[int]bool{} // listeners
	tops := map[int]sshdRole{}
	logins := map[int]string{}
	for pid, one := range all {
		if !p.sshd(one) {
			continue
		}
		uid, ok := p.uid(pid)
		if !ok || uid != 0 || p.contained(pid) {
			continue
		}
		r, detail := titled(p.title(pid))
		switch r {
		case listens:
			if samePath(configOf(detail), config) {
				ours[pid], listeners = true, append(listeners, one.Process)
			} else {
				others[pid] = true
			}
		default:
			tops[pid], logins[pid] = r, detail
		}
	}
	children := all.children()
	for pid, r := range tops {
		parent := all[pid].parent
		if _, below := tops[parent]; below {
			continue
		}
		if others[parent] {
			strangers = append(strangers, all[pid].Process)
			continue
		}
		c := served{top: all[pid].Process, login: logins[pid], orphan: !ours[parent]}
		if r == serves {
			c.worker = c.top
		} else {
			c.worker, c.uid = workerOf(p, children[pid])
			// It may have been on its way when its title was read: who it is for
			// stands there before anybody is in.
			_, c.login = titled(p.title(pid))
		}
		if c.worker != (Process{}) && c.login != "" {
			found = append(found, c)
		}
	}
	return found, listeners, strangers
}

// workerOf finds the one that serves; before somebody is in there is none.
func workerOf(p proc, children []process) (Process, uint32) {
	for _, one := range children {
		if !p.sshd(one) {
			continue
		}
		if r, _ := titled(p.title(one.PID)); r != serves {
			continue
		}
		if uid, ok := p.uid(one.PID); ok {
			return one.Process, uid
		}
	}
	return Process{}, 0
}

// sshd tells whether the process runs it. Its name, which anybody may choose, is
// asked first: that is known already, and most processes are others. What it runs
// is asked each time: execve(2) changes that, and may leave the name.
func (p proc) sshd(one process) bool { return isSSHD(one.name) && isSSHD(p.program(one.PID)) }

// contained tells whether the process is a container's (pid_namespaces(7)), which
// is a machine of its own: what its paths name is not what they name here.
func (p proc) contained(pid int) bool {
	theirs, err1 := os.Readlink(p.path(pid, "ns/pid"))
	own, err2 := os.Readlink(filepath.Join(string(p), "self/ns/pid"))
	return err1 == nil && err2 == nil && theirs != own
}

// IsDefault tells whether an sshd that is not told reads the configuration.
func IsDefault(config string) bool { return samePath(config, defaultConfig) }
