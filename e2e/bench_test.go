package e2e

import (
	"context"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"devicetrust/e2e/stage"
)

// BenchmarkLoginWithDevice measures what the device ceremony adds to a whole
// `dtsh login`, process start and all, against swtpm, and what two keys in the
// TPM add to that. Logins of the three kinds take turns, so that a busy moment of
// the machine falls on all; extra-ms and keys-ms are the medians of the
// differences.
func BenchmarkLoginWithDevice(b *testing.B) {
	l := newLoginBench(b)
	var extra, keys, without []time.Duration
	pair := func() {
		plain := l.login(b, "plain", "software", false)
		software := l.login(b, "enrolled", "software", true)
		attested := l.login(b, "enrolled", "tpm", true)
		without = append(without, plain)
		extra = append(extra, attested-plain)
		keys = append(keys, attested-software)
	}
	for b.Loop() {
		pair()
	}
	// A median of one or two says nothing, and go test is content with that.
	for len(extra) < 25 {
		pair()
	}
	b.ReportMetric(milliseconds(median(without)), "plain-ms")
	b.ReportMetric(milliseconds(median(extra)), "extra-ms")
	b.ReportMetric(milliseconds(median(keys)), "keys-ms")
}

func median(d []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(d))[len(d)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

type loginBench struct {
	stage *stage.Stage
	authd *stage.Daemon
	env   map[string][]string // of each person
}

const benchPassword = "correct-horse-battery"

func newLoginBench(b *testing.B) *loginBench {
	dir, err := os.MkdirTemp("", "dt-bench") //nolint:usetesting // its path is too long for a socket
	if err != nil {
		b.Fatal(err)
	}
	s := &stage.Stage{Dir: dir, Bin: binDir}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	l := &loginBench{stage: s, env: map[string][]string{}}
	if l.authd, err = s.Authd(b.Context(), "authd"); err != nil {
		b.Fatal(err)
	}
	pin, err := l.authd.Pin(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	tpm, err := s.TPM(b.Context(), "laptop")
	if err != nil {
		b.Fatal(err)
	}
	if err := stage.DMI(filepath.Join(dir, "dmi"), "BENCH-1"); err != nil {
		b.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		b.Fatal(err)
	}
	for _, person := range []string{"plain", "enrolled"} {
		l.env[person] = append(os.Environ(),
			"DTCTL_DATA_DIR="+l.authd.DataDir, "DTSH_PROXY="+l.authd.Addr, "DTSH_USER="+person,
			"DTSH_AGENT=off", "DTSH_HOME="+filepath.Join(dir, person), "DTSH_DMI_DIR="+filepath.Join(dir, "dmi"), "DTSH_TPM="+tpm.Address())
		l.run(b, person, "dtctl", "users", "add", person, "--roles=access,device-admin", "--logins="+me.Username, "--password-stdin")
		l.run(b, person, "dtsh", "login", "--ca-pin="+pin, "--password-stdin")
	}
	l.run(b, "enrolled", "dtsh", "device", "enroll", "--current-device")
	return l
}

// login logs a person in, with that kind of keys, and tells how long it took.
func (l *loginBench) login(b *testing.B, person, key string, device bool) time.Duration {
	start := time.Now()
	out := l.run(b, person, "dtsh", "login", "--key="+key, "--password-stdin")
	took := time.Since(start)
	if strings.Contains(out, "teleport-device-id") != device || strings.Contains(out, "key-attestation") != (key == "tpm") {
		b.Fatalf("%s: device %v and a %s key wanted:\n%s", person, device, key, out)
	}
	return took
}

// BenchmarkStart measures what starts often: a shell's completion and prompt
// wait for it.
func BenchmarkStart(b *testing.B) {
	l := newLoginBench(b)
	l.login(b, "enrolled", "tpm", true)
	for name, words := range map[string][]string{"help": {"--help"}, "status": {"status"}} {
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			once := func() {
				start := time.Now()
				l.run(b, "enrolled", "dtsh", words...)
				took = append(took, time.Since(start))
			}
			for b.Loop() {
				once()
			}
			for len(took) < 25 {
				once()
			}
			b.ReportMetric(milliseconds(median(took)), "median-ms")
		})
	}
}

func (l *loginBench) run(b *testing.B, person, program string, args ...string) string {
	b.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(b.Context()), filepath.Join(binDir, program), args...)
	cmd.Env = l.env[person]
	cmd.Stdin = strings.NewReader(benchPassword + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
	return string(out)
}
