package client

import (
	"context"
	"os"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
)

const lockFileName = "lock"

// Lock keeps other programs from changing what is in the home until unlock is
// called; it is for the time of a few writes, and never for that of a call.
// Those who only read need it not. Where the file system has no locks, there
// is none.
func (h *Home) Lock(ctx context.Context) (unlock func(), err error) {
	if err := h.folder(); err != nil {
		return nil, err
	}
	path := h.path(lockFileName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unwritable(path, err)
	}
	for range lockAttempts {
		held, err := lockFile(f)
		if err != nil {
			_ = f.Close()
			return nil, unwritable(path, err)
		}
		if held {
			return func() { _ = f.Close() }, nil // which gives the lock back
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(lockInterval):
		}
	}
	_ = f.Close()
	return nil, api.Refuse(connect.CodeUnavailable, "another program is changing %q and does not end", h.dir).
		WithHint("See what other dtsh there is, end it, and try again.")
}
