package client

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/client/clienttest"
	"devicetrust/devices/tpm"
	"devicetrust/devices/tpm/tpmtest"
)

// enrolledMachine is a machine with a software TPM that remembers an
// enrollment in the cluster; its home uses that TPM.
func enrolledMachine(t testing.TB, h *Home) (*Machine, *tpmtest.TPM) {
	t.Helper()
	chip := tpmtest.Start(t)
	clienttest.Remember(t, chip, h.DeviceState())
	h.Chip = NewChip(chip.Address)
	t.Cleanup(func() { h.Chip.Close() })
	dmi := t.TempDir()
	if err := os.WriteFile(filepath.Join(dmi, "product_serial"), []byte("C00AA0AAAA0A"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Machine{Home: h, DMIDir: dmi, Chip: h.Chip, EventLog: "off", Now: time.Now}, chip
}

// names are those of the files of p's login.
func names(t *testing.T, p *Profile) []string {
	t.Helper()
	return entries(t, p.home.path("keys", fileName(p.Proxy)))
}

func TestTheKeysOfAnEnrolledDevicesLoginAreInItsTPM(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	m, _ := enrolledMachine(t, h)
	p := loggedIn(t, c, h, m.Prove)
	if diff := cmp.Diff([]string{"alice-cert.pub", "alice.pub", "alice.tls.crt", "alice.tpm.json", "known_hosts"}, names(t, p)); diff != "" {
		t.Errorf("%s; device %+v", diff, p.Device)
	}
	s, err := p.Status()
	if err != nil || s.Key != (KeyStatus{Kind: "tpm"}) || !s.Device.Trusted {
		t.Errorf("status %+v, %v", s, err)
	}
	creds, err := p.Credentials()
	if err != nil || !creds.InTPM() || !creds.Identity.KeyAttested() {
		t.Fatalf("identity %+v, %v", creds.Identity, err)
	}
	signer, err := creds.Signer()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := signer.Sign(nil, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if err := creds.SSH.Key.Verify([]byte("hello"), sig); err != nil {
		t.Error(err)
	}
	conn, err := Dial(p, options())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Nodes(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestWhoIsLoggedInShowsWithoutTheTPM(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	m, _ := enrolledMachine(t, h)
	p := loggedIn(t, c, h, m.Prove)
	m.Chip.Close()
	m.Chip.Address = hangs(t, func() { t.Error("the TPM was asked") })
	if s, err := p.Status(); err != nil || s.Key.Kind != "tpm" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := h.AgentSource(slog.New(slog.DiscardHandler)).Identities(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAPersonMayHaveTheKeysInFiles(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	p, err := h.Profile(c.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	want := ask(c, func(ctx context.Context, args tpm.AuthArgs, s tpm.AuthenticateStream) (tpm.Authenticated, error) {
		if args.NewKeys {
			t.Error("the TPM was to make keys")
		}
		return clienttest.Prove(ctx, args, s)
	})
	want.Key = KeySoftware
	if _, err := p.Login(t.Context(), want, options()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"alice", "alice-cert.pub", "alice.pub", "alice.tls.crt", "alice.tls.key", "known_hosts"}, names(t, p)); diff != "" {
		t.Error(diff)
	}
}

func TestALoginThatIsToHaveItsKeysInTheTPMFailsWithout(t *testing.T) {
	for name, prove := range map[string]Prover{"there is no device": nil, "the device has no TPM": clienttest.Prove} {
		t.Run(name, func(t *testing.T) {
			c, h := clienttest.Start(t), newHome(t)
			p, err := h.Profile(c.Proxy)
			if err != nil {
				t.Fatal(err)
			}
			want := ask(c, prove)
			want.Key = KeyTPM
			_, err = p.Login(t.Context(), want, options())
			if err == nil || !strings.Contains(err.Error(), "no keys in the TPM") {
				t.Errorf("error %v", err)
			}
			if _, err := os.Stat(h.Dir()); err == nil {
				t.Error("something was kept")
			}
			if diff := cmp.Diff([]string{"alice"}, c.Ended()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// copyHome takes everything to another machine, as a thief does.
func copyHome(t *testing.T, h *Home, chip string) *Home {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "copied")
	if err := os.CopyFS(dir, os.DirFS(h.Dir())); err != nil {
		t.Fatal(err)
	}
	// CopyFS makes files for everybody.
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Chmod(path, 0o600)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := OpenHome(dir)
	if err != nil {
		t.Fatal(err)
	}
	stolen.Chip = NewChip(chip)
	t.Cleanup(func() { stolen.Chip.Close() })
	return stolen
}

func TestACopiedHomeIsOfNoUseWithAnotherTPM(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	m, _ := enrolledMachine(t, h)
	loggedIn(t, c, h, m.Prove)
	stolen := copyHome(t, h, tpmtest.Start(t).Address)
	p, err := stolen.Profile(c.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := p.Credentials()
	if err != nil {
		t.Fatal(err) // which login it is can be read
	}
	signer, err := creds.Signer()
	if err != nil {
		t.Fatal(err)
	}
	if sig, err := signer.Sign(nil, []byte("hello")); !errors.Is(err, tpm.ErrForeignKey) || hintOf(t, err) == "" {
		t.Errorf("signed %v, %v", sig, err)
	}
	conn, err := Dial(p, options())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = conn.Nodes(t.Context(), nil)
	if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.Contains(r.Message, "of another TPM") {
		t.Errorf("the API: %v", err)
	}
}

func TestAKeyGoesOnSigningWhenTheTPMWasRestarted(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	m, chip := enrolledMachine(t, h)
	creds, err := loggedIn(t, c, h, m.Prove).Credentials()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := creds.Signer()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := signer.Sign(nil, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		chip.Restart(t) // while the line to it is open
	}
}

func TestTheTPMIsGivenBackToOthers(t *testing.T) {
	chip := tpmtest.Start(t)
	one, two := NewChip(chip.Address), NewChip(chip.Address)
	defer one.Close()
	defer two.Close()
	for range 2 {
		for _, c := range []*Chip{one, two} {
			if err := c.Reach(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// An agent that many programs ask has no idle time.
func TestWhoSignsAllTheTimeLetsOthersHaveTheTPM(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	m, soft := enrolledMachine(t, h)
	creds, err := loggedIn(t, c, h, m.Prove).Credentials()
	if err != nil {
		t.Fatal(err)
	}
	var signing sync.WaitGroup
	defer signing.Wait()
	ended := make(chan struct{})
	defer close(ended)
	for range 4 {
		signing.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
				}
				if _, err := creds.signSSH(t.Context(), []byte("hello")); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 2 {
		other := NewChip(soft.Address)
		if err := other.Reach(ctx); err != nil {
			t.Error(err)
		}
		other.Close()
	}
}

func TestAFaultInAConversationWithTheTPMEndsThatOne(t *testing.T) {
	c := NewChip(tpmtest.Start(t).Address)
	defer c.Close()
	func() {
		defer func() { recover() }()
		_ = c.Use(t.Context(), func(*tpm.TPM) error { panic("a fault") })
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.Reach(ctx); err != nil {
		t.Error(err)
	}
}

func TestWhoWaitsForTheTPMHearsOfIt(t *testing.T) {
	told := make(chan bool, 2)
	c := NewChip(hangs(t, func() {}))
	c.Waiting = func() { told <- true }
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-told; cancel() }()
	if err := c.Reach(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestAFileOfKeysInTheTPMIsReadStrictly(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	m, _ := enrolledMachine(t, h)
	p := loggedIn(t, c, h, m.Prove)
	path := p.keyPath("alice" + chipKeysSuffix)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func() error{
		"it is missing":     func() error { return os.Remove(path) },
		"it is no JSON":     func() error { return os.WriteFile(path, []byte("{"), 0o600) },
		"it is empty":       func() error { return os.WriteFile(path, nil, 0o600) },
		"an unknown member": func() error { return os.WriteFile(path, replaced(good, `"version": 1`, `"version": 1, "x": 1`), 0o600) },
		"of the future":     func() error { return os.WriteFile(path, replaced(good, `"version": 1`, `"version": 2`), 0o600) },
		"of no version":     func() error { return os.WriteFile(path, replaced(good, `"version": 1`, `"version": 0`), 0o600) },
		"more behind it":    func() error { return os.WriteFile(path, append(slices.Clone(good), good...), 0o600) },
		"a damaged key":     func() error { return os.WriteFile(path, replaced(good, `"public": "A`, `"public": "B`), 0o600) },
		"too large":         func() error { return os.WriteFile(path, make([]byte, maxStored+1), 0o600) },
		"others can read it": func() error {
			return errors.Join(os.WriteFile(path, good, 0o600), os.Chmod(path, 0o644))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			defer os.Chmod(path, 0o600)
			if _, err := p.Credentials(); err == nil || name != "too large" && hintOf(t, err) == "" {
				t.Errorf("error %v", err)
			}
		})
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Credentials(); err != nil {
		t.Error(err)
	}
}

func replaced(text []byte, old, with string) []byte {
	return []byte(strings.Replace(string(text), old, with, 1))
}

// BenchmarkSign is what a signature with a key in a software TPM costs: while
// the TPM is held, and when it was given back before.
func BenchmarkSign(b *testing.B) {
	c, h := clienttest.Start(b), newHome(b)
	m, _ := enrolledMachine(b, h)
	creds, err := loggedIn(b, c, h, m.Prove).Credentials()
	if err != nil {
		b.Fatal(err)
	}
	chip, key, digest := h.Chip, creds.keys.chip.SSH, make([]byte, 32)
	for _, held := range []bool{true, false} {
		b.Run(map[bool]string{true: "held", false: "given back"}[held], func(b *testing.B) {
			for b.Loop() {
				if !held {
					chip.Close()
				}
				if _, err := chip.Sign(b.Context(), key, digest); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
