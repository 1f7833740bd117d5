package forward

import (
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// node is the other end of a connection, which does what a test says.
type node struct {
	t      *testing.T
	conn   *ssh.ServerConn
	client *ssh.Client
	host   ssh.PublicKey
	// opened takes the channels from here; nil connects them, as a node does.
	opened func(ssh.NewChannel)
	// asked answers requests; nil grants them, with port 4242.
	asked func(*ssh.Request)

	mu   sync.Mutex
	said []string
}

func newNode(t *testing.T) *node {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, host: signer.PublicKey()}
	ready := make(chan error, 1)
	go func() {
		tcp, err := l.Accept()
		if err != nil {
			ready <- err
			return
		}
		config := &ssh.ServerConfig{NoClientAuth: true}
		config.AddHostKey(signer)
		conn, channels, requests, err := ssh.NewServerConn(tcp, config)
		n.conn = conn
		ready <- err
		if err != nil {
			return
		}
		go n.answer(requests)
		for c := range channels {
			go n.take(c)
		}
	}()
	n.client, err = ssh.Dial("tcp", l.Addr().String(), &ssh.ClientConfig{HostKeyCallback: ssh.FixedHostKey(signer.PublicKey())})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.client.Close(); n.conn.Close() })
	return n
}

func (n *node) answer(requests <-chan *ssh.Request) {
	for r := range requests {
		if n.asked != nil {
			n.asked(r)
			continue
		}
		_ = r.Reply(true, ssh.Marshal(struct{ Port uint32 }{4242}))
	}
}

func (n *node) take(c ssh.NewChannel) {
	if n.opened != nil {
		n.opened(c)
		return
	}
	var to struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}
	if ssh.Unmarshal(c.ExtraData(), &to) != nil {
		_ = c.Reject(ssh.UnknownChannelType, "no port")
		return
	}
	conn, err := dial(n.t.Context(), Address{Host: to.Host, Port: uint16(to.Port)})
	if err != nil {
		_ = c.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	channel, requests, err := c.Accept()
	if err != nil {
		return
	}
	carry(n.t.Context(), channel, requests, conn.(socket))
}

// forwarder forwards by way of n, and keeps what it tells.
func (n *node) forwarder(o Listening) *Forwarder {
	f := New(n.client, Options{Listening: o, Say: func(line string) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.said = append(n.said, line)
	}})
	n.t.Cleanup(f.Close)
	return f
}

func (n *node) told() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.said...)
}

// starts forwards what a flag says.
func (n *node) starts(f *Forwarder, parse func(string) (Spec, error), text string) uint16 {
	n.t.Helper()
	s, err := parse(text)
	if err != nil {
		n.t.Fatal(err)
	}
	port, err := f.Start(n.t.Context(), s)
	if err != nil {
		n.t.Fatal(err)
	}
	return port
}

// listens is where serve gets each connection, which is closed after it.
func listens(t *testing.T, serve func(net.Conn)) (address string) {
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
				serve(conn)
			}()
		}
	}()
	return l.Addr().String()
}

// answering is a server that reads all that comes and then answers with it.
func answering(t *testing.T) (address string) {
	t.Helper()
	return listens(t, func(conn net.Conn) {
		all, _ := io.ReadAll(conn)
		_, _ = conn.Write([]byte("got " + string(all)))
	})
}

// asks sends text, ends its side, and reads to the end.
func asks(t *testing.T, s socket, text string) string {
	t.Helper()
	defer s.Close()
	stop := time.AfterFunc(20*time.Second, func() { s.Close() })
	defer stop.Stop()
	if _, err := io.WriteString(s, text); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}

// freePort is one that nobody has, as far as that can be known.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()[strings.LastIndex(l.Addr().String(), ":")+1:]
}

func poll(t *testing.T, done func() bool, complaint string) {
	t.Helper()
	for range 2000 {
		if done() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal(complaint)
}
