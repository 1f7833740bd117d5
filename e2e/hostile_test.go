package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/e2e/stage"
	"devicetrust/node/nodetest"
)

// What hostile clients do to the built dtnoded: the faults of other servers
// that are known, each by itself, and after each another person's session
// answers.
func TestAHostileClientGetsNothingAndHarmsNobody(t *testing.T) {
	s := startServer(t)
	bob, _, _ := s.person(t, "bob", "access")
	other := s.echo(t, bob)
	h := &hostile{server: s}
	h.alice, _, _ = s.person(t, "alice", "access")
	h.noDevice, _, _ = s.person(t, "carol", "access,require-trusted-device")
	h.onDevice = s.withDevice(t, "dora", "access,require-trusted-device")

	for name, attack := range map[string]func(*testing.T){
		"asks as one user and signs as another":        h.changesTheUser,
		"asks with a colleague's device":               h.borrowsADevice,
		"wants in without authentication":              h.wantsInWithoutAuthentication,
		"offers a certificate signed by a certificate": h.nestsCertificates,
		"asks for a terminal of four gigabytes":        h.asksForAHugeTerminal,
		"resizes before there is a shell":              h.resizesTooEarly,
		"sets variables without end":                   h.setsVariables,
		"opens channels without end":                   h.opensChannels,
		"asks without end":                             h.asksWithoutEnd,
		"comes and says nothing, many times":           h.holdsConnections,
		"sends what is no packet":                      h.sendsGarbage,
	} {
		t.Run(name, func(t *testing.T) {
			attack(t)
			must(t, other.answer())
			must(t, running(s.noded))
			checkFaults(t, s.noded.Log)
		})
	}
}

type hostile struct {
	*server
	alice              gossh.Signer
	noDevice, onDevice gossh.Signer // of people who need one
}

func (h *hostile) changesTheUser(t *testing.T) {
	c := nodetest.Dial(t, h.noded.Addr)
	if got := c.Query(h.login, h.alice.PublicKey()); got != nodetest.AuthKeyOK {
		t.Errorf("a query was answered with %d", got)
	}
	if got := c.Sign("root", h.alice.PublicKey(), h.alice); got != nodetest.AuthFailure {
		t.Errorf("root: %d", got)
	}
	// The other way round it is not root either.
	c = nodetest.Dial(t, h.noded.Addr)
	c.Query("root", h.alice.PublicKey())
	if got := c.Sign(h.login, h.alice.PublicKey(), h.alice); got != nodetest.AuthSuccess {
		t.Fatalf("her own login: %d", got)
	}
	channel, _ := c.OpenSession(0)
	if !c.Request(channel, "exec", gossh.Marshal(struct{ C string }{"test $(id -un) = " + h.login})) {
		t.Fatal("no command")
	}
	if status := exitStatus(t, c); status != 0 {
		t.Error("the session is not her login's")
	}
}

// exitStatus waits for a command's.
func exitStatus(t *testing.T, c *nodetest.Client) uint32 {
	t.Helper()
	for {
		m := c.Receive()
		var r struct {
			Channel uint32 `sshtype:"98"`
			Type    string
			Reply   bool
			Status  uint32
		}
		if m[0] == 98 && gossh.Unmarshal(m, &r) == nil && r.Type == "exit-status" {
			return r.Status
		}
	}
}

func (h *hostile) borrowsADevice(t *testing.T) {
	c := nodetest.Dial(t, h.noded.Addr)
	if got := c.Sign(h.login, h.onDevice.PublicKey(), h.onDevice); got != nodetest.AuthSuccess {
		t.Fatalf("whose device it is gets %d: %q", got, c.Banners)
	}
	c = nodetest.Dial(t, h.noded.Addr)
	c.Query(h.login, h.onDevice.PublicKey())
	got := c.Sign(h.login, h.noDevice.PublicKey(), h.noDevice)
	if got != nodetest.AuthFailure || !strings.Contains(strings.Join(c.Banners, ""), "requires a trusted device") {
		t.Errorf("%d, %q", got, c.Banners)
	}
	// Nor does the other's certificate go without its key.
	c = nodetest.Dial(t, h.noded.Addr)
	c.Send(signed(h.login, h.onDevice.PublicKey()))
	if m, err := c.TryReceive(); err == nil && m[0] == nodetest.AuthSuccess {
		t.Error("entered with a certificate alone")
	}
}

