package machine

import (
	"context"
	"fmt"
	"io"
	"os/exec"
)

// output is what a program of the system prints: its whole path is given, so
// that no other one is run, and it gets nothing of our environment.
func output(ctx context.Context, path string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"LC_ALL=C"}
	// What it leaves behind may hold its output for ever.
	cmd.WaitDelay = waitDelay
	var text bounded
	cmd.Stdout = &text
	err := cmd.Run()
	if text.full {
		return nil, fmt.Errorf("%s prints more than %d bytes", path, maxOutput)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text.text, nil
}

// bounded takes maxOutput bytes; whoever writes more is told that nobody reads
// on. It is no bytes.Buffer, which takes all that a reader has.
type bounded struct {
	text []byte
	full bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.text)+len(p) > maxOutput {
		b.full = true
		return 0, io.ErrShortWrite
	}
	b.text = append(b.text, p...)
	return len(p), nil
}
