package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"devicetrust/node/helper"
	"devicetrust/node/sockets"
)

// RunHelper does the work of a process that a node has started, and gives the
// status to exit with; it is false in any other process. A program that runs
// nodes asks before all else. (The nursery has done its work before the main
// function.)
func RunHelper(now func() time.Time) (status int, was bool) {
	h, was := helper.Was()
	if !was || h.Work == helper.NoWork {
		return h.Status, was
	}
	// A helper is started for a short life on one processor.
	debug.SetGCPercent(100)
	runtime.GOMAXPROCS(runtime.NumCPU())
	switch h.Work {
	case helper.SFTP:
		return transferFiles(now), true
	case helper.Sockets:
		return sockets.Serve(os.Stdin), true
	default:
		return 1, true
	}
}

// helpers is where sessions' processes come from.
type helpers struct {
	log *slog.Logger

	mu      sync.Mutex
	nursery *nursery // nil: none yet
	closed  bool
}

// begin starts a session's first process, with files as its standard ones. It
// returns when that runs; or when ctx ends, and then the process does.
func (hs *helpers) begin(ctx context.Context, r helper.Request, files [3]*os.File) (*child, arrival, error) {
	packet, err := r.Marshal()
	if err != nil {
		return nil, arrival{}, err
	}
	c, conn, err := hs.fork(ctx, r, packet, files)
	if err != nil {
		return nil, arrival{}, err
	}
	defer conn.Close()
	found, err := become(ctx, conn, r, packet)
	if err != nil {
		c.discard()
		return nil, arrival{}, err
	}
	return c, found, nil
}

func (hs *helpers) fork(ctx context.Context, r helper.Request, packet []byte, files [3]*os.File) (*child, *os.File, error) {
	for range nurseryTries {
		n, err := hs.take()
		if err != nil {
			return nil, nil, err
		}
		c, conn, err := n.fork(ctx, r, packet, files)
		if errors.Is(err, errNurseryGone) {
			hs.log.Warn("what sessions come from has ended; there is another one", "pid", n.pid)
			hs.drop(n)
			continue
		}
		return c, conn, err
	}
	return nil, nil, errNurseryGone
}

// take gives the nursery, a new one where there is none.
func (hs *helpers) take() (*nursery, error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.closed {
		return nil, errors.New(shuttingDown)
	}
	if hs.nursery != nil {
		return hs.nursery, nil
	}
	n, err := startNursery()
	if err != nil {
		return nil, err
	}
	hs.nursery = n
	go func() {
		<-n.ended
		hs.drop(n)
		_, _ = n.bury()
	}()
	return n, nil
}

// drop makes room for another one.
func (hs *helpers) drop(n *nursery) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.nursery == n {
		hs.nursery = nil
	}
}

// close ends the nursery; sessions go on.
func (hs *helpers) close() {
	hs.mu.Lock()
	hs.closed = true
	n := hs.nursery
	hs.mu.Unlock()
	if n != nil {
		n.discard()
		<-n.ended
	}
}

// arrival is how a process found the account's home.
type arrival struct {
	// warning is for the person: what is not as it should be.
	warning string
	// hushed: the person wants no greeting.
	hushed bool
}

// become waits until the process runs what r says, and gives how it found
// the account's home; or until ctx ends.
func become(ctx context.Context, conn *os.File, r helper.Request, packet []byte) (found arrival, err error) {
	if r.Work != helper.NoWork {
		// It is this program once more, and wants to hear it itself.
		if _, err := conn.Write(packet); err != nil {
			return arrival{}, fmt.Errorf("the session's process has ended: %w", cause(err))
		}
	}
	for {
		report, err := readReport(ctx, conn)
		switch {
		case errors.Is(err, errNotInTime):
			return arrival{}, context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return found, nil // the socket closed with its exec
		case err != nil:
			return arrival{}, fmt.Errorf("the session's process does not say whether it runs: %w", cause(err))
		case report.Step == helper.Home:
			found.warning = fmt.Sprintf("Could not chdir to home directory %s: %v", r.Home, report.Errno())
		case report.Step == helper.Hush:
			found.hushed = true
		default:
			return arrival{}, report.Err(r)
		}
	}
}
