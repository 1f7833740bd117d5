package node

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// sweeper ends what sessions leave running. One goroutine reads /proc for all
// of them: a policy that cuts off a thousand sessions is one pass, not a
// thousand.
type sweeper struct {
	add  chan *sweep
	stop chan struct{}
	done chan struct{}
}

// sweepStep is the time between two looks at what is left.
const sweepStep = 25 * time.Millisecond

// sweep is one process's session to be ended.
type sweep struct {
	process *process
	// all: everything of the session, not only the process's own group.
	all bool
	// grace between SIGHUP and SIGKILL, and how much of it is over.
	grace, waited time.Duration
}

func newSweeper() *sweeper {
	s := &sweeper{add: make(chan *sweep), stop: make(chan struct{}), done: make(chan struct{})}
	go s.run()
	return s
}

// close kills what is still pending.
func (s *sweeper) close() {
	close(s.stop)
	<-s.done
}

// hangup ends p because its session is over: SIGHUP to all of the session
// and, after a grace, SIGKILL to what has not ended. Where all is false that
// is p's own group: what was started with nohup(1) in a job of its own goes
// on, as with sshd. Where all is true, because policy ends the session, it is
// everything of the session.
//
// What has left the session (setsid(2), a service manager) is no part of it.
func (s *sweeper) hangup(p *process, all bool, grace time.Duration) {
	p.ending.Do(func() {
		p.mu.Lock()
		p.forced = !p.reaped
		p.mu.Unlock()
		if !p.forced {
			return
		}
		select {
		case s.add <- &sweep{process: p, all: all, grace: grace}:
		case <-s.stop:
			_ = unix.Kill(-p.pid, unix.SIGKILL)
			close(p.swept)
		}
	})
}

func (s *sweeper) run() {
	defer close(s.done)
	ticker := time.NewTicker(sweepStep)
	defer ticker.Stop()
	ticker.Stop()
	pending := map[*sweep]struct{}{}
	for {
		select {
		case w := <-s.add:
			if len(pending) == 0 {
				ticker.Reset(sweepStep)
			}
			pending[w] = struct{}{}
			w.hangup()
		case <-ticker.C:
			s.round(pending)
			if len(pending) == 0 {
				ticker.Stop()
			}
		case <-s.stop:
			for w := range pending {
				w.waited = w.grace
			}
			s.round(pending)
			for w := range pending {
				close(w.process.swept)
			}
			return
		}
	}
}

// round looks once at what is left of each. Until its swept is closed a
// process is not reaped: its pid stands for its session and its group, and
// for nobody else.
func (s *sweeper) round(pending map[*sweep]struct{}) {
	sessions, err := readSessions()
	if err != nil { // without /proc there are only the groups
		for w := range pending {
			if w.waited += sweepStep; w.waited > w.grace {
				_ = unix.Kill(-w.process.pid, unix.SIGKILL)
				close(w.process.swept)
				delete(pending, w)
			}
		}
		return
	}
	for w := range pending {
		left := w.left(sessions[w.process.pid])
		// Twice the grace is for what SIGKILL takes a while with (a hung
		// disk) or cannot reach (somebody else's, where we are not root).
		if len(left) == 0 || w.waited >= 2*w.grace+time.Second {
			close(w.process.swept)
			delete(pending, w)
			continue
		}
		if w.waited == 0 {
			for _, m := range sessions[w.process.pid] {
				if m.group == w.process.pid {
					continue // has had it
				}
				_ = unix.Kill(m.pid, unix.SIGHUP)
				_ = unix.Kill(m.pid, unix.SIGCONT)
			}
		}
		if w.waited >= w.grace {
			for _, m := range left {
				_ = unix.Kill(m.pid, unix.SIGKILL)
			}
		}
		w.waited += sweepStep
	}
}

// hangup reaches the process's own group without a look at /proc. SIGCONT is
// for what is stopped and would not hear it.
func (w *sweep) hangup() {
	_ = unix.Kill(-w.process.pid, unix.SIGHUP)
	_ = unix.Kill(-w.process.pid, unix.SIGCONT)
}

// left are those that have to go and have not.
func (w *sweep) left(session []relative) []relative {
	var left []relative
	for _, m := range session {
		if w.all || m.group == w.process.pid {
			left = append(left, m)
		}
	}
	return left
}

type relative struct{ pid, group int }

// readSessions gives the living processes by their session
// (proc_pid_stat(5)).
func readSessions() (map[int][]relative, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	sessions := map[int][]relative{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		if group, session, alive := parseStat(stat); alive {
			sessions[session] = append(sessions[session], relative{pid, group})
		}
	}
	return sessions, nil
}

// parseStat reads the fields after the name, which may hold anything, blanks
// and parentheses too.
func parseStat(stat []byte) (group, session int, alive bool) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, 0, false
	}
	f := bytes.Fields(stat[end+1:])
	if len(f) < 4 {
		return 0, 0, false
	}
	group, err1 := strconv.Atoi(string(f[2]))
	session, err2 := strconv.Atoi(string(f[3]))
	return group, session, err1 == nil && err2 == nil && f[0][0] != 'Z' && f[0][0] != 'X'
}
