package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"devicetrust/policy"
)

// built compiles a C program: what hides from a signal cannot be said in Go or
// in a shell.
func built(t *testing.T, source string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dt-node-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program := filepath.Join(dir, "deaf")
	cc := exec.CommandContext(t.Context(), "gcc", "-xc", "-pthread", "-o", program, "-")
	cc.Stdin = strings.NewReader(source)
	if out, err := cc.CombinedOutput(); err != nil {
		t.Fatalf("%v (make test installs gcc)\n%s", err, out)
	}
	for _, name := range []string{dir, program} {
		if err := os.Chmod(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return program
}

// It hands itself on to a child a thousand times a second, for a minute.
const chain = `
#include <signal.h>
#include <time.h>
#include <unistd.h>
int main(void) {
	signal(SIGHUP, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	time_t end = time(0) + 60;
	write(1, "deaf\n", 5);
	while (time(0) < end) {
		if (fork() > 0)
			_exit(0);
		usleep(300);
	}
	return 0;
}`

// Its first thread ends, and another goes on for a minute.
const headless = `
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static void *rest(void *none) { sleep(60); exit(0); }
int main(void) {
	pthread_t t;
	signal(SIGHUP, SIG_IGN);
	pthread_create(&t, 0, rest, 0);
	write(1, "deaf\n", 5);
	syscall(SYS_exit, 0);
}`

func TestPolicyEndsWhatHidesFromSignals(t *testing.T) {
	for name, source := range map[string]string{"from process to process": chain, "without its first thread": headless} {
		t.Run(name, func(t *testing.T) {
			n, c := enterNode(t, func(c *serverConfig) { c.limits.policyHangup = 100 * time.Millisecond })
			program := built(t, source)
			s := newSession(t, c)
			var out syncBuffer
			s.Stdout = &out
			if err := s.Start("echo $$; exec " + program); err != nil {
				t.Fatal(err)
			}
			leader := pids(t, &out, 1)[0]
			eventually(t, "it runs", func() bool { return strings.Contains(out.String(), "deaf") })
			n.decideBy(&policy.State{})
			// Of its group; the kernel looks at all of it at once.
			eventually(t, "nothing is left", func() bool { return unix.Kill(-leader, 0) != nil })
			eventually(t, "the session is over", n.empty)
		})
	}
}

// A client that closes the channel at the end of the output would not hear a
// status that comes after it.
func TestTheStatusComesBeforeTheEndOfTheOutput(t *testing.T) {
	n := startNode(t)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	c := dialRaw(t, n.address)
	if got := c.sign(tester, signer.PublicKey(), signer); got != authSuccess {
		t.Fatalf("message %d", got)
	}
	const channelOpen, channelEOF, channelRequested = 90, 96, 98
	c.send(append([]byte{channelOpen}, gossh.Marshal(struct {
		Type                string
		Peer, Window, Large uint32
	}{"session", 0, 1 << 20, 32 << 10})...))
	c.receive()
	c.send(channelRequest(0, "exec", gossh.Marshal(struct{ Command string }{"exit 7"})))
	for {
		switch b := c.receive(); b[0] {
		case channelEOF:
			t.Fatal("the end of the output comes first")
		case channelRequested:
			if !strings.Contains(string(b), "exit-status") {
				t.Errorf("%q", b)
			}
			return
		}
	}
}
