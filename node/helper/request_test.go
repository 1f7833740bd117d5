package helper

import (
	"encoding/binary"
	"reflect"
	"slices"
	"testing"
)

func whole() Request {
	return Request{
		As: AsAccount, UID: 1, GID: 2, Groups: []uint32{2, 3}, Home: "/h\xff", Terminal: true,
		Program: "/bin/sh", Argv: []string{"-sh", "-c", "", "\xfe"}, Env: []string{"A=b", ""},
	}
}

func body(t testing.TB, r Request) []byte {
	t.Helper()
	packet, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if n := binary.BigEndian.Uint32(packet); int(n) != len(packet)-LengthSize {
		t.Errorf("length %d of %d bytes", n, len(packet)-LengthSize)
	}
	return packet[LengthSize:]
}

func TestARequestIsReadAsItWasWritten(t *testing.T) {
	want := whole()
	if got, err := parse(body(t, want)); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestARequestThatIsNotWholeIsRefused(t *testing.T) {
	good := body(t, whole())
	for cut := range good {
		if _, err := parse(good[:cut]); err == nil {
			t.Errorf("%d of %d bytes are enough", cut, len(good))
		}
	}
	if _, err := parse(append(slices.Clone(good), 0)); err == nil {
		t.Error("one byte more is taken")
	}
	for name, change := range map[string]func(b []byte){
		"nobody's":                       func(b []byte) { b[3] = byte(AsNobody) },
		"another kind":                   func(b []byte) { b[3] = byte(AsRoot) + 1 },
		"a terminal, or two":             func(b []byte) { b[15] = 2 },
		"a program and work":             func(b []byte) { b[19] = byte(SFTP) },
		"unknown work":                   func(b []byte) { b[19] = byte(works) },
		"more groups than there are":     func(b []byte) { b[20] = 0xff },
		"a NUL in the home":              func(b []byte) { b[37] = 0 },
		"a home that is longer than all": func(b []byte) { b[32] = 0xff },
	} {
		b := slices.Clone(good)
		change(b)
		if _, err := parse(b); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(body(f, whole()))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := parse(in)
		if err == nil && len(in) <= maxRequest && string(body(t, r)) != string(in) {
			t.Errorf("%q became %+v", in, r)
		}
	})
}
