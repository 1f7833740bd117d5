package sshd

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/feed"
	"devicetrust/policy"
)

// refusedFor is the only thing that may be wrong.
func (s *site) refusedFor(t *testing.T, what string, args []string, now time.Time, cause string) {
	t.Helper()
	line, no := ask(args, now)
	if line != "" || no == nil || no.cause != cause {
		t.Errorf("%s: got %q, %v; want %s", what, line, no, cause)
	}
}

func TestAStateThatIsNotTheClustersRefuses(t *testing.T) {
	for name, fault := range map[string]func(s *site){
		"there is none":  func(s *site) { s.must(os.Remove(s.dir.State())) },
		"it is empty":    func(s *site) { s.must(os.Truncate(s.dir.State(), 0)) },
		"it was cut":     func(s *site) { s.must(os.Truncate(s.dir.State(), 5000)) },
		"it is no state": func(s *site) { s.must(os.WriteFile(s.dir.State(), bytes.Repeat([]byte("x"), 9000), 0o600)) },
		"it is huge":     func(s *site) { s.must(os.Truncate(s.dir.State(), feed.MaxMessage+1)) },
		"it is a pipe": func(s *site) {
			s.must(os.Remove(s.dir.State()))
			s.must(syscall.Mkfifo(s.dir.State(), 0o644))
		},
		"it is a folder": func(s *site) {
			s.must(os.Remove(s.dir.State()))
			s.must(os.Mkdir(s.dir.State(), 0o755))
		},
		"its number is missing":       func(s *site) { s.must(os.Remove(s.dir.State() + ".newest")) },
		"its number is none":          func(s *site) { s.must(os.WriteFile(s.dir.State()+".newest", []byte("one\n"), 0o600)) },
		"it is older than its number": func(s *site) { s.must(os.WriteFile(s.dir.State()+".newest", []byte("2\n"), 0o600)) },
		"an older one is in its place": func(s *site) {
			old, err := os.ReadFile(s.dir.State())
			s.must(err)
			s.publish(func() { s.content.Locks = []policy.Lock{lock(policy.LockTarget{User: "bob"}, "")} })
			s.must(os.WriteFile(s.dir.State(), old, 0o600))
		},
		"another authority signed it": func(s *site) {
			ca := s.ca
			s.ca = newKey(s.t, 3)
			s.content.UserAuthorities = append(s.content.UserAuthorities, s.ca.PublicKey())
			s.publish(nil)
			s.ca = ca
		},
		"it is for another node": func(s *site) {
			s.node.ID = "another"
			s.publish(nil)
		},
		"it is of another cluster": func(s *site) {
			s.node.Cluster = "example.org"
			s.publish(nil)
		},
		"the node is another":    func(s *site) { s.node.ID = "another"; s.must(s.dir.WriteNode(s.node)) },
		"the cluster is another": func(s *site) { s.node.Cluster = "example.org"; s.must(s.dir.WriteNode(s.node)) },
		"no node":                func(s *site) { s.must(os.Remove(s.dir.NodeFile())) },
		"a node that is none":    func(s *site) { s.must(os.WriteFile(s.dir.NodeFile(), []byte("{}\n"), 0o600)) },
		"no authorities":         func(s *site) { s.must(os.Remove(s.dir.UserCA())) },
		"other authorities":      func(s *site) { s.must(s.dir.WriteUserCA([]ssh.PublicKey{newKey(s.t, 3).PublicKey()})) },
		"authorities in a pipe": func(s *site) {
			s.must(os.Remove(s.dir.UserCA()))
			s.must(syscall.Mkfifo(s.dir.UserCA(), 0o644))
		},
		"no folder": func(s *site) { s.must(os.RemoveAll(string(s.dir))) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, noon)
			args := s.good()
			if line, no := ask(args, noon); no != nil {
				t.Fatalf("refused before: %q, %v", line, no)
			}
			fault(s)
			s.refusedFor(t, "then", args, noon, causeState)
		})
	}
}

// Nobody is locked out for longer than the fault lasts.
func TestAFaultThatIsMendedIsOver(t *testing.T) {
	s := newSite(t, noon)
	args := s.good()
	hidden := filepath.Join(t.TempDir(), "state")
	s.must(os.Rename(s.dir.State(), hidden))
	s.refusedFor(t, "without a state", args, noon, causeState)
	s.must(os.Rename(hidden, s.dir.State()))
	if line, no := ask(args, noon); line != goodLine {
		t.Errorf("afterwards: %q, %v", line, no)
	}
}

