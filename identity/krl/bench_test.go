package krl

import (
	"math/rand/v2"
	"testing"

	"golang.org/x/crypto/ssh"

	"devicetrust/policy"
)

// BenchmarkKRL writes a list of 100,000 serials: one in ten, as where every
// tenth of a million certificates was revoked; and anywhere among 2^40, where
// nothing but a list of them will do. The limit is 2 MB.
func BenchmarkKRL(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	scattered := func(gap uint64) (out []policy.Revocation) {
		serial := uint64(1)
		for range 100_000 {
			serial += 2 + random.Uint64N(2*gap-2)
			out = append(out, policy.Revocation{First: serial, Last: serial})
		}
		return out
	}
	for name, revoked := range map[string][]policy.Revocation{"scattered": scattered(10), "anywhere": scattered(1 << 40 / 100_000)} {
		b.Run(name, func(b *testing.B) {
			l := list(b, revoked)
			var data []byte
			for b.Loop() {
				data = marshal(b, l)
			}
			b.ReportMetric(float64(len(data)), "bytes")
			b.ReportMetric(2_000_000, "limit-bytes")
		})
	}
}

// BenchmarkCheck reads the longer of them.
func BenchmarkCheck(b *testing.B) {
	l := list(b, each(1, 1<<20, 100_000))
	data := marshal(b, l)
	for b.Loop() {
		if _, err := Check(data, keysOf(l)); err != nil {
			b.Fatal(err)
		}
	}
}

func keysOf(l List) (keys []ssh.PublicKey) {
	for _, a := range l.Authorities {
		keys = append(keys, a.Key)
	}
	return keys
}
