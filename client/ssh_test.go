package client

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/client/clienttest"
)

// sshLogin is alice's way to node as root, with the screen that she sees.
func sshLogin(t *testing.T, c *clienttest.Cluster, name string, node *clienttest.Node) (SSHLogin, *bytes.Buffer) {
	t.Helper()
	p := loggedIn(t, c, newHome(t), nil)
	creds, err := p.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := p.HostAuthorities()
	if err != nil {
		t.Fatal(err)
	}
	screen := &bytes.Buffer{}
	target := Target{Shown: name + ":3022", Addresses: []string{node.Addr}, Name: name}
	return SSHLogin{Login: "root", Target: target, Credentials: creds, Authorities: hosts, Banner: screen}, screen
}

// connectSSH is a connection to a good node.
func connectSSH(t *testing.T) (*ssh.Client, *clienttest.Node) {
	t.Helper()
	c := clienttest.Start(t)
	node := c.StartNode(t, "web-1", clienttest.HostCert{})
	login, _ := sshLogin(t, c, "web-1", node)
	client, err := login.Connect(t.Context(), options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, node
}

func TestOnlyANodeWithTheClustersCertificateIsSpokenTo(t *testing.T) {
	c := clienttest.Start(t)
	for _, tt := range []struct {
		name string
		cert clienttest.HostCert
		want string // empty: spoken to
	}{
		{"the node's own", clienttest.HostCert{}, ""},
		{"another node's", clienttest.HostCert{Names: []string{"web-2"}}, "web-1"},
		{"for every name", clienttest.HostCert{Names: []string{"*"}}, "web-1"},
		{"for no name", clienttest.HostCert{Names: []string{}}, "web-1"},
		{"of another authority", clienttest.HostCert{Authority: clienttest.OtherAuthority(t)}, "authority"},
		{"expired", clienttest.HostCert{Expired: true}, "expired"},
		{"a person's", clienttest.HostCert{Type: ssh.UserCert}, "type"},
		{"a plain key", clienttest.HostCert{Plain: true}, "it has no host certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node := c.StartNode(t, "web-1", tt.cert)
			login, _ := sshLogin(t, c, "web-1", node)
			client, err := login.Connect(t.Context(), options())
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				client.Close()
				return
			}
			r, ok := errors.AsType[*api.Refusal](err)
			if !ok || !strings.HasPrefix(r.Message, "cannot trust web-1:3022: ") || !strings.Contains(r.Message, tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if got := node.Certificates(); len(got) != 0 {
				t.Error("a certificate was offered")
			}
		})
	}
}

func TestANodeByAnAddressThatItDoesNotAnnounceIsNotSaidToBeAnother(t *testing.T) {
	c := clienttest.Start(t)
	node := c.StartNode(t, "web-1", clienttest.HostCert{Names: []string{"web-1"}})
	p := loggedIn(t, c, newHome(t), nil)
	conn, err := Dial(p, options())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for host, want := range map[string]string{node.Addr: "Use the node's name", "web-2": "Another node answers there"} {
		if host == "web-2" {
			c.List(t, host, node.Addr, nil)
		}
		login, _ := sshLogin(t, c, host, node)
		if login.Target, err = conn.Resolve(t.Context(), host, ""); err != nil {
			t.Fatal(err)
		}
		_, err := login.Connect(t.Context(), options())
		if got := hintOf(t, err); !strings.Contains(got, want) {
			t.Errorf("%s: %v, hint %q; want %q", host, err, got, want)
		}
	}
}

func TestWithoutAuthoritiesNoNodeIsSpokenTo(t *testing.T) {
	c := clienttest.Start(t)
	login, _ := sshLogin(t, c, "web-1", c.StartNode(t, "web-1", clienttest.HostCert{}))
	login.Authorities = nil
	if client, err := login.Connect(t.Context(), options()); err == nil {
		client.Close()
		t.Error("connected")
	}
}

func TestADenialIsSaidWithTheAddressThatThePersonKnows(t *testing.T) {
	c := clienttest.Start(t)
	for _, tt := range []struct{ reason, hint, wantReason, wantHint string }{
		{"access to resource requires a trusted device", "node's own hint", "access to resource requires a trusted device", "dtsh device enroll"},
		{"login root is not granted: see role \"x\"", "Ask for it.", "login root is not granted: see role \"x\"", "Ask for it."},
		{"odd\x1b[2J\u202e", "h\x07int", "odd[2J", "hint"},
	} {
		node := c.StartNode(t, "web-1", clienttest.HostCert{})
		node.Refuse, node.Hint = tt.reason, tt.hint
		login, screen := sshLogin(t, c, "web-1", node)
		_, err := login.Connect(t.Context(), options())
		r, ok := errors.AsType[*api.Refusal](err)
		if !ok {
			t.Fatalf("error %v", err)
		}
		if diff := cmp.Diff("access denied to root connecting to web-1:3022: "+tt.wantReason, r.Message); diff != "" {
			t.Error(diff)
		}
		if !strings.Contains(r.Hint, tt.wantHint) || screen.Len() != 0 {
			t.Errorf("hint %q, screen %q", r.Hint, screen)
		}
	}
}

func TestOtherBannersAreShownWithoutControls(t *testing.T) {
	c := clienttest.Start(t)
	node := c.StartNode(t, "web-1", clienttest.HostCert{})
	node.Banner = "Welcome\r\n\x1b]0;title\x07to \u202eweb-1\taccess denied to nobody"
	login, screen := sshLogin(t, c, "web-1", node)
	client, err := login.Connect(t.Context(), options())
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	if diff := cmp.Diff("Welcome\n]0;titleto web-1\taccess denied to nobody\n", screen.String()); diff != "" {
		t.Error(diff)
	}
}

