package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"

	"devicetrust/e2e/stage"
)

// converse FILE STATUS PROGRAM [ARG…] runs it on a terminal and plays FILE:
// a line "< TEXT" waits until TEXT is on the screen (after what was waited
// for before), a line "> TEXT" types TEXT and Enter, "^ X" types Control-X.
// What was on the screen is in the file terminal afterwards.
func cmdConverse(ts *testscript.TestScript, neg bool, args []string) {
	setOf(ts, neg)
	usage(ts, args, 3, "converse FILE STATUS PROGRAM [ARG…]")
	cmd := exec.Command(args[2], args[3:]...)
	if path := filepath.Join(binDir, args[2]); !strings.Contains(args[2], "/") {
		if _, err := os.Stat(path); err == nil {
			cmd = exec.Command(path, args[3:]...)
		}
	}
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = os.Environ()
	for _, v := range []string{"PATH", "HOME", "DTSH_HOME", "DTSH_TPM", "DTSH_DMI_DIR", "DTSH_PROXY", "DTSH_USER",
		"DTCTL_DATA_DIR", "EDITOR", "TZ"} {
		cmd.Env = append(cmd.Env, v+"="+ts.Getenv(v))
	}
	cmd.Env = append(cmd.Env, "TERM=xterm")
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 31, Cols: 97})
	ts.Check(err)
	screen := &screen{}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = screen.ReadFrom(tty) // ends with EIO when the program does
	}()
	err = play(ts.ReadFile(args[0]), tty, screen)
	if err != nil {
		_ = cmd.Process.Kill()
	}
	// Whoever still waits for an answer when the dialogue is over is ended:
	// the status is -1 then.
	over := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait() // the state says how it ended
	over.Stop()
	status := fmt.Sprint(cmd.ProcessState.ExitCode())
	<-read
	ts.Check(errors.Join(tty.Close(), os.WriteFile(ts.MkAbs("terminal"), []byte(screen.String()), 0o600)))
	ts.Logf("[terminal]\n%s", screen)
	ts.Check(err)
	if status != args[1] {
		ts.Fatalf("exit status %s, not %s", status, args[1])
	}
}

func play(dialogue string, tty *os.File, screen *screen) error {
	lines := bufio.NewScanner(strings.NewReader(dialogue))
	for lines.Scan() {
		what, text, _ := strings.Cut(lines.Text(), " ")
		var err error
		switch what {
		case "<":
			err = screen.wait(text)
		case ">":
			_, err = tty.WriteString(text + "\n")
		case ":":
			_, err = tty.WriteString(text)
		case "^":
			_, err = tty.Write([]byte{text[0] & 0x1f})
		default:
			err = errors.New("a line starts with <, >, : or ^")
		}
		if err != nil {
			return fmt.Errorf("%q: %w", lines.Text(), err)
		}
	}
	return lines.Err()
}

// screen is what a terminal has shown.
type screen struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	seen int // up to here it was waited for
}

func (s *screen) ReadFrom(f *os.File) (int64, error) {
	block := make([]byte, 4096)
	for {
		n, err := f.Read(block)
		s.mu.Lock()
		s.buf.Write(block[:n])
		s.mu.Unlock()
		if err != nil {
			return 0, err
		}
	}
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *screen) wait(text string) error {
	return stage.Poll(context.Background(), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		at := bytes.Index(s.buf.Bytes()[s.seen:], []byte(text))
		if at >= 0 {
			s.seen += at + len(text)
		}
		return at >= 0
	})
}
