package clienttest

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/identity"
	"devicetrust/resource"
)

// Node is an SSH server for tests. Commands are words that it knows:
//
//	exit N        ends with that status
//	signal NAME   ends by that signal
//	cat           copies stdin to stdout
//	err TEXT      writes to stderr
//	pty           tells term, size and some modes of the terminal it was given
//	hang          never ends
//	drop          closes the connection
//
// A shell reads such words from stdin, and tells each change of size.
type Node struct {
	// Addr is its HOST:PORT.
	Addr string
	// Refuse is why certificates are refused; the node sends it as dtnoded
	// does. Empty refuses none.
	Refuse, Hint string
	// Banner is shown before authentication.
	Banner string
	// Silent leaves keepalives unanswered.
	Silent bool
	// Asked, where it is set, hears what the node is asked for ("session",
	// "pty-req", "exec", "shell"), and says what it answers.
	Asked func(what string) Answer

	mu sync.Mutex
	// certificates that were offered and proved.
	certificates []*ssh.Certificate
}

// Answer of a node to a request.
type Answer int

// What a node may do about a request.
const (
	Grant Answer = iota
	Refuse
	Ignore // and never answer
	HangUp
)

// asked tells what to do about a request; a connection that is to end has.
func (n *Node) asked(conn ssh.Conn, what string) Answer {
	if n.Asked == nil {
		return Grant
	}
	a := n.Asked(what)
	if a == HangUp {
		conn.Close()
	}
	return a
}

// HostCert says how a node's certificate differs from a good one.
type HostCert struct {
	// Names instead of the node's name and address.
	Names []string
	// Authority instead of the cluster's.
	Authority ssh.Signer
	// Type instead of a host's.
	Type uint32
	// Expired by an hour.
	Expired bool
	// Plain leaves the certificate out.
	Plain bool
}

// StartNode starts a node called name that ends with the test, and lists it.
func (c *Cluster) StartNode(t testing.TB, name string, h HostCert) *Node {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	n := &Node{Addr: l.Addr().String()}
	signer := c.hostSigner(t, name, h)
	go func() {
		for {
			tcp, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { tcp.Close() })
			go n.serve(tcp, signer)
		}
	}()
	c.List(t, name, n.Addr, nil)
	return n
}

// List adds a node to those that ListNodes gives.
func (c *Cluster) List(t testing.TB, name, addr string, labels map[string]string) {
	t.Helper()
	data, err := json.Marshal(&resource.Node{
		Header: resource.Header{Kind: resource.KindNode, Version: "v2", Metadata: resource.Metadata{
			Name: fmt.Sprintf("00000000-0000-4000-8000-%012d", len(c.Nodes)), Labels: labels,
		}},
		Spec: resource.NodeSpec{Hostname: name, Addr: addr},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Nodes = append(c.Nodes, data)
}

func (c *Cluster) hostSigner(t testing.TB, name string, h HostCert) ssh.Signer {
	t.Helper()
	signer := newSigner(t)
	if h.Plain {
		return signer
	}
	host := identity.Host{
		NodeID: "node-1", Names: []string{strings.ToLower(name), "127.0.0.1"}, Serial: 1,
		ValidAfter: time.Now().Add(-2 * time.Hour), ValidBefore: time.Now().Add(time.Hour),
	}
	if h.Expired {
		host.ValidBefore = time.Now().Add(-time.Hour)
	}
	cert, err := host.SSHCertificate(signer.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if h.Names != nil {
		cert.ValidPrincipals = h.Names
	}
	if h.Type != 0 {
		cert.CertType = h.Type
	}
	authority := c.HostAuthority
	if h.Authority != nil {
		authority = h.Authority
	}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	certSigner, err := ssh.NewCertSigner(cert, signer)
	if err != nil {
		t.Fatal(err)
	}
	return certSigner
}

// OtherAuthority is an authority that is not the cluster's.
func OtherAuthority(t testing.TB) ssh.Signer { return newSigner(t) }

// Certificates are those that were offered and proved, in order.
func (n *Node) Certificates() []*ssh.Certificate {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]*ssh.Certificate(nil), n.certificates...)
}

func (n *Node) config(signer ssh.Signer) *ssh.ServerConfig {
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil },
		VerifiedPublicKeyCallback: func(m ssh.ConnMetadata, key ssh.PublicKey, p *ssh.Permissions, _ string) (*ssh.Permissions, error) {
			cert, ok := key.(*ssh.Certificate)
			if !ok {
				return nil, errors.New("not a certificate")
			}
			n.mu.Lock()
			n.certificates = append(n.certificates, cert)
			n.mu.Unlock()
			if n.Refuse != "" {
				return nil, &ssh.BannerError{Err: errors.New(n.Refuse), Message: fmt.Sprintf(
					"access denied to %s connecting to %s: %s\r\n%s\r\n", m.User(), n.Addr, n.Refuse, n.Hint)}
			}
			return p, nil
		},
	}
	if n.Banner != "" {
		config.BannerCallback = func(ssh.ConnMetadata) string { return n.Banner }
	}
	config.AddHostKey(signer)
	return config
}