func TestBannersAreBounded(t *testing.T) {
	var screen bytes.Buffer
	b := banners{login: "root", show: &screen, left: maxBanner}
	for range 100 {
		if err := b.take(strings.Repeat("x", maxBanner/2)); err != nil {
			t.Fatal(err)
		}
	}
	if screen.Len() > maxBanner+2 {
		t.Errorf("%d bytes were shown", screen.Len())
	}
}

func TestADenialOfAnotherLoginIsNone(t *testing.T) {
	for message, want := range map[string]string{
		"access denied to root connecting to web-1:3022: no":               "no",
		"ERROR: access denied to root connecting to [::1]:3022: no: never": "no: never",
		"access denied to rooty connecting to web-1:3022: no":              "",
		"access denied to root connecting to web-1:3022":                   "",
		"access denied to root connecting to web-1:3022: ":                 "",
		"Welcome": "", "": "",
	} {
		got, _, ok := parseDenial(message, "root")
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", message, got, ok)
		}
	}
}

func TestANodeThatCannotBeReachedIsNamed(t *testing.T) {
	c := clienttest.Start(t)
	node := c.StartNode(t, "web-1", clienttest.HostCert{})
	login, _ := sshLogin(t, c, "web-1", node)
	for _, tt := range []struct{ name, address, want string }{
		{"nobody listens", "127.0.0.1:1", "cannot reach web-1:3022 at 127.0.0.1:1: connection refused"},
		{"it is no SSH server", c.Proxy, "cannot connect to web-1:3022: "},
	} {
		login.Target.Addresses = []string{tt.address}
		_, err := login.Connect(t.Context(), options())
		if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.HasPrefix(r.Message, tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	login.Target.Addresses = []string{"127.0.0.1:1", node.Addr}
	client, err := login.Connect(t.Context(), options())
	if err != nil {
		t.Fatalf("the second address is not tried: %v", err)
	}
	client.Close()
}

func TestCtrlCEndsAHandshake(t *testing.T) {
	c := clienttest.Start(t)
	login, _ := sshLogin(t, c, "web-1", c.StartNode(t, "web-1", clienttest.HostCert{}))
	silent := listen(t, func(conn net.Conn) {
		for {
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				return
			}
		}
	})
	login.Target.Addresses = []string{silent}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := login.Connect(ctx, options()); err == nil {
		t.Error("connected")
	}
}

// stuck is a connection of which nothing is read any more, once it is.
type stuck struct {
	net.Conn
	now    <-chan struct{}
	closed <-chan struct{}
}

func (s stuck) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	select {
	case <-s.now:
		<-s.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

// connectTo is a connection to a server that does with channels what serve does.
func connectTo(t *testing.T, wrap func(net.Conn) net.Conn, serve func(<-chan ssh.NewChannel)) *ssh.Client {
	t.Helper()
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(clienttest.OtherAuthority(t))
	address := listen(t, func(tcp net.Conn) {
		_, channels, requests, err := ssh.NewServerConn(wrap(tcp), config)
		if err != nil {
			t.Error(err)
			return
		}
		go ssh.DiscardRequests(requests)
		serve(channels)
	})
	client, err := ssh.Dial("tcp", address, &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// viaStuck is a connection to a node on the way that connects, and then does
// nothing any more, as one that has lost its network.
func viaStuck(t *testing.T) *ssh.Client {
	t.Helper()
	now := make(chan struct{})
	return connectTo(t, func(tcp net.Conn) net.Conn { return stuck{tcp, now, t.Context().Done()} }, func(channels <-chan ssh.NewChannel) {
		c := <-channels
		close(now)
		if _, _, err := c.Accept(); err != nil {
			t.Error(err)
		}
		<-t.Context().Done()
	})
}

func TestANodeOnTheWayThatFallsSilentHoldsNobody(t *testing.T) {
	c := clienttest.Start(t)
	login, _ := sshLogin(t, c, "web-1", c.StartNode(t, "web-1", clienttest.HostCert{}))
	login.Via = viaStuck(t)
	login.Timeout = 100 * time.Millisecond
	ended := make(chan error, 1)
	go func() {
		_, err := login.Connect(t.Context(), options())
		ended <- err
	}()
	select {
	case err := <-ended:
		if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.Contains(r.Message, "does not answer") {
			t.Errorf("error %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the handshake goes on for ever")
	}
}

func TestAnExpiredCertificateIsNotOffered(t *testing.T) {
	c := clienttest.Start(t)
	node := c.StartNode(t, "web-1", clienttest.HostCert{})
	login, _ := sshLogin(t, c, "web-1", node)
	_, err := login.Connect(t.Context(), Options{Now: func() time.Time { return time.Now().Add(13 * time.Hour) }})
	if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.Contains(r.Hint, "dtsh login") {
		t.Errorf("error %v", err)
	}
	if len(node.Certificates()) != 0 {
		t.Error("it was offered")
	}
}

func TestNoAlgorithmRestsOnSHA1(t *testing.T) {
	a := algorithms()
	for _, name := range append(append(append(a.KeyExchanges, a.Ciphers...), a.MACs...), hostKeyAlgorithms()...) {
		if strings.Contains(name, "sha1") || name == ssh.CertAlgoRSAv01 || !strings.Contains(name, "cert") && strings.HasPrefix(name, "ssh-") {
			t.Errorf("%s is offered", name)
		}
	}
}
