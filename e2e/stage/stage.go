// Package stage sets up what a story needs to be played for real: the built
// programs, a software TPM and PostgreSQL as processes of their own, on free
// loopback ports, below one directory. The end-to-end scripts and the demo
// both play on it.
package stage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// patience is how long something may take that ordinarily takes
// milliseconds: generous, because machines that test are busy.
const patience = 30 * time.Second

// Stage is where one story is played. Its methods may be called from many
// goroutines.
type Stage struct {
	// Dir holds all that the story makes: state, sockets, logs.
	Dir string
	// Bin is the folder of the built programs.
	Bin string
	// Detach leaves what is started running when this program ends.
	Detach bool

	mu    sync.Mutex
	procs []*Process // in the order in which they were started
}

// Close ends all that runs, the last started first.
func (s *Stage) Close() error {
	s.mu.Lock()
	procs := slices.Clone(s.procs)
	s.mu.Unlock()
	var errs []error
	for _, p := range slices.Backward(procs) {
		errs = append(errs, p.Kill())
	}
	return errors.Join(errs...)
}

// Processes are those that have not ended, in the order of their start.
func (s *Stage) Processes() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.procs), (*Process).Ended)
}

// Output runs one of our programs with env added to the environment, and
// returns what it printed.
func (s *Stage) Output(ctx context.Context, env []string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.Bin, program), args...)
	cmd.Env = append(os.Environ(), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

// Poll asks until done says so, or ctx ends, or patience does.
func Poll(ctx context.Context, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// answers tells whether somebody listens.
func answers(network, address string) bool {
	c, err := net.DialTimeout(network, address, time.Second)
	if err != nil {
		return false
	}
	return c.Close() == nil
}
