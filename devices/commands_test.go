package devices

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"devicetrust/devices/tpm"
	"devicetrust/devices/tpm/tpmtest"
	"devicetrust/store/storetest"
)

// tap stands between a machine and its TPM and writes down what is sent.
type tap struct {
	mu       sync.Mutex
	commands [][]byte // guarded by mu
}

// tapped gives m a tap.
func tapped(t testing.TB, m *machine) *tap {
	t.Helper()
	dir, err := os.MkdirTemp("", "tap") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path, behind := filepath.Join(dir, "tpm.sock"), strings.TrimPrefix(m.chip.Address, "unix:")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	tp := &tap{}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			tp.serve(t, conn, behind)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-served
	})
	m.chip = &tpmtest.TPM{Address: "unix:" + path}
	return tp
}

func (tp *tap) serve(t testing.TB, conn net.Conn, behind string) {
	defer conn.Close()
	chip, err := net.Dial("unix", behind)
	if err != nil {
		t.Error(err)
		return
	}
	defer chip.Close()
	for {
		command, err := message(conn)
		if err != nil {
			return
		}
		tp.mu.Lock()
		tp.commands = append(tp.commands, command)
		tp.mu.Unlock()
		if _, err := chip.Write(command); err != nil {
			return
		}
		answer, err := message(chip)
		if err != nil {
			return
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

// message is a command or a response: tag, size, code and the rest.
func message(r io.Reader) ([]byte, error) {
	header := make([]byte, 10)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < 10 || size > 8192 {
		return nil, errors.New("it is not of a TPM")
	}
	all := append(header, make([]byte, size-10)...)
	_, err := io.ReadFull(r, all[10:])
	return all, err
}

// take gives the codes of what was sent since it was last asked, other than the
// look at the TPM when it is opened, and the keys that were to be made.
func (tp *tap) take(t testing.TB) (codes []tpm2.TPMCC, made []tpm2.TPMTPublic) {
	t.Helper()
	tp.mu.Lock()
	defer tp.mu.Unlock()
	for _, command := range tp.commands {
		code := tpm2.TPMCC(binary.BigEndian.Uint32(command[6:]))
		if code == tpm2.TPMCCGetCapability {
			continue
		}
		codes = append(codes, code)
		if code != tpm2.TPMCCCreatePrimary && code != tpm2.TPMCCCreate {
			continue
		}
		// Behind the header: the parent, the size of the authorizations and they,
		// and TPM2B_SENSITIVE_CREATE.
		rest := command[10+4:]
		rest = rest[4+binary.BigEndian.Uint32(rest):]
		rest = rest[2+binary.BigEndian.Uint16(rest):]
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](rest[2 : 2+binary.BigEndian.Uint16(rest)])
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, *area)
	}
	tp.commands = nil
	return codes, made
}

// A chip takes up to half a second for a signature or an ECC key, and up to
// half a minute for an RSA key. So a login makes no RSA key, and signs once for
// the quote and once for each key that is certified; without keys in the TPM it
// has 6 commands, with them 12, and they are these.
func TestALoginAsksTheTPMForNoMoreThanItNeeds(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	tp := tapped(t, m)
	const (
		primary, flush       = tpm2.TPMCCCreatePrimary, tpm2.TPMCCFlushContext
		quote, certify, pcrs = tpm2.TPMCCQuote, tpm2.TPMCCCertify, tpm2.TPMCCPCRRead
	)
	alone := []tpm2.TPMCC{primary, quote, pcrs, pcrs, pcrs, flush}
	withKeys := []tpm2.TPMCC{primary, primary, primary, quote, pcrs, pcrs, pcrs, certify, certify, flush, flush, flush}
	var proved tpm.Authenticated
	for _, test := range []struct {
		what  string
		login func() login
		want  []tpm2.TPMCC
		keys  int
	}{
		{"without keys", func() login { return login{} }, alone, 1},
		{"with new keys", func() login {
			return login{newKeys: true, onProved: func(p tpm.Authenticated) { proved = p }}
		}, withKeys, 3},
		{"with the same again", func() login { return login{keys: proved.Keys} }, withKeys, 3},
	} {
		if _, err := w.loginWith(t, m, test.login()); err != nil {
			t.Fatal(err)
		}
		codes, made := tp.take(t)
		if !slices.Equal(codes, test.want) {
			t.Errorf("%s: sent %v, want %v", test.what, codes, test.want)
		}
		if len(made) != test.keys {
			t.Errorf("%s: %d keys were made", test.what, len(made))
		}
		for _, area := range made {
			if area.Type != tpm2.TPMAlgECC {
				t.Errorf("%s: a key of type %#x was made", test.what, area.Type)
			}
		}
	}
}

// A key that signed stays in one of three slots, and a ceremony needs them all.
func TestAKeyThatIsKeptMakesRoomForACeremony(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t, tpmtest.Certificate{CA: newCA(t, "maker", nil), RSA: true})
	w.enroll(t, m, alice, Trust{})
	var proved tpm.Authenticated
	if _, err := w.loginWith(t, m, login{newKeys: true, onProved: func(p tpm.Authenticated) { proved = p }}); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(nil)
	sign := func(chip *tpm.TPM) {
		if _, err := chip.Sign(t.Context(), proved.Keys.SSH, digest[:]); err != nil {
			t.Error(err)
		}
	}
	if _, err := w.loginWith(t, m, login{keys: proved.Keys, onOpen: sign}); err != nil {
		t.Errorf("a login: %v", err)
	}
	token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.enrollWith(t, m, enrollment{token: token.Token, onOpen: sign}); err != nil {
		t.Errorf("an enrollment: %v", err)
	}
	if n := m.chip.Loaded(t); n != 0 {
		t.Errorf("%d keys were left in the TPM", n)
	}
}

