package node

import (
	"bytes"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// sweeper ends what sessions leave running. One goroutine reads /proc for all
// of them: a policy that cuts off a thousand sessions is one pass, not a
// thousand.
type sweeper struct {
	// look gives the living processes by their session.
	look func() (map[int][]relative, error)
	// wake is sent to when there is something to do; who sends does not wait.
	wake chan struct{}
	done chan struct{}

	mu      sync.Mutex
	added   []*sweep
	closing bool
}

// sweepStep is the time between two looks at what is left. On a machine where
// one takes long, most of the time is still others'.
const sweepStep = 25 * time.Millisecond

// sweep is one process's session to be ended.
type sweep struct {
	process *process
	// all: everything of the session, not only the process's own group.
	all bool
	// told: those outside of the group have had their SIGHUP.
	told bool
	// late: the grace is over, and SIGKILL is due; hopeless: so long over that
	// what is left cannot be ended (a hung disk, or somebody else's where we
	// are not root). They go by the clock, however long a look takes.
	late, hopeless *deadline
}

func newSweeper(look func() (map[int][]relative, error)) *sweeper {
	s := &sweeper{look: look, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.run()
	return s
}

// close kills what is still pending.
func (s *sweeper) close() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.rouse()
	<-s.done
}

func (s *sweeper) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// hangup ends p because its session is over: SIGHUP to all of the session
// and, after a grace, SIGKILL to what has not ended. Where all is false that
// is p's own group. Where all is true, because policy ends the session, it is
// everything of the session.
//
// What has left the session (setsid(2), a service manager) is no part of it.
//
// It does not wait: a thousand sessions are told before one look at /proc is
// over.
func (s *sweeper) hangup(p *process, all bool, grace time.Duration) {
	p.ending.Do(func() {
		p.mu.Lock()
		p.forced = !p.reaped
		if p.forced {
			// SIGCONT is for what is stopped and would not hear it.
			_ = unix.Kill(-p.pid, unix.SIGHUP)
			_ = unix.Kill(-p.pid, unix.SIGCONT)
		}
		p.mu.Unlock()
		if !p.forced {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closing {
			_ = unix.Kill(-p.pid, unix.SIGKILL)
			close(p.swept)
			return
		}
		s.added = append(s.added, &sweep{
			process: p, all: all, late: after(grace), hopeless: after(2*grace + time.Second),
		})
		s.rouse()
	})
}

// deadline is a time that passes.
type deadline struct {
	passed atomic.Bool
	timer  *time.Timer
}

func after(d time.Duration) *deadline {
	var this deadline
	this.timer = time.AfterFunc(d, func() { this.passed.Store(true) })
	return &this
}

func (s *sweeper) run() {
	defer close(s.done)
	rest := time.NewTimer(sweepStep)
	defer rest.Stop()
	pending := map[*sweep]struct{}{}
	for {
		select {
		case <-s.wake:
		case <-rest.C:
		}
		s.mu.Lock()
		for _, w := range s.added {
			pending[w] = struct{}{}
		}
		s.added = nil
		closing := s.closing
		s.mu.Unlock()
		s.round(pending, closing)
		if closing {
			for w := range pending {
				w.over()
			}
			return
		}
		if len(pending) > 0 {
			rest.Reset(sweepStep)
		}
	}
}

// round looks once at what is left of each. Until its swept is closed a
// process is not reaped: its pid stands for its session and its group, and
// for nobody else.
func (s *sweeper) round(pending map[*sweep]struct{}, closing bool) {
	if len(pending) == 0 {
		return
	}
	sessions, err := s.look()
	for w := range pending {
		kill := closing || w.late.passed.Load()
		if err != nil { // without /proc there are only the groups
			if kill {
				_ = unix.Kill(-w.process.pid, unix.SIGKILL)
				w.over()
				delete(pending, w)
			}
			continue
		}
		left := w.left(sessions[w.process.pid])
		if len(left) == 0 || w.hopeless.passed.Load() {
			w.over()
			delete(pending, w)
			continue
		}
		for _, m := range sessions[w.process.pid] {
			if w.told || m.group == w.process.pid {
				continue // has had it
			}
			_ = unix.Kill(m.pid, unix.SIGHUP)
			_ = unix.Kill(m.pid, unix.SIGCONT)
		}
		w.told = true
		if !kill {
			continue
		}
		// By group, which fork(2) does not get away from: one that hands itself
		// on from process to process is another by now. A group lies in one
		// session.
		groups := map[int]struct{}{}
		for _, m := range left {
			groups[m.group] = struct{}{}
		}
		for group := range groups {
			if group == w.process.pid {
				w.process.kill()
				continue
			}
			_ = unix.Kill(-group, unix.SIGKILL)
		}
	}
}

// over lets the process be reaped. What forks faster than /proc can be read
// was not seen; while the process is not reaped its group is nobody else's.
func (w *sweep) over() {
	w.late.timer.Stop()
	w.hopeless.timer.Stop()
	_ = unix.Kill(-w.process.pid, unix.SIGKILL)
	close(w.process.swept)
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
	return group, session, err1 == nil && err2 == nil && !dead(f)
}

// dead: a zombie that has threads is a process that lives without its first.
func dead(f [][]byte) bool {
	const threads = 17 // num_threads, counted from the state
	return f[0][0] == 'X' || f[0][0] == 'Z' && (len(f) <= threads || string(f[threads]) <= "1")
}
