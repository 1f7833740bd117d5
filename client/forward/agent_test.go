package forward

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
)

// agentThat answers the first message of each connection, and then echoes.
func agentThat(t *testing.T, answer string, heard chan<- string) Agent {
	t.Helper()
	address := listens(t, func(conn net.Conn) {
		var size [4]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		message := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(conn, message); err != nil {
			return
		}
		heard <- string(message)
		_, _ = conn.Write([]byte(answer))
		_, _ = io.Copy(conn, conn)
	})
	return Agent{Node: "web-1", Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}}
}

const (
	agentSays     = "\x00\x00\x00\x01\x06"
	agentFails    = "\x00\x00\x00\x01\x05"
	agentFailsExt = "\x00\x00\x00\x01\x1c"
)

func TestAnAgentIsToldWhoUsesIt(t *testing.T) {
	for _, tt := range []struct {
		name, answer string
		ours, want   bool
	}{
		{"ours agrees", agentSays, true, true},
		{"ours does not", agentFails, true, false},
		{"ours does not know the word", agentFailsExt, true, false},
		{"another one does not know the word", agentFails, false, true},
		{"another one agrees with much to say", "\x00\x00\x00\x04\x06abc", false, true},
		{"an answer too long", "\x00\x10\x00\x00\x06", false, false},
		{"an answer of nothing", "\x00\x00\x00\x00", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			heard := make(chan string, 1)
			a := agentThat(t, tt.answer, heard)
			a.Ours, a.Host = tt.ours, n.host
			if err := n.forwarder(Listening{}).Agent(a); err != nil {
				t.Fatal(err)
			}
			channel, requests, err := n.conn.OpenChannel(agentChannel, nil)
			if got := err == nil; got != tt.want {
				t.Fatalf("forwarded: %v, %v", got, err)
			}
			want := "\x1b\x00\x00\x00\x15forwarded@devicetrust\x00\x00\x00\x05web-1\x00\x00\x00\x33" + string(n.host.Marshal())
			if <-heard != want {
				t.Errorf("it heard something else than %q", want)
			}
			if err != nil {
				want := "the agent is not forwarded: it does not serve this node"
				if !tt.ours {
					want = "the agent is not forwarded: an answer of "
				}
				if told := n.told(); len(told) != 1 || !strings.HasPrefix(told[0], want) {
					t.Errorf("told %q", told)
				}
				return
			}
			go ssh.DiscardRequests(requests)
			if got := asks(t, channel, "question"); got != "question" {
				t.Errorf("%q came back", got)
			}
		})
	}
}

func TestConnectionsToTheAgentAreBounded(t *testing.T) {
	n := newNode(t)
	a := agentThat(t, agentSays, make(chan string, 2*maxAgents))
	if err := n.forwarder(Listening{}).Agent(a); err != nil {
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
	if err := f.Agent(agentThat(t, agentSays, make(chan string, 1))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := n.conn.OpenChannel(agentChannel, nil); err != nil {
		t.Fatal(err)
	}
	f.Wait(t.Context())
}