func (h *hostile) wantsInWithoutAuthentication(t *testing.T) {
	for _, user := range []string{h.login, "root", ""} {
		c := nodetest.Dial(t, h.noded.Addr)
		if got := c.None(user); got != nodetest.AuthFailure {
			t.Errorf("none as %q: %d", user, got)
		}
		if err := c.TrySend(nodetest.ChannelOpen("session", 0)); err == nil {
			if m, err := c.TryReceive(); err == nil && m[0] == 91 {
				t.Error("a channel before authentication")
			}
		}
	}
}

func (h *hostile) nestsCertificates(t *testing.T) {
	mine := newSigner(t)
	cert := h.alice.PublicKey().(*gossh.Certificate)
	for _, certified := range []bool{false, true} {
		forged := &gossh.Certificate{
			Key: mine.PublicKey(), CertType: gossh.UserCert, KeyId: "alice", Serial: 1, Permissions: cert.Permissions,
			ValidPrincipals: []string{h.login, "root"}, ValidBefore: gossh.CertTimeInfinity,
		}
		must(t, forged.SignCert(rand.Reader, mine))
		if certified {
			forged.SignatureKey = cert // x/crypto itself refuses to sign so
		}
		c := nodetest.Dial(t, h.noded.Addr)
		if err := c.TrySend(signed(h.login, forged)); err != nil {
			t.Fatal(err)
		}
		if m, err := c.TryReceive(); err == nil && m[0] == nodetest.AuthSuccess {
			t.Fatalf("entered; signed by a certificate: %v", certified)
		}
	}
	// A certificate in a certificate in a certificate…
	const name = gossh.CertAlgoED25519v01
	blob := gossh.Marshal(struct{ T, Nonce, Key string }{name, "n", "k"})
	for range 400 {
		blob = gossh.Marshal(struct {
			T, Nonce, Key                  string
			Serial                         uint64
			Type                           uint32
			ID, Principals                 string
			After, Before                  uint64
			Critical, Extensions, Reserved string
			SignatureKey, Signature        []byte
		}{name, "n", string(mine.PublicKey().Marshal()[19:]), 1, 1, "x", "", 0, 1 << 62, "", "", "", blob, nil})
		if len(blob) > 200_000 {
			break
		}
	}
	c := nodetest.Dial(t, h.noded.Addr)
	rest := gossh.Marshal(struct {
		Signed bool
		Algo   string
		Key    []byte
	}{false, name, blob})
	if err := c.TrySend(gossh.Marshal(nodetest.UserAuth{User: h.login, Service: "ssh-connection", Method: "publickey", Rest: rest})); err == nil {
		if m, err := c.TryReceive(); err == nil && m[0] == nodetest.AuthKeyOK {
			t.Error("it would do")
		}
	}
}

// signed is a request with a signature that is none.
func signed(login string, key gossh.PublicKey) []byte {
	rest := gossh.Marshal(struct {
		Signed    bool
		Algo      string
		Key       []byte
		Signature []byte
	}{true, key.Type(), key.Marshal(), gossh.Marshal(gossh.Signature{Format: gossh.KeyAlgoED25519, Blob: make([]byte, 64)})})
	return gossh.Marshal(nodetest.UserAuth{User: login, Service: "ssh-connection", Method: "publickey", Rest: rest})
}

func newSigner(t testing.TB) gossh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	signer, err := gossh.NewSignerFromKey(key)
	must(t, err)
	return signer
}

// enter gives alice's connection and a session that runs nothing yet.
func (h *hostile) enter(t *testing.T) (*nodetest.Client, uint32) {
	t.Helper()
	c := nodetest.Dial(t, h.noded.Addr)
	if got := c.Sign(h.login, h.alice.PublicKey(), h.alice); got != nodetest.AuthSuccess {
		t.Fatalf("%d", got)
	}
	channel, ok := c.OpenSession(0)
	if !ok {
		t.Fatal("no session")
	}
	return c, channel
}

func (h *hostile) runs(t *testing.T, c *nodetest.Client, channel uint32, command string) {
	t.Helper()
	if !c.Request(channel, "exec", gossh.Marshal(struct{ C string }{command})) {
		t.Fatalf("%q is refused", command)
	}
	if status := exitStatus(t, c); status != 0 {
		t.Errorf("%q: %d", command, status)
	}
}

