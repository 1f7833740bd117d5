package client

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/client/clienttest"
	"devicetrust/identity"
)

func newHome(t testing.TB) *Home {
	t.Helper()
	h, err := OpenHome(filepath.Join(t.TempDir(), "dtsh"))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestAHomeThatWasThereBecomesPrivate(t *testing.T) {
	for name, tt := range map[string]struct {
		file string
		want fs.FileMode
	}{
		"an empty folder":            {"", 0o700},
		"a home of ours":             {"current-profile", 0o700},
		"a folder with other things": {"letter.txt", 0o755},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if tt.file != "" {
				if err := os.WriteFile(filepath.Join(dir, tt.file), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			h, err := OpenHome(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.write([]byte("x"), "profiles", "x.json"); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(dir)
			if err != nil || info.Mode().Perm() != tt.want {
				t.Errorf("mode %v, %v; want %v", info.Mode().Perm(), err, tt.want)
			}
		})
	}
}

// loggedIn gives the profile of alice, who has just logged in.
func loggedIn(t testing.TB, c *clienttest.Cluster, h *Home, prove Prover) *Profile {
	t.Helper()
	p, err := h.Profile(c.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Login(t.Context(), ask(c, prove), options()); err != nil {
		t.Fatal(err)
	}
	return p
}

func ask(c *clienttest.Cluster, prove Prover) Ask {
	return Ask{User: "alice", Password: "correct horse", Trust: Trust{Pins: []Pin{Pin(c.Pin)}}, Prove: prove}
}

func TestAHomeThatOthersCanWriteToIsRefused(t *testing.T) {
	for mode, ok := range map[fs.FileMode]bool{0o700: true, 0o750: true, 0o755: true, 0o770: false, 0o707: false, 0o777: false} {
		dir := filepath.Join(t.TempDir(), "dtsh")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		_, err := OpenHome(dir)
		if (err == nil) != ok {
			t.Errorf("mode %04o: %v", mode, err)
		}
		if r, is := errors.AsType[*api.Refusal](err); err != nil && (!is || !strings.Contains(r.Hint, "chmod")) {
			t.Errorf("mode %04o: no remedy in %#v", mode, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", file} {
		if _, err := OpenHome(dir); err == nil {
			t.Errorf("home %q: accepted", dir)
		}
	}
}

func TestLookingAtAHomeDoesNotMakeIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dtsh")
	if _, err := LoadProfile(dir, ""); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
}

func TestWhatALoginKeepsIsForItsOwnerAlone(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	loggedIn(t, c, h, clienttest.Prove)
	var files []string
	err := filepath.WalkDir(h.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, want %04o", path, info.Mode().Perm(), want)
		}
		if rel, _ := filepath.Rel(h.Dir(), path); !d.IsDir() {
			files = append(files, strings.ReplaceAll(rel, fileName(c.Proxy), "PROXY"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"current-profile", "keys/PROXY/alice", "keys/PROXY/alice-cert.pub", "keys/PROXY/alice.pub", "keys/PROXY/alice.tls.crt",
		"keys/PROXY/alice.tls.key", "keys/PROXY/known_hosts", "lock", "profiles/PROXY.json",
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Error(diff)
	}
}

func TestAPrivateKeyThatOthersCanReadIsNotUsed(t *testing.T) {
	for _, name := range []string{"alice", "alice.tls.key"} {
		c, h := clienttest.Start(t), newHome(t)
		p := loggedIn(t, c, h, nil)
		if err := os.Chmod(p.keyPath(name), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := p.Credentials()
		if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.Contains(r.Message, "0644") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDamagedKeysAskForANewLogin(t *testing.T) {
	other := func(t *testing.T, p *Profile, name string) []byte {
		c, h := clienttest.Start(t), newHome(t)
		data, err := os.ReadFile(loggedIn(t, c, h, nil).keyPath(name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	garbage := func(*testing.T, *Profile, string) []byte { return []byte("garbage") }
	absent := func(*testing.T, *Profile, string) []byte { return nil }
	for _, name := range []string{"alice", "alice-cert.pub", "alice.tls.key", "alice.tls.crt"} {
		for what, content := range map[string]func(*testing.T, *Profile, string) []byte{"garbage": garbage, "another's": other, "absent": absent} {
			t.Run(name+" "+what, func(t *testing.T) {
				c, h := clienttest.Start(t), newHome(t)
				p := loggedIn(t, c, h, nil)
				if data := content(t, p, name); data == nil {
					os.Remove(p.keyPath(name))
				} else if err := os.WriteFile(p.keyPath(name), data, 0o600); err != nil {
					t.Fatal(err)
				}
				_, err := p.Credentials()
				if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.Contains(r.Hint, "dtsh login") {
					t.Errorf("error %v", err)
				}
			})
		}
	}
}

func TestAProfileThatIsNotUnderstoodIsRefused(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	loggedIn(t, c, h, nil)
	file := h.path("profiles", fileName(c.Proxy)+".json")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"a newer version":       {`"version": 1`, `"version": 2`},
		"an unknown key":        {`"version": 1,`, `"version": 1, "x": 1,`},
		"another address":       {c.Proxy, "elsewhere:3080"},
		"an address for ever":   {c.Proxy, "../../x"},
		"a user that is a path": {`"user": "alice"`, `"user": "../alice"`},
		"a user that is a file": {`"user": "alice"`, `"user": "known_hosts"`},
		"no JSON":               {"{", "["},
	} {
		text := strings.Replace(string(good), change[0], change[1], 1)
		if text == string(good) {
			t.Fatalf("%s: nothing changed", name)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := h.Profile(c.Proxy)
		if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.Contains(r.Hint, "log in again") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"../profiles/x", ".hidden", "", "a/b", "a b"} {
		if err := os.WriteFile(h.path("current-profile"), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Profile(""); err == nil || errors.Is(err, ErrNotLoggedIn) {
			t.Errorf("current profile %q: %v", name, err)
		}
	}
}

func TestAProfileOfAnOlderProgramIsUnderstood(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	loggedIn(t, c, h, nil)
	file := h.path("profiles", fileName(c.Proxy)+".json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	older := strings.Replace(string(data), `"version": 1,`, `"version": 1, "device_trust_mode": "optional",`, 1)
	if err := os.WriteFile(file, []byte(older), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := h.Profile(c.Proxy); err != nil || p.User != "alice" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestTheLastLoginIsTheCurrentProfile(t *testing.T) {
	one, two, h := clienttest.Start(t), clienttest.Start(t), newHome(t)
	loggedIn(t, one, h, nil)
	loggedIn(t, two, h, nil)
	for proxy, want := range map[string]string{"": two.Proxy, one.Proxy: one.Proxy, "https://" + one.Proxy: one.Proxy} {
		p, err := LoadProfile(h.Dir(), proxy)
		if err != nil || p.Proxy != want {
			t.Errorf("proxy %q: %+v, %v", proxy, p, err)
		}
	}
	if _, err := LoadProfile(h.Dir(), "elsewhere:3080"); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("error %v", err)
	}
}

func TestAFolderIsReplacedAsAWhole(t *testing.T) {
	h := newHome(t)
	for _, names := range [][]string{{"a", "b"}, {"c"}} {
		files := map[string][]byte{}
		for _, n := range names {
			files[n] = []byte(n)
		}
		r, err := h.replaceFolder(files, "keys", "x")
		if err != nil {
			t.Fatal(err)
		}
		r.settle()
		if got := entries(t, h.path("keys", "x")); !cmp.Equal(got, names) {
			t.Errorf("got %q, want %q", got, names)
		}
		if got := entries(t, h.path("keys")); !cmp.Equal(got, []string{"x"}) {
			t.Errorf("left behind: %q", got)
		}
	}
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

func TestAnExpiredLoginIsToldInThePersonsTime(t *testing.T) {
	until := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := Credentials{Identity: identity.Identity{User: "alice", ValidBefore: until}, TLS: &x509.Certificate{NotAfter: until}}
	err := c.check(until.In(time.FixedZone("JST", 9*3600)))
	if err == nil || !strings.HasSuffix(err.Error(), "expired at 2026-01-02 12:04:05 +0900") {
		t.Errorf("error %v", err)
	}
}
