package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
)

// echoes connects to an agent that says what it hears.
func echoes(t *testing.T) func(context.Context) (net.Conn, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}
}

func TestTheAgentIsUsedFromTheNode(t *testing.T) {
	n := newNode(t)
	if err := n.forwarder(Listening{}).Agent(echoes(t)); err != nil {
		t.Fatal(err)
	}
	channel, requests, err := n.conn.OpenChannel(agentChannel, nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(requests)
	if got := asks(t, channel, "question"); got != "question" {
		t.Errorf("%q came back", got)
	}
}

func TestANodeGetsNoAgentThatDoesNotServeIt(t *testing.T) {
	n := newNode(t)
	if err := n.forwarder(Listening{}).Agent(func(context.Context) (net.Conn, error) { return nil, errors.New("it does not want to") }); err != nil {
		t.Fatal(err)
	}
	if _, _, err := n.conn.OpenChannel(agentChannel, nil); err == nil {
		t.Error("there is one")
	}
	if told := n.told(); len(told) != 1 || told[0] != "the agent is not forwarded: it does not want to" {
		t.Errorf("told %q", told)
	}
}

func TestConnectionsToTheAgentAreBounded(t *testing.T) {
	n := newNode(t)
	if err := n.forwarder(Listening{}).Agent(echoes(t)); err != nil {
		t.Fatal(err)
	}
	var refused atomic.Int32
	for range maxAgents + 3 {
		if _, _, err := n.conn.OpenChannel(agentChannel, nil); err != nil {
			refused.Add(1)
		}
	}
	if refused.Load() != 3 {
		t.Errorf("%d were refused", refused.Load())
	}
}

// What the agent is used for may outlive the session, and keeps nobody.
func TestTheAgentIsNotWaitedFor(t *testing.T) {
	n := newNode(t)
	f := n.forwarder(Listening{})
	if err := f.Agent(echoes(t)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := n.conn.OpenChannel(agentChannel, nil); err != nil {
		t.Fatal(err)
	}
	f.Wait(t.Context())
}
