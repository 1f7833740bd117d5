package machine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"devicetrust/api"
)

// unprivileged makes this test's thread see files as nobody does: root's own
// tests would read everything otherwise (setfsuid(2)).
func unprivileged(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // the thread ends with the test
	if os.Geteuid() == 0 {
		if err := unix.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Setfsuid(0) })
	}
}

func TestSerialNumbersForRootOnlyAreSkippedAndNamed(t *testing.T) {
	s := source(t, map[string]string{"product_serial": "C00AA0AAAA0A"}, "")
	for name, mode := range map[string]os.FileMode{
		filepath.Join(s.DMIDir, "product_serial"): 0, s.DMIDir: 0o755, filepath.Dir(s.DMIDir): 0o755,
	} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	unprivileged(t)
	s.EK = ek
	if got, err := s.AssetTag(t.Context()); err != nil || got != ekTag {
		t.Errorf("tag %q, %v", got, err)
	}
	if got := s.Hidden(ekTag); !strings.Contains(got, "product_serial") || !strings.Contains(got, "tmpfiles.d") {
		t.Errorf("a machine named after its TPM is told %q", got)
	}
	if got := s.Hidden("C00AA0AAAA0A"); got != "" {
		t.Errorf("a machine with a label is told %q", got)
	}
	s.EK = func(context.Context) ([]byte, error) {
		return nil, api.Refuse(connect.CodeFailedPrecondition, "no TPM").WithHint("join the group tss")
	}
	_, err := s.AssetTag(t.Context())
	if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.Contains(r.Hint, "join the group tss. Only root") {
		t.Errorf("error %v hides one of two remedies", err)
	}
	s.EK = nil
	_, err = s.AssetTag(t.Context())
	if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.Contains(r.Hint, "product_serial") {
		t.Errorf("error %v does not say which file", err)
	}
}
