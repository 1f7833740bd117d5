package login

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
)

func TestAStoredHashReadsBack(t *testing.T) {
	h := newHasher(recommended)
	text, err := h.create(t.Context(), right)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(text, "$argon2id$v=19$m=65536,t=3,p=4$") {
		t.Errorf("stored as %s", text)
	}
	parsed, err := parseHash(text)
	if err != nil || parsed.String() != text {
		t.Errorf("reads as %s, %v", parsed, err)
	}
	for _, c := range []struct {
		password Secret
		want     bool
	}{{right, true}, {wrong, false}, {Secret{}, false}, {NewSecret("correct horse\x00"), false}} {
		if got, err := h.matches(t.Context(), text, c.password); got != c.want || err != nil {
			t.Errorf("%q: %v, %v", c.password.Reveal(), got, err)
		}
	}
	again, err := h.create(t.Context(), right)
	if err != nil || again == text {
		t.Errorf("the same password has the same hash twice: %v", err)
	}
}

const goodHash = "$argon2id$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

func TestOnlyOurHashesAreRead(t *testing.T) {
	if _, err := parseHash(goodHash); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "x", "$argon2id", strings.Repeat("$", 5),
		strings.Replace(goodHash, "argon2id", "argon2i", 1),
		strings.Replace(goodHash, "v=19", "v=16", 1),
		strings.Replace(goodHash, "m=64", "m=064", 1),
		strings.Replace(goodHash, "m=64", "m=7", 1),
		strings.Replace(goodHash, "m=64", "m=4294967295", 1),
		strings.Replace(goodHash, "m=64", "m=-1", 1),
		strings.Replace(goodHash, "t=1", "t=0", 1),
		strings.Replace(goodHash, "t=1", "t=1000000", 1),
		strings.Replace(goodHash, "p=1", "p=0", 1),
		strings.Replace(goodHash, "p=1", "p=255", 1),
		strings.Replace(goodHash, "p=1", "p=1,x=2", 1),
		strings.Replace(goodHash, "AAAAAAAAAAAAAAAAAAAAAA$", "$", 1),
		goodHash[:len(goodHash)-4], goodHash + "=", goodHash + "$", " " + goodHash,
		"$argon2id$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$",
	} {
		if h, err := parseHash(bad); err == nil {
			t.Errorf("%q reads as %+v", bad, h)
		}
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add(goodHash)
	f.Add(recommendedHash())
	f.Fuzz(func(t *testing.T, text string) {
		if h, err := parseHash(text); err == nil && h.String() != text {
			t.Errorf("%q reads as %q", text, h)
		}
	})
}

func recommendedHash() string {
	return hash{params: recommended, salt: make([]byte, saltLen), key: make([]byte, keyLen)}.String()
}

// The number of hashes at once bounds the memory that strangers can take.
func TestHashesAtOnceAreBounded(t *testing.T) {
	h := newHasher(cheap)
	var running, most atomic.Int32
	release := make(chan struct{})
	h.derive = func([]byte, []byte, params, uint32) []byte {
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-release
		return make([]byte, keyLen)
	}
	const callers = concurrentHashes + waitingHashes + 20
	var sentAway atomic.Int32
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			if _, err := h.matches(t.Context(), "", right); err != nil {
				refused(t, err, connect.CodeResourceExhausted, "Try again in a few seconds")
				if sentAway.Add(1) == 20 {
					close(release)
				}
			}
		})
	}
	wg.Wait()
	diff(t, int32(20), sentAway.Load())
	if m := most.Load(); m > concurrentHashes {
		t.Errorf("%d hashes ran at once, want at most %d", m, concurrentHashes)
	}
}

func TestASecretDoesNotPrint(t *testing.T) {
	s := NewSecret("hunter2")
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb, s, struct{ S *Secret }{&s})
		fmt.Fprintf(&out, verb, []Secret{s})
		fmt.Fprintf(&out, verb, Invite{Token: s})
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "secret", s, "invite", Invite{Token: s})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "secret", s, "invite", Invite{Token: s})
	if err := json.NewEncoder(&out).Encode(Invite{Token: s}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "hunter2") || strings.Contains(out.String(), fmt.Sprintf("%x", "hunter2")) {
		t.Errorf("printed: %s", out.String())
	}
}

func BenchmarkCheckPassword(b *testing.B) {
	h := newHasher(recommended)
	text, err := h.create(b.Context(), right)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if ok, err := h.matches(b.Context(), text, right); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
