package krl

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is read can be written, and is then read as the same. It may be other
// bytes: there is more than one way to pack serials.
func FuzzParse(f *testing.F) {
	for _, row := range tables {
		if data := marshal(f, list(f, row.revoked)); len(data) < 1000 {
			f.Add(data)
		}
	}
	f.Add(serials(f, subsection(certSerialRange, 5, 6), subsection(certSerialList, 8, 9, 12), bits(100, 0x55, 0x55)))
	f.Add(serials(f, appendString([]byte{certSerialList}, []byte("123456789"))))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(data)
		if err != nil || len(l.Authorities) == 0 {
			return
		}
		again, err := l.Marshal()
		if err != nil {
			t.Fatalf("it was read and cannot be written: %v", err)
		}
		back, err := Parse(again)
		if err != nil {
			t.Fatalf("it was written and cannot be read: %v", err)
		}
		if d := cmp.Diff(l, back, byWire); d != "" {
			t.Errorf("differs after a second reading:\n%s", d)
		}
	})
}

var byWire = cmp.Transformer("wire", func(a Authority) struct {
	Key     string
	Revoked any
} {
	return struct {
		Key     string
		Revoked any
	}{string(a.Key.Marshal()), a.Revoked}
})
