package node

import (
	"os"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// led is a process that leads a session of its own.
func led(t *testing.T, command string) *process {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, err := startChild("/bin/sh", []string{"sh", "-c", command}, &os.ProcAttr{
		Dir: "/", Files: []*os.File{nil, w}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-c.pid, syscall.SIGKILL)
		<-c.ended
		_, _ = c.reap()
	})
	if _, err := r.Read(make([]byte, 1)); err != nil { // it says that it is ready
		t.Fatal(err)
	}
	return &process{child: c, swept: make(chan struct{})}
}

// closed waits until the connection is.
func closed(t *testing.T, c *gossh.Client) {
	t.Helper()
	ended := make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(15 * time.Second):
		t.Error("a connection goes on")
	}
}

// slowly gives a look at /proc that begins, and is over when it is released.
func slowly() (look func() (map[int][]relative, error), began chan struct{}, release func()) {
	began, gate := make(chan struct{}, 100), make(chan struct{})
	return func() (map[int][]relative, error) {
		select {
		case began <- struct{}{}:
		default:
		}
		<-gate
		return readSessions()
	}, began, func() { close(gate) }
}

func TestHangingUpDoesNotWaitForALookAtProc(t *testing.T) {
	look, began, release := slowly()
	s := newSweeper(look)
	deaf, other := led(t, "trap '' HUP; echo; sleep 1000"), led(t, "echo; sleep 1000")
	s.hangup(deaf, true, time.Hour)
	<-began
	told := make(chan struct{})
	go func() { s.hangup(other, true, time.Hour); close(told) }()
	select {
	case <-told:
	case <-time.After(15 * time.Second):
		t.Error("it waits")
	}
	eventually(t, "the other is gone, without a look", func() bool { return gone(other.pid) })
	release()
	<-other.swept
	s.close()
	<-deaf.swept
	eventually(t, "a stop leaves nothing", func() bool { return gone(deaf.pid) })
}

func TestTheGraceIsOverByTheClock(t *testing.T) {
	const grace = 300 * time.Millisecond
	looks := 0
	s := newSweeper(func() (map[int][]relative, error) {
		looks++
		<-time.After(grace) // a /proc that is as slow as that
		return readSessions()
	})
	p := led(t, "trap '' HUP; echo; sleep 1000")
	s.hangup(p, true, grace)
	<-p.swept
	s.close()
	if looks > 4 {
		t.Errorf("%d looks", looks)
	}
}

func TestPolicyEndsManySessionsWhileProcIsSlow(t *testing.T) {
	n := startNode(t)
	look, began, release := slowly()
	n.sweeper.look = look
	signer := n.cluster.certify(t, alice(), newSigner(t))
	deaf, err := n.dial(tester, signer)
	if err != nil {
		t.Fatal(err)
	}
	if err := newSession(t, deaf).Start("trap '' HUP; sleep 1000"); err != nil {
		t.Fatal(err)
	}
	var clients []*gossh.Client
	for range 4 {
		c := n.mustDial(tester, signer)
		clients = append(clients, c)
		for range 5 {
			if err := newSession(t, c).Start("sleep 1000"); err != nil {
				t.Fatal(err)
			}
		}
	}
	told := make(chan struct{})
	go func() { n.decideBy(access(t, requireDevice)); close(told) }()
	<-began
	select {
	case <-told:
	case <-time.After(15 * time.Second):
		t.Error("not all are told")
	}
	for _, c := range clients {
		closed(t, c)
	}
	release()
	eventually(t, "nobody is left", n.empty)
}

func TestOneSessionThatCannotBeToldKeepsNoConnection(t *testing.T) {
	n := startNode(t)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	var clients []*gossh.Client
	for range 3 {
		c := n.mustDial(tester, signer)
		clients = append(clients, c)
		if err := newSession(t, c).Start("sleep 1000"); err != nil {
			t.Fatal(err)
		}
	}
	n.mu.Lock()
	var stuck *session
	for c := range n.live {
		c.mu.Lock()
		for s := range c.sessions {
			stuck = s
		}
		c.mu.Unlock()
	}
	n.mu.Unlock()
	stuck.mu.Lock()
	go n.decideBy(access(t, requireDevice))
	for _, c := range clients {
		closed(t, c)
	}
	stuck.mu.Unlock()
	eventually(t, "nobody is left", n.empty)
}
