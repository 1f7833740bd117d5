package client

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"devicetrust/client/clienttest"
)

// sshAgent serves a keyring, which has a key of the person's own.
func sshAgent(t *testing.T) (socket string, ring agent.Agent) {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ring = agent.NewKeyring()
	_, own, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.Add(agent.AddedKey{PrivateKey: own, Comment: "own"}); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				agent.ServeAgent(ring, conn)
			}()
		}
	}()
	return socket, ring
}

func comments(t *testing.T, ring agent.Agent) (all []string) {
	t.Helper()
	keys, err := ring.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		all = append(all, k.Comment)
	}
	return all
}

func TestASoftwareKeyIsInThePersonsAgentForAsLongAsTheLogin(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	socket, ring := sshAgent(t)
	for range 2 { // the second takes the first one's place
		p := loggedIn(t, c, h, nil)
		if err := p.AddToAgent(t.Context(), socket, options()); err != nil {
			t.Fatal(err)
		}
		keys, err := ring.List()
		if err != nil || len(keys) != 2 {
			t.Fatalf("%v, %v", keys, err)
		}
		creds, err := p.Credentials()
		if err != nil {
			t.Fatal(err)
		}
		pub, err := ssh.ParsePublicKey(keys[1].Blob)
		if err != nil || string(pub.Marshal()) != string(creds.SSH.Marshal()) {
			t.Errorf("the agent has %v, %v", pub, err)
		}
	}
	logins, err := h.Logins()
	if err != nil || len(logins) != 1 {
		t.Fatalf("%v, %v", logins, err)
	}
	if err := RemoveFromAgent(t.Context(), socket, logins); err != nil {
		t.Fatal(err)
	}
	if got := comments(t, ring); len(got) != 1 || got[0] != "own" {
		t.Errorf("left are %q", got)
	}
}

func TestAKeyInTheAgentExpiresWithItsCertificate(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	c.Life = 2 * time.Second
	socket, ring := sshAgent(t)
	if err := loggedIn(t, c, h, nil).AddToAgent(t.Context(), socket, options()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); len(comments(t, ring)) > 1; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is there still")
		}
	}
}

func TestAKeyInTheTPMIsNotAddedToAnAgent(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	m, _ := enrolledMachine(t, h)
	socket, ring := sshAgent(t)
	err := loggedIn(t, c, h, m.Prove).AddToAgent(t.Context(), socket, options())
	if !errors.Is(err, errKeyStays) || len(comments(t, ring)) != 1 {
		t.Errorf("error %v, the agent has %q", err, comments(t, ring))
	}
}

func TestAnAgentThatIsNotThereIsSaidToBe(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	socket := filepath.Join(t.TempDir(), "none")
	err := loggedIn(t, c, h, nil).AddToAgent(t.Context(), socket, options())
	want := "cannot use the agent at " + strconv.Quote(socket) + ", which SSH_AUTH_SOCK names: no such file or directory"
	if err == nil || err.Error() != want || hintOf(t, err) == "" {
		t.Errorf("error %v, want %s", err, want)
	}
}
