package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// Process is something that runs on the stage. It is ended by its own
// process id, never by a name.
type Process struct {
	Name string
	// Log is the file that holds what it prints.
	Log string

	process *os.Process
	from    int64 // where this run's part of the log begins
	done    chan struct{}
	err     error // of Wait; read after done
}

// Command says what to start. A program without a slash in it is one of
// ours where there is one of that name, else the system's.
type Command struct {
	Name    string
	Program string
	Args    []string
	Env     []string // added to this program's own
	As      *syscall.Credential
	// Limits, as ulimit's arguments, hold for the process.
	Limits string
}

// Start starts c; what it prints is appended to DIR/NAME.log.
func (s *Stage) Start(c Command) (*Process, error) {
	logName := filepath.Join(s.Dir, c.Name+".log")
	log, err := os.OpenFile(logName, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	program := c.Program
	if ours := filepath.Join(s.Bin, program); !strings.Contains(program, "/") && exists(ours) {
		program = ours
	}
	cmd := exec.Command(program, c.Args...)
	if c.Limits != "" {
		cmd = exec.Command("/bin/sh", append([]string{"-c", "ulimit " + c.Limits + ` && exec "$0" "$@"`, program}, c.Args...)...)
	}
	cmd.Dir = s.Dir
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.As, Setsid: s.Detach}
	if !s.Detach {
		// Nothing outlives a test that was killed.
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return s.add(&Process{Name: c.Name, Log: logName, process: cmd.Process, from: from}, cmd.Wait), nil
}

// add puts a process on the stage that wait waits for.
func (s *Stage) add(p *Process, wait func() error) *Process {
	p.done = make(chan struct{})
	go func() {
		p.err = wait()
		close(p.done)
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.procs = append(s.procs, p)
	return p
}

// adopt puts a process on the stage that one of its processes, p, has made its
// sibling, and so a child of this program.
func (s *Stage) adopt(pid int, p *Process) (*Process, error) {
	process, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	return s.add(&Process{Name: p.Name, Log: p.Log, process: process, from: p.from}, func() error {
		state, err := process.Wait()
		if err == nil && !state.Success() {
			err = &exec.ExitError{ProcessState: state}
		}
		return err
	}), nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// PID is the process's id.
func (p *Process) PID() int { return p.process.Pid }

// Ended tells whether it runs no more.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Stop asks it to end and waits; an exit status other than 0 is an error.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := Poll(ctx, p.Ended); err != nil {
		return fmt.Errorf("%s does not end: %w", p.Name, err)
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w\n%s", p.Name, p.err, p.tail())
	}
	return nil
}

// Kill ends it at once, in the middle of whatever it does.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// Signal sends it sig.
func (p *Process) Signal(sig os.Signal) error {
	if p.Ended() {
		return os.ErrProcessDone
	}
	return p.process.Signal(sig)
}

// WaitLog waits until it has printed what pattern matches, and returns the
// match with its groups.
func (p *Process) WaitLog(ctx context.Context, pattern *regexp.Regexp) ([]string, error) {
	var found []string
	err := Poll(ctx, func() bool {
		ended := p.Ended() // before the log is read: it says all then
		found = pattern.FindStringSubmatch(p.printed())
		return found != nil || ended
	})
	if found != nil {
		return found, nil
	}
	if err == nil {
		err = fmt.Errorf("it ended: %w", errors.Join(p.err, errors.New("see its log")))
	}
	return nil, fmt.Errorf("%s never printed %q: %w\n%s", p.Name, pattern, err, p.tail())
}

// printed is what this run has printed.
func (p *Process) printed() string {
	data, err := os.ReadFile(p.Log)
	if err != nil || int64(len(data)) < p.from {
		return ""
	}
	return string(data[p.from:])
}

func (p *Process) tail() string {
	lines := bytes.Split([]byte(p.printed()), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-20):], []byte("\n")))
}