func TestAStateThatSomebodyElseHasLockedIsReadOrRefusedAtOnce(t *testing.T) {
	s := newSite(t, noon)
	args := s.good()
	f, err := os.OpenFile(s.dir.State(), os.O_RDWR, 0)
	s.must(err)
	defer f.Close()
	s.must(syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	if line, no := ask(args, noon); line != goodLine {
		t.Errorf("behind flock: %q, %v", line, no)
	}
	s.must(f.Close())
	// A lease keeps whoever opens the file waiting until its holder gives it up
	// (fcntl(2)), and this one never does.
	f, err = os.OpenFile(s.dir.State(), os.O_RDWR, 0)
	s.must(err)
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_SETLEASE, syscall.F_WRLCK); errno != 0 {
		t.Fatalf("no lease: %v", errno)
	}
	begun := time.Now()
	line, no := ask(args, noon)
	if took := time.Since(begun); took > maxAnswerTime {
		t.Errorf("behind a lease: took %v", took)
	}
	if line != "" || no == nil || no.cause != causeState {
		t.Errorf("behind a lease: %q, %v", line, no)
	}
}

// Every part of the file counts but what is about others: a flip there is not
// looked at.
func TestAFlippedByteOfTheStateNeverChangesWhatIsDecided(t *testing.T) {
	s := newSite(t, noon)
	s.publish(func() {
		s.setRole("access", map[string]any{"device_trust_mode": "required"}, nil)
		s.content.Locks = []policy.Lock{lock(policy.LockTarget{User: "bob"}, "")}
		s.content.Revoked = []policy.Revocation{{First: 40, Last: 41}}
	})
	args := s.good()
	s.refusedFor(t, "whole", args, noon, string(policy.CauseTrustedDevice))
	whole, err := os.ReadFile(s.dir.State())
	s.must(err)
	r := rand.New(rand.NewPCG(1, 2))
	seen := map[string]int{}
	for at := 0; at < len(whole); at += 1 + r.IntN(2*len(whole)/2000) {
		flipped := slices.Clone(whole)
		flipped[at] ^= 1 << r.IntN(8)
		s.must(os.WriteFile(s.dir.State(), flipped, 0o600))
		line, no := ask(args, noon)
		if line != "" || no == nil {
			t.Fatalf("byte %d: %q", at, line)
		}
		seen[no.cause]++
	}
	if seen[causeState] < 500 {
		t.Errorf("of the flips, %v", seen)
	}
}

func TestClocksThatJumpRefuseOrAreSeen(t *testing.T) {
	s := newSite(t, noon)
	args := s.good()
	s.refusedFor(t, "a year ahead", args, noon.AddDate(1, 0, 0), "certificate-expired")
	s.refusedFor(t, "a year back", args, noon.AddDate(-1, 0, 0), "certificate-not-yet-valid")
	s.refusedFor(t, "to 1970", args, time.Unix(0, 0), "certificate-not-configured")
	s.refusedFor(t, "to before that", args, time.Unix(-1, 0), "certificate-not-configured")
	s.refusedFor(t, "beyond all", args, time.Unix(1<<62, 0), "certificate-expired")
}

