//go:build unix

package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"

	"devicetrust/client/clienttest"
)

// TestMain makes the test dtsh itself, where it is started as that: what
// becomes of a terminal, only a process can show.
func TestMain(m *testing.M) {
	if os.Getenv("DTSH_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestWhenNobodyReadsTheOutputTheTerminalIsGivenBack(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	c.StartNode(t, "web-1", clienttest.HostCert{})
	s.login(c)
	cmd := exec.Command("dash", "-c", `{ "$0" ssh root@web-1; echo "status $?" >&2; } | head -1`, os.Args[0])
	cmd.Env = append(os.Environ(), "DTSH_TEST_MAIN=1")
	for name, value := range s.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	person, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer person.Close()
	defer tty.Close()
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	var mu sync.Mutex
	var screen bytes.Buffer
	go func() {
		b := make([]byte, 1024)
		for {
			n, err := person.Read(b)
			mu.Lock()
			screen.Write(b[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	shown := func() string {
		mu.Lock()
		defer mu.Unlock()
		return screen.String()
	}
	for deadline, over := time.After(30*time.Second), false; !over; {
		if strings.Contains(shown(), "ready") { // what head was for
			person.WriteString("echo more\r")
		}
		select {
		case <-ended:
			over = true
		case <-deadline:
			cmd.Process.Kill()
			t.Fatalf("it does not end: %q", shown())
		case <-time.After(20 * time.Millisecond):
		}
	}
	after, err := term.GetState(int(tty.Fd()))
	if err != nil || *after != *before {
		t.Errorf("the terminal is not as it was, %v", err)
	}
	for end := time.Now().Add(10 * time.Second); !strings.Contains(shown(), "status 255") && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
	}
	if got := shown(); !strings.Contains(got, "status 255") || strings.Contains(got, "ERROR") {
		t.Errorf("the screen shows %q, want the status of ssh and no word more", got)
	}
}
