package node

import (
	"errors"
	"strings"
	"sync"
)

// logIn tells the machine of a session on a terminal, and gives what the person
// is to be told; the end is told when p closes the terminal, since another
// session may have that from then on. As with sshd the session does not depend
// on it: the record that counts is the audit log's.
func (s *session) logIn(p *process) (greeting string) {
	if s.terminal == nil {
		return ""
	}
	srv, from := s.conn.server, s.conn.remote.Addr()
	now, line := srv.now(), strings.TrimPrefix(s.terminal.name, "/dev/")
	last, failed := srv.logins.files.logLast(s.admit.account.uid, lastLogin{now, line, from.String()})
	entry := utmpEntry{pid: p.pid, line: line, user: s.admit.account.name, from: from, time: now}
	failed = errors.Join(failed, srv.logins.log(entry))
	p.logOut = sync.OnceFunc(func() {
		entry.over, entry.time = true, srv.now()
		if err := srv.logins.log(entry); err != nil {
			srv.log.Warn("the end of a login is not in the machine's files", "sid", s.id, "error", err)
		}
	})
	if s.task.kind == loginShell && !p.hushed {
		if srv.login.printLastLog {
			greeting = last.greeting(now.Location())
		}
		if srv.login.printMOTD {
			motd, err := srv.logins.files.messageOfTheDay()
			failed = errors.Join(failed, err)
			greeting += motd
		}
	}
	if failed != nil {
		srv.log.Warn("a login is not in the machine's files, or not greeted", "sid", s.id, "error", failed)
	}
	return greeting
}