func (h *hostile) asksForAHugeTerminal(t *testing.T) {
	c, channel := h.enter(t)
	for _, kind := range []string{"pty-req", "env", "exec", "subsystem", "signal", "x11-req", "window-change"} {
		if c.Request(channel, kind, []byte("\xff\xff\xff\xfcxterm")) {
			t.Errorf("%s was granted", kind)
		}
	}
	h.runs(t, c, channel, "true")
}

func (h *hostile) resizesTooEarly(t *testing.T) {
	c, channel := h.enter(t)
	size := gossh.Marshal(struct{ Columns, Rows, Width, Height uint32 }{97, 31, 0, 0})
	if c.Request(channel, "window-change", size) {
		t.Error("a window without a terminal")
	}
	pty := gossh.Marshal(struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}{"xterm", 80, 24, 0, 0, ""})
	if !c.Request(channel, "pty-req", pty) || !c.Request(channel, "window-change", size) {
		t.Fatal("no terminal")
	}
	h.runs(t, c, channel, `test "$(stty size)" = "31 97"`)
}

func (h *hostile) setsVariables(t *testing.T) {
	c, channel := h.enter(t)
	granted := 0
	for i := range 300 {
		name := fmt.Sprintf("LC_%c%c", 'A'+i/26, 'A'+i%26)
		if c.Request(channel, "env", gossh.Marshal(struct{ Name, Value string }{name, strings.Repeat("x", 200)})) {
			granted++
		}
	}
	for _, name := range []string{"LD_PRELOAD", "BASH_ENV", "PATH", "IFS", "SHELLOPTS", "GCONV_PATH", "LC_\nX"} {
		if c.Request(channel, "env", gossh.Marshal(struct{ Name, Value string }{name, "/tmp/x"})) {
			t.Errorf("%q was taken", name)
		}
	}
	if granted > 64 {
		t.Errorf("%d variables", granted)
	}
	h.runs(t, c, channel, `test -z "$LD_PRELOAD$BASH_ENV" && test $(env | wc -l) -lt 100`)
}

func (h *hostile) opensChannels(t *testing.T) {
	c, _ := h.enter(t)
	opened := 1
	for id := uint32(1); id < 40; id++ {
		if _, ok := c.OpenSession(id); ok {
			opened++
		}
	}
	if opened > 10 {
		t.Errorf("%d sessions on one connection", opened)
	}
	// And who does not read the answers is left.
	var err error
	for id := uint32(100); id < 200_000 && err == nil; id++ {
		err = c.TrySend(nodetest.ChannelOpen("session", id))
	}
	if err == nil || os.IsTimeout(err) {
		t.Errorf("the flood was ended by %v", err)
	}
}

func (h *hostile) asksWithoutEnd(t *testing.T) {
	c, err := h.dial(h.alice)
	must(t, err)
	defer c.Close()
	start := time.Now()
	for range 500 {
		if _, _, err := c.SendRequest("nothing@example.com", true, nil); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < 500*time.Millisecond {
		t.Errorf("500 requests in %s", took)
	}
}

// holdsConnections: who comes from elsewhere still gets in.
func (h *hostile) holdsConnections(t *testing.T) {
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for range 400 {
		c, err := net.Dial("tcp", h.noded.Addr)
		if err != nil {
			break
		}
		held = append(held, c)
	}
	// Those beyond the bound are told so, and closed at once.
	closed := 0
	for _, c := range held {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if text, err := io.ReadAll(c); err == nil && string(text) == "Exceeded MaxStartups\r\n" {
			closed++
		}
	}
	if closed < 100 {
		t.Errorf("%d of %d silent connections from one address were closed", closed, len(held))
	}
	must(t, stage.Poll(t.Context(), func() bool {
		c, err := h.dialFrom("127.0.0.2", h.alice)
		if err != nil {
			return false
		}
		c.Close()
		return true
	}))
}

func (h *hostile) sendsGarbage(t *testing.T) {
	noise := make([]byte, 8<<10)
	_, _ = rand.Read(noise) // never fails
	for _, text := range []string{
		"SSH-2.0-x\r\n\xff\xff\xff\xff", "SSH-2.0-x\r\n\x00\x00\x00\x0c\xff\x14", "SSH-2.0-x\r\n" + string(noise),
		"SSH-2.0-x\r\n\x00\x00\x00\x00\x00\x00\x00\x00", "SSH-1.5-x\r\n", strings.Repeat("x", 1<<20),
	} {
		if err := h.say([]byte(text), false); err != nil {
			t.Error(err)
		}
	}
}