func TestWhatSshdSaysHasToAgree(t *testing.T) {
	s := newSite(t, noon)
	good, other := s.good(), s.arguments("root", s.certify(newKey(t, 8).PublicKey(), nil))
	set := func(at int, to string) []string {
		args := slices.Clone(good)
		args[at] = to
		return args
	}
	for name, args := range map[string][]string{
		"nothing":                     nil,
		"too few":                     good[:9],
		"too many":                    append(slices.Clone(good), "x"),
		"no folder":                   set(0, "--dir="),
		"a folder from here":          set(0, "--dir=x"),
		"no --dir":                    set(0, string(s.dir)),
		"no login":                    set(1, ""),
		"a login with a space":        set(1, "ro ot"),
		"a login of two lines":        set(1, "root\nroot"),
		"a login in capitals":         set(1, "ROOT"),
		"another type":                set(2, "ssh-ed25519"),
		"no certificate":              set(3, ""),
		"garbage":                     set(3, "%k"),
		"base64 of garbage":           set(3, base64.StdEncoding.EncodeToString([]byte("garbage"))),
		"a cut certificate":           set(3, good[3][:400]),
		"something after it":          set(3, base64.StdEncoding.EncodeToString(append(mustDecode(t, good[3]), 0))),
		"base64 with a new line":      set(3, good[3][:100]+"\n"+good[3][100:]),
		"a long certificate":          set(3, strings.Repeat("A", maxCertificate+1)),
		"a plain key":                 set(3, good[5]),
		"somebody else's certificate": set(3, other[3]),
		"another authority's type":    set(4, "ssh-rsa"),
		"another authority":           set(5, base64.StdEncoding.EncodeToString(newKey(t, 2).PublicKey().Marshal())),
		"no authority":                set(5, ""),
		"another print of it":         set(6, other[7]),
		"another print":               set(7, other[7]),
		"an empty print":              set(7, ""),
		"another user":                set(8, "bob"),
		"another serial":              set(9, "43"),
		"a serial with a sign":        set(9, "+42"),
	} {
		s.refusedFor(t, name, args, noon, causeArguments)
	}
	// It is not even decoded.
	if _, no := ask(set(3, strings.Repeat("A", maxCertificate+1)), noon); no == nil || !strings.Contains(no.reason, "more than") {
		t.Errorf("a long certificate: %v", no)
	}
	// With FingerprintHash md5 (sshd_config(5)) they are others.
	md5 := set(6, "MD5:"+ssh.FingerprintLegacyMD5(s.ca.PublicKey()))
	md5[7] = "MD5:" + ssh.FingerprintLegacyMD5(newKey(t, 9).PublicKey())
	if line, no := ask(md5, noon); line != goodLine {
		t.Errorf("with MD5: %q, %v", line, no)
	}
}

func mustDecode(t testing.TB, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// mutate changes a few of the bytes.
func mutate(r *rand.Rand, b []byte) []byte {
	b = slices.Clone(b)
	for range 1 + r.IntN(3) {
		at := r.IntN(len(b))
		switch r.IntN(4) {
		case 0:
			b[at] ^= 1 << r.IntN(8)
		case 1:
			b[at] = byte(r.Uint32())
		case 2:
			b = slices.Delete(b, at, min(len(b), at+1+r.IntN(8)))
		case 3:
			b = slices.Insert(b, at, b[:min(len(b), 1+r.IntN(32))]...)
		}
		if len(b) == 0 {
			return b
		}
	}
	return b
}

// Whatever is done to a certificate, it opens nothing, and takes no time. Half of
// them are asked about as sshd would, which has read them too.
func TestTwentyThousandFuzzedCertificatesOpenNothing(t *testing.T) {
	s := newSite(t, noon)
	good := s.good()
	wire := mustDecode(t, good[3])
	r := rand.New(rand.NewPCG(3, 4))
	causes := map[string]int{}
	var longest time.Duration
	for range 20_000 {
		b := mutate(r, wire)
		args := slices.Clone(good)
		args[3] = base64.StdEncoding.EncodeToString(b)
		if key, err := ssh.ParsePublicKey(b); err == nil && r.IntN(2) == 0 {
			if cert, ok := key.(*ssh.Certificate); ok {
				args = s.arguments("root", cert)
			}
		}
		begun := time.Now()
		line, no := ask(args, noon)
		longest = max(longest, time.Since(begun))
		if bytes.Equal(b, wire) {
			continue
		}
		if line != "" || no == nil {
			t.Fatalf("%x was admitted: %q", b, line)
		}
		causes[no.cause]++
	}
	if longest > maxAnswerTime {
		t.Errorf("one took %v", longest)
	}
	// They have to have come far enough.
	if causes[causeArguments] < 1000 || causes["certificate-bad-signature"] < 1000 {
		t.Errorf("refused for %v", causes)
	}
	if line, no := ask(good, noon); line != goodLine {
		t.Errorf("the good one afterwards: %q, %v", line, no)
	}
}

func FuzzPrincipals(f *testing.F) {
	s := newSite(f, noon)
	good := s.good()
	f.Add(strings.Join(good[1:], "\x00"))
	f.Fuzz(func(t *testing.T, text string) {
		args := append([]string{good[0]}, strings.Split(text, "\x00")...)
		line, no := ask(args, noon)
		if (line == "") == (no == nil) {
			t.Fatalf("got %q, %v", line, no)
		}
		if no != nil {
			if said := no.String(); strings.ContainsAny(said, "\n\x1b\x00") {
				t.Errorf("said %q", said)
			}
			return
		}
		// Only the good certificate is good, for its logins.
		if args[3] != good[3] || line != goodLine && line != strings.Replace(goodLine, " root\n", " alice\n", 1) || !strings.HasSuffix(line, " "+args[1]+"\n") {
			t.Errorf("%q was told %q", text, line)
		}
	})
}
