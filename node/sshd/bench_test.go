package sshd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"devicetrust/policy"
)

// dtnoded is the program that ships: where DT_E2E_BIN says, or built here.
func dtnoded(b *testing.B) string {
	b.Helper()
	if bin := os.Getenv("DT_E2E_BIN"); bin != "" {
		return filepath.Join(bin, "dtnoded")
	}
	path := filepath.Join(b.TempDir(), "dtnoded")
	build := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "devicetrust/cmd/dtnoded")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return path
}

// fill gives the cluster so many roles and locks that are about others.
func (s *site) fill(roles, locks int) {
	for i := range roles {
		s.setRole(fmt.Sprint("role-", i), map[string]any{"max_session_ttl": "8h"}, map[string]any{"node_labels": map[string]any{"team": fmt.Sprint(i)}})
	}
	for i := range locks {
		l := lock(policy.LockTarget{User: fmt.Sprint("user-", i)}, "left the company")
		l.Name = fmt.Sprintf("%08x-0000-4000-8000-000000000001", i)
		s.content.Locks = append(s.content.Locks, l)
	}
}

// BenchmarkHelper is the whole process, as sshd starts it.
func BenchmarkHelper(b *testing.B) {
	program := dtnoded(b)
	for name, size := range map[string][2]int{"Small": {50, 20}, "Large": {9000, 1000}} {
		b.Run(name, func(b *testing.B) {
			s := newSite(b, time.Now().Truncate(time.Second))
			s.publish(func() { s.fill(size[0], size[1]) })
			args := append([]string{"sshd", "principals"}, s.good()...)
			var took, cpu []time.Duration
			for b.Loop() {
				begun := time.Now()
				cmd := exec.CommandContext(b.Context(), program, args...)
				out, err := cmd.Output()
				took = append(took, time.Since(begun))
				cpu = append(cpu, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
				if err != nil || len(out) == 0 {
					b.Fatalf("%q, %v", out, err)
				}
			}
			b.ReportMetric(median(took), "median-ms")
			b.ReportMetric(median(cpu), "cpu-ms")
		})
	}
}

// BenchmarkHelperLogin is a login with a stock ssh at a stock sshd, over one at
// the same that reads a file with the login instead of asking; by turns.
func BenchmarkHelperLogin(b *testing.B) {
	s := startHelped(b)
	s.publish(func() { s.fill(50, 20) })
	file := filepath.Join(s.folder, "principals")
	s.must(os.WriteFile(file, []byte("root\n"), 0o644))
	program := s.program(dtnoded(b))
	asking := s.serve("asking", s.asks(program))
	plain := s.serve("plain", "AuthorizedPrincipalsFile "+file)
	cert := s.own(nil)
	login := func(address string) time.Duration {
		s.address = address
		begun := time.Now()
		if out, err := s.enter(cert, "root"); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		return time.Since(begun)
	}
	var with, without []time.Duration
	for b.Loop() {
		for range 15 { // one alone says little on a machine that does other things
			with, without = append(with, login(asking)), append(without, login(plain))
		}
	}
	b.ReportMetric(median(with)/median(without), "x_without")
	b.ReportMetric(median(with), "with-ms")
}

// median in milliseconds.
func median(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2]) / 1e6
}
