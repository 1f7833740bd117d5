//go:build unix

package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/spf13/cobra"
)

// TestMain makes the test a program that asks for a password, where it is
// started as one: what a shell does with it, only a real one shows.
func TestMain(m *testing.M) {
	if os.Getenv("CLI_TEST_ASK") != "" {
		os.Args = []string{"prog", "ask"}
		Main(askingProgram)
	}
	os.Exit(m.Run())
}

func askingProgram(e *Env) *cobra.Command {
	root := &cobra.Command{Use: "prog", Short: "A program"}
	root.AddCommand(&cobra.Command{Use: "ask", Short: "Ask", RunE: func(c *cobra.Command, _ []string) error {
		password, err := e.ReadPassword(c.Context(), "Password: ")
		if err == nil {
			fmt.Fprintf(e.Stdout, "%d bytes were read\n", len(password))
		}
		return err
	}})
	return root
}

// shell is one that somebody works in.
type shell struct {
	t      *testing.T
	person *os.File

	mu     sync.Mutex
	screen bytes.Buffer
}

func startShell(t *testing.T, words ...string) *shell {
	t.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "PS1=$ ", "ENV=", "TERM=dumb")
	person, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		person.Close()
		cmd.Wait()
	})
	s := &shell{t: t, person: person}
	go func() {
		b := make([]byte, 1024)
		for {
			n, err := person.Read(b)
			s.mu.Lock()
			s.screen.Write(b[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *shell) shows() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.screen.String()
}

// sees waits until text is on the screen n times.
func (s *shell) sees(text string, n int) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); strings.Count(s.shows(), text) < n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("the screen has no %q %d times: %q", text, n, s.shows())
		}
	}
}

func (s *shell) types(text string) {
	s.t.Helper()
	if _, err := s.person.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// echoes fails unless the shell's terminal is as it should be.
func (s *shell) echoes(word string) {
	s.t.Helper()
	s.types("echo " + word + "-$((1+1))\n")
	s.sees(word+"-2", 1)
	if !strings.Contains(s.shows(), "echo "+word+"-$") {
		s.t.Errorf("what is typed into the shell is not seen: %q", s.shows())
	}
}

func eachShell(t *testing.T, test func(t *testing.T, s *shell)) {
	for _, words := range [][]string{{"bash", "--norc", "--noediting", "-i"}, {"dash", "-i"}} {
		t.Run(words[0], func(t *testing.T) {
			s := startShell(t, words...)
			s.types("CLI_TEST_ASK=1 '" + os.Args[0] + "'\n")
			s.sees("Password: ", 1)
			test(t, s)
		})
	}
}

func TestAPasswordPromptCanBeSuspended(t *testing.T) {
	eachShell(t, func(t *testing.T, s *shell) {
		for n := 1; n <= 2; n++ {
			s.types("\x1a")
			s.sees("topped", n)
			s.echoes(fmt.Sprintf("meanwhile%d", n))
			s.types("fg\n")
			s.sees("Password: ", n+1)
		}
		s.types("s3cret\n")
		s.sees("6 bytes were read", 1)
		if strings.Contains(s.shows(), "s3cret") {
			t.Errorf("the password is seen: %q", s.shows())
		}
		s.echoes("after")
	})
}

func TestAPasswordPromptEndsOnSignalsWithTheTerminalAsBefore(t *testing.T) {
	for key, want := range map[string]string{"\x1c": "ended by signal: quit", "\x03": "interrupted"} {
		eachShell(t, func(t *testing.T, s *shell) {
			s.types(key)
			s.sees("ERROR: "+want, 1)
			if strings.Contains(s.shows(), "goroutine") {
				t.Errorf("the screen shows %q", s.shows())
			}
			s.echoes("after")
		})
	}
}

// The system suspends nobody whom no shell would let go on.
func TestWithoutAShellCtrlZAsksAgain(t *testing.T) {
	t.Setenv("CLI_TEST_ASK", "1")
	s := startShell(t, os.Args[0])
	s.sees("Password: ", 1)
	s.types("\x1a")
	s.sees("Password: ", 2)
	s.types("s3cret\n")
	s.sees("6 bytes were read", 1)
	if strings.Contains(s.shows(), "s3cret") {
		t.Errorf("the password is seen: %q", s.shows())
	}
}