func (n *Node) serve(tcp net.Conn, signer ssh.Signer) {
	conn, channels, requests, err := ssh.NewServerConn(tcp, n.config(signer))
	if err != nil {
		return
	}
	defer conn.Close()
	go func() {
		for r := range requests {
			if !n.Silent {
				r.Reply(false, nil)
			}
		}
	}()
	for c := range channels {
		if c.ChannelType() != "session" {
			c.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		if a := n.asked(conn, "session"); a != Grant {
			if a == Refuse {
				c.Reject(ssh.Prohibited, "no sessions today")
			}
			continue
		}
		ch, reqs, err := c.Accept()
		if err != nil {
			return
		}
		go n.session(conn, ch, reqs)
	}
}

// ptyRequest is the payload of pty-req (RFC 4254 section 6.2).
type ptyRequest struct {
	Term                         string
	Columns, Rows, Width, Height uint32
	Modes                        string
}

func (n *Node) session(conn ssh.Conn, ch ssh.Channel, reqs <-chan *ssh.Request) {
	defer ch.Close()
	var pty *ptyRequest
	for r := range reqs {
		if a := n.asked(conn, r.Type); a != Grant {
			if a == Refuse {
				r.Reply(false, nil)
			}
			continue
		}
		switch r.Type {
		case "pty-req":
			pty = &ptyRequest{}
			r.Reply(ssh.Unmarshal(r.Payload, pty) == nil, nil)
		case "window-change":
			var size struct{ Columns, Rows, Width, Height uint32 }
			if ssh.Unmarshal(r.Payload, &size) == nil {
				fmt.Fprintf(ch, "size %dx%d\r\n", size.Columns, size.Rows)
			}
		case "exec":
			var exec struct{ Command string }
			r.Reply(ssh.Unmarshal(r.Payload, &exec) == nil, nil)
			go func() {
				run(conn, ch, pty, exec.Command)
				ch.Close()
			}()
		case "shell":
			r.Reply(true, nil)
			go shell(conn, ch, pty)
		default:
			r.Reply(false, nil)
		}
	}
}

func shell(conn ssh.Conn, ch ssh.Channel, pty *ptyRequest) {
	defer ch.Close()
	fmt.Fprint(ch, "ready\r\n")
	lines := bufio.NewScanner(ch)
	lines.Split(scanEither)
	for lines.Scan() {
		if word := lines.Text(); word == "exit" || !run(conn, ch, pty, word) {
			return
		}
	}
}

// scanEither splits at "\r" as at "\n": a raw terminal sends the former.
func scanEither(data []byte, atEOF bool) (advance int, token []byte, err error) {
	for i, b := range data {
		if b == '\r' || b == '\n' {
			return i + 1, data[:i], nil
		}
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// run tells whether a shell goes on after command.
func run(conn ssh.Conn, ch ssh.Channel, pty *ptyRequest, command string) bool {
	word, rest, _ := strings.Cut(command, " ")
	status := 0
	switch word {
	case "exit":
		fmt.Sscan(rest, &status)
		exit(ch, status)
		return false
	case "signal":
		ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Signal     string
			CoreDumped bool
			Text, Lang string
		}{Signal: rest}))
		return false
	case "cat":
		io.Copy(ch, ch)
	case "err":
		fmt.Fprintln(ch.Stderr(), rest)
	case "echo":
		fmt.Fprintln(ch, rest)
	case "pty":
		if pty == nil {
			fmt.Fprintln(ch, "none")
			break
		}
		fmt.Fprintf(ch, "%s %dx%d %d bytes of modes\n", pty.Term, pty.Columns, pty.Rows, len(pty.Modes))
	case "hang":
		conn.Wait()
	case "drop":
		conn.Close()
		return false
	default:
		status = 127
	}
	exit(ch, status)
	return true
}

func exit(ch ssh.Channel, status int) {
	ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
}
