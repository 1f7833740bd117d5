package krl

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"devicetrust/policy"
)

var date = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// signer has a key that is the same in each run.
func signer(t testing.TB, seed byte) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ranges are pairs of first and last.
func ranges(serials ...uint64) (out []policy.Revocation) {
	for i := 0; i < len(serials); i += 2 {
		out = append(out, policy.Revocation{First: serials[i], Last: serials[i+1]})
	}
	return out
}

// each are n serials one by one: first, and then in steps.
func each(first, step uint64, n int) (out []policy.Revocation) {
	for i := range uint64(n) {
		serial := first + i*step
		out = append(out, policy.Revocation{First: serial, Last: serial})
	}
	return out
}

func list(t testing.TB, revoked []policy.Revocation) List {
	t.Helper()
	return List{Version: 7, Date: date, Comment: "example", Authorities: []Authority{{signer(t, 1).PublicKey(), revoked}}}
}

func marshal(t testing.TB, l List) []byte {
	t.Helper()
	data, err := l.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// keygen is what the installed OpenSSH makes of a list.
type keygen struct {
	t   *testing.T
	dir string
	krl string
}

func newKeygen(t *testing.T, data []byte) *keygen {
	t.Helper()
	dir := t.TempDir()
	k := &keygen{t: t, dir: dir, krl: filepath.Join(dir, "krl")}
	if err := os.WriteFile(k.krl, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

// revoked asks about certificates of authority, a hundred at once.
func (k *keygen) revoked(authority ssh.Signer, serials []uint64) map[uint64]bool {
	k.t.Helper()
	out := map[uint64]bool{}
	args := []string{"-Q", "-f", k.krl}
	for _, serial := range serials {
		args = append(args, k.certificate(authority, serial))
	}
	// Its status is that of the last one.
	text, err := exec.CommandContext(k.t.Context(), "ssh-keygen", args...).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != len(serials) {
		k.t.Fatalf("ssh-keygen: %v\n%s", err, text)
	}
	for i, line := range lines {
		switch {
		case strings.HasSuffix(line, ": REVOKED"):
			out[serials[i]] = true
		case strings.HasSuffix(line, ": ok"):
			out[serials[i]] = false
		default:
			k.t.Fatalf("ssh-keygen: %v\n%s", err, text)
		}
	}
	return out
}

func (k *keygen) certificate(authority ssh.Signer, serial uint64) string {
	k.t.Helper()
	cert := &ssh.Certificate{
		Key: signer(k.t, 9).PublicKey(), Serial: serial, CertType: ssh.UserCert, KeyId: "alice",
		ValidPrincipals: []string{"root"}, ValidBefore: ssh.CertTimeInfinity,
	}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		k.t.Fatal(err)
	}
	path := filepath.Join(k.dir, fmt.Sprintf("%d-cert.pub", serial))
	if err := os.WriteFile(path, ssh.MarshalAuthorizedKey(cert), 0o600); err != nil {
		k.t.Fatal(err)
	}
	return path
}

// dump is what it lists, one line for each range, without its comments.
func (k *keygen) dump() (lines []string, comments string) {
	k.t.Helper()
	text, err := exec.CommandContext(k.t.Context(), "ssh-keygen", "-Q", "-l", "-f", k.krl).CombinedOutput()
	if err != nil {
		k.t.Fatalf("ssh-keygen: %v\n%s", err, text)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "serial") {
			lines = append(lines, line)
		} else {
			comments += line + "\n"
		}
	}
	return lines, comments
}

func dumpOf(revoked []policy.Revocation) (lines []string) {
	for _, r := range revoked {
		if r.First == r.Last {
			lines = append(lines, fmt.Sprintf("serial: %d", r.First))
		} else {
			lines = append(lines, fmt.Sprintf("serial: %d-%d", r.First, r.Last))
		}
	}
	return lines
}

// tables are lists, each with the ranges that are read again.
var tables = map[string]struct{ revoked, read []policy.Revocation }{
	"nothing":                   {nil, nil},
	"one":                       {ranges(5, 5), ranges(5, 5)},
	"the first":                 {ranges(1, 1), ranges(1, 1)},
	"the highest":               {ranges(math.MaxUint64, math.MaxUint64), ranges(math.MaxUint64, math.MaxUint64)},
	"all":                       {ranges(1, math.MaxUint64), ranges(1, math.MaxUint64)},
	"two":                       {ranges(5, 5, 7, 7), ranges(5, 5, 7, 7)},
	"ranges":                    {ranges(2, 9, 20, 5000, 9000, 9001), ranges(2, 9, 20, 5000, 9000, 9001)},
	"ranges that touch":         {ranges(2, 9, 10, 12, 13, 13), ranges(2, 13)},
	"beyond 32 bits":            {ranges(1<<32, 1<<32, 1<<40, 1<<40+5, 1<<63+1, 1<<63+1), ranges(1<<32, 1<<32, 1<<40, 1<<40+5, 1<<63+1, 1<<63+1)},
	"every other":               {each(100, 2, 200), each(100, 2, 200)},
	"far apart":                 {each(100, 1<<20, 50), each(100, 1<<20, 50)},
	"up to the highest":         {each(math.MaxUint64-200, 2, 101), each(math.MaxUint64-200, 2, 101)},
	"more than a bitmap's bits": {each(7, 3, 3*maxBits/3), each(7, 3, 3*maxBits/3)},
	"all sorts": {
		append(append(ranges(1, 1, 3, 3, 1000, 900_000), each(900_002, 2, 50)...), ranges(1<<33, 1<<33, 1<<34, 1<<34, 1<<34+2, 1<<34+3)...),
		append(append(ranges(1, 1, 3, 3, 1000, 900_000), each(900_002, 2, 50)...), ranges(1<<33, 1<<33, 1<<34, 1<<34, 1<<34+2, 1<<34+3)...),
	},
}

func TestOpenSSHReadsExactlyWhatIsRevoked(t *testing.T) {
	for name, row := range tables {
		t.Run(name, func(t *testing.T) {
			k := newKeygen(t, marshal(t, list(t, row.revoked)))
			lines, comments := k.dump()
			if d := cmp.Diff(dumpOf(row.read), lines); d != "" {
				t.Errorf("want (-), listed (+):\n%s", d)
			}
			for _, want := range []string{"KRL version 7\n", "20260301T", "example"} {
				if !strings.Contains(comments, want) {
					t.Errorf("not in it: %q\n%s", want, comments)
				}
			}
			serials, want := around(row.read)
			if d := cmp.Diff(want, k.revoked(signer(t, 1), serials)); d != "" {
				t.Errorf("want (-), revoked (+):\n%s", d)
			}
			for serial, revoked := range k.revoked(signer(t, 2), serials) {
				if revoked {
					t.Errorf("serial %d of another authority is revoked", serial)
				}
			}
		})
	}
}

// around are the ends of some ranges and what is beside them.
func around(revoked []policy.Revocation) (serials []uint64, want map[uint64]bool) {
	want = map[uint64]bool{}
	add := func(serial uint64) {
		if _, twice := want[serial]; twice || len(serials) == 60 {
			return
		}
		serials, want[serial] = append(serials, serial), false
		for _, r := range revoked {
			want[serial] = want[serial] || r.First <= serial && serial <= r.Last
		}
	}
	add(4711)
	for i, r := range revoked {
		if i > 8 && i < len(revoked)-8 {
			continue
		}
		for _, serial := range []uint64{max(r.First-1, 1), r.First, r.Last, max(r.Last, r.Last+1)} {
			add(serial)
		}
	}
	return serials, want
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	for name, row := range tables {
		t.Run(name, func(t *testing.T) {
			data := marshal(t, list(t, row.revoked))
			got, err := Parse(data)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(row.read, got.Authorities[0].Revoked); d != "" {
				t.Errorf("want (-), got (+):\n%s", d)
			}
			if got.Version != 7 || !got.Date.Equal(date) || got.Comment != "example" {
				t.Errorf("read: %+v", got)
			}
			serials, want := around(row.read)
			for _, serial := range serials {
				if got.Revokes(signer(t, 1).PublicKey(), serial) != want[serial] {
					t.Errorf("serial %d: want %v", serial, want[serial])
				}
				if got.Revokes(signer(t, 2).PublicKey(), serial) {
					t.Errorf("serial %d of another authority is revoked", serial)
				}
			}
			if !bytes.Equal(marshal(t, got), data) {
				t.Error("written again it is another")
			}
		})
	}
}

func TestAListIsAboutSeveralAuthorities(t *testing.T) {
	l := list(t, ranges(5, 9))
	l.Authorities = append(l.Authorities, Authority{Key: signer(t, 2).PublicKey()}, Authority{signer(t, 3).PublicKey(), ranges(9, 12)})
	k := newKeygen(t, marshal(t, l))
	for seed, want := range map[byte]map[uint64]bool{
		1: {5: true, 9: true, 12: false}, 2: {5: false, 9: false, 12: false}, 3: {5: false, 9: true, 12: true}, 4: {5: false, 9: false, 12: false},
	} {
		if d := cmp.Diff(want, k.revoked(signer(t, seed), []uint64{5, 9, 12})); d != "" {
			t.Errorf("authority %d: want (-), got (+):\n%s", seed, d)
		}
	}
}

// What a sub-section of each kind would need is the measure: a list is never
// longer than the best of them alone.
func TestTheSmallestFormIsChosen(t *testing.T) {
	empty := len(marshal(t, list(t, nil)))
	for name, row := range map[string]struct {
		revoked []policy.Revocation
		most    int
	}{
		"one":                        {ranges(5, 5), 5 + 8},
		"a long range":               {ranges(5, 1<<40), 5 + 16},
		"far apart":                  {each(100, 1<<20, 50), 5 + 50*8},
		"every other":                {each(100, 2, 800), 5 + 8 + 4 + 200},
		"a range among far ones":     {append(each(1, 1<<20, 10), ranges(1<<30, 1<<35)...), 5 + 10*8 + 5 + 16},
		"a list is not ended by two": {append(append(each(1, 1<<20, 10), ranges(1<<30, 1<<30+1)...), each(1<<31, 1<<20, 10)...), 5 + 22*8},
		"dense, a gap, dense":        {append(each(1, 2, 800), each(1<<40, 2, 800)...), 2 * (5 + 8 + 4 + 200)},
	} {
		if got := len(marshal(t, list(t, row.revoked))) - empty; got > row.most {
			t.Errorf("%s: %d bytes, want at most %d", name, got, row.most)
		}
	}
}

func TestWhatIsNoListIsNotWritten(t *testing.T) {
	key := signer(t, 1).PublicKey()
	for name, change := range map[string]func(*List){
		"no authority":         func(l *List) { l.Authorities = nil },
		"an authority twice":   func(l *List) { l.Authorities = append(l.Authorities, Authority{Key: key}) },
		"too many authorities": func(l *List) { l.Authorities = make([]Authority, maxAuthorities+1) },
		"no date":              func(l *List) { l.Date = time.Time{} },
		"a date too late":      func(l *List) { l.Date = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"a comment of lines":   func(l *List) { l.Comment = "a\nb" },
		"a long comment":       func(l *List) { l.Comment = strings.Repeat("a", maxComment+1) },
		"serial 0":             func(l *List) { l.Authorities[0].Revoked = ranges(0, 5) },
		"a range of none":      func(l *List) { l.Authorities[0].Revoked = ranges(5, 4) },
		"descending":           func(l *List) { l.Authorities[0].Revoked = ranges(5, 5, 3, 3) },
		"overlapping":          func(l *List) { l.Authorities[0].Revoked = ranges(5, 9, 9, 12) },
		"after the highest":    func(l *List) { l.Authorities[0].Revoked = ranges(5, math.MaxUint64, 1, 1) },
		"too many bytes": func(l *List) {
			l.Authorities[0].Revoked = nil
			for i := range uint64(maxRanges) {
				l.Authorities[0].Revoked = append(l.Authorities[0].Revoked, policy.Revocation{First: (i + 1) << 20, Last: (i+1)<<20 + 99})
			}
		},
		"too many ranges": func(l *List) { l.Authorities[0].Revoked = each(1, 2, maxRanges+1) },
	} {
		l := list(t, ranges(5, 5))
		change(&l)
		if data, err := l.Marshal(); err == nil {
			t.Errorf("%s: written, %d bytes", name, len(data))
		}
	}
}

// What was cut off anywhere is none, also where OpenSSH would take it for a
// whole list.
func TestAListThatWasCutOffIsNone(t *testing.T) {
	l := list(t, append(ranges(5, 9, 1<<40, 1<<50), each(1<<51, 2, 100)...))
	l.Authorities = append(l.Authorities, Authority{Key: signer(t, 2).PublicKey()})
	data := marshal(t, l)
	authorities := []ssh.PublicKey{l.Authorities[0].Key, l.Authorities[1].Key}
	if _, err := Check(data, authorities); err != nil {
		t.Fatal(err)
	}
	for n := range data {
		if _, err := Check(data[:n], authorities); err == nil {
			t.Errorf("the first %d of %d bytes are taken for a list", n, len(data))
		}
	}
	if _, err := Check(append(data, 0), authorities); err == nil {
		t.Error("more than a list is taken for one")
	}
}

func TestAListOfOthersIsNone(t *testing.T) {
	data := marshal(t, list(t, ranges(5, 5)))
	one, other := signer(t, 1).PublicKey(), signer(t, 2).PublicKey()
	for name, authorities := range map[string][]ssh.PublicKey{
		"nobody's": nil, "another's": {other}, "and another's": {one, other},
	} {
		if _, err := Check(data, authorities); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, data := range map[string][]byte{"a key": ssh.MarshalAuthorizedKey(one), "nothing": nil, "spaces": []byte(" \n"), "zeros": make([]byte, 100)} {
		if _, err := Check(data, []ssh.PublicKey{one}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
