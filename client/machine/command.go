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
	cmd.WaitDelay = commandTimeout
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(stdout, maxOutput+1))
	if len(text) > maxOutput {
		cancel() // it would wait for us to read on
		err = fmt.Errorf("%s prints more than %d bytes", path, maxOutput)
	}
	if waitErr := cmd.Wait(); err == nil {
		err = waitErr
	}
	if err != nil {
		return nil, err
	}
	return text, nil
}