// What a key of another TPM, or a damaged one, leads to is a word to the
// person, before the server is asked to believe anything.
func TestKeysOfAnotherTPMAreNotProved(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	var proved tpm.Authenticated
	if _, err := w.loginWith(t, m, login{newKeys: true, onProved: func(p tpm.Authenticated) { proved = p }}); err != nil {
		t.Fatal(err)
	}
	thief := newMachine(t)
	thief.state = m.state
	_, err := w.loginWith(t, thief, login{keys: proved.Keys})
	wantRefusal(t, err, "the login's key is of another TPM")
	if !errors.Is(err, tpm.ErrForeignKey) {
		t.Errorf("got %v", err)
	}
	for name, change := range map[string]func(*tpm.LoginKeys){
		"an SSH key that is none": func(k *tpm.LoginKeys) { k.SSH = tpm.LoginKey{} },
		"half a TLS key":          func(k *tpm.LoginKeys) { k.TLS.Public = k.TLS.Public[:40] },
	} {
		keys := *proved.Keys
		change(&keys)
		_, err := w.loginWith(t, m, login{keys: &keys})
		wantRefusal(t, err, "what is kept of the login's key is damaged")
		if n := m.chip.Loaded(t); n != 0 {
			t.Errorf("%s: %d keys were left in the TPM", name, n)
		}
	}
	if _, err := w.loginWith(t, m, login{keys: proved.Keys}); err != nil {
		t.Errorf("on its own TPM: %v", err)
	}
}

// BenchmarkDeviceCeremonyWithKeys is BenchmarkDeviceCeremony with two new keys in
// the TPM.
func BenchmarkDeviceCeremonyWithKeys(b *testing.B) {
	w, m := newWorld(b, storetest.Open(b)), newMachine(b)
	w.enroll(b, m, alice, Trust{})
	for b.Loop() {
		if _, err := w.loginWith(b, m, login{newKeys: true}); err != nil {
			b.Fatal(err)
		}
	}
}
