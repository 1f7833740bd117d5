package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"devicetrust/audit/event"
	ft "devicetrust/node/filetransfer"
)

const sftpBegin = "\x00\x00\x00\x05\x01\x00\x00\x00\x03"

// sftpPacket has fields: texts, and numbers of four bytes.
func sftpPacket(kind ft.Kind, id uint32, fields ...any) string {
	b := binary.BigEndian.AppendUint32([]byte{byte(kind)}, id)
	for _, f := range fields {
		switch f := f.(type) {
		case string:
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
		case int:
			b = binary.BigEndian.AppendUint32(b, uint32(f))
		}
	}
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(b)))) + string(b)
}

// sftpPackets takes a stream apart; its last one may be cut short.
func sftpPackets(b []byte) (all [][]byte, rest []byte) {
	for len(b) >= 4 {
		size := int(binary.BigEndian.Uint32(b)) + 4
		if size > len(b) {
			break
		}
		all, b = append(all, b[:size]), b[size:]
	}
	return all, b
}

// filtered passes stream in steps of so many bytes, and gives what the child
// gets and what is recorded.
func filtered(stream string, step int, record func(event.Event) error) (child []byte, recorded []string, err error) {
	var out bytes.Buffer
	t := newTransfer(func(e event.Event) error {
		recorded = append(recorded, strings.TrimSpace(e.Action+" "+e.Path+" "+e.TargetPath))
		return record(e)
	}, func(string) {})
	err = t.carry(&out, &steps{strings.NewReader(stream), step})
	return out.Bytes(), recorded, err
}

type steps struct {
	from *strings.Reader
	size int
}

func (s *steps) Read(b []byte) (int, error) { return s.from.Read(b[:min(s.size, len(b))]) }

func noFault(event.Event) error { return nil }

func TestWhatMayPassPassesAsItIsHoweverItComes(t *testing.T) {
	stream := sftpBegin + sftpPacket(ft.Open, 1, "/f", ft.OpenWrite|ft.OpenCreate, 0) +
		sftpPacket(ft.Write, 2, "\x00\x00\x00\x01", 0, 0, strings.Repeat("data", 50_000)) +
		sftpPacket(ft.Rename, 3, "/f", "/g") + sftpPacket(ft.Read, 4, "h", 0, 0, 100) + sftpPacket(ft.Opendir, 5, "/") +
		sftpPacket(ft.Extended, 6, "limits@openssh.com") + sftpPacket(ft.Close, 7, "h")
	for _, step := range []int{1, 2, 3, 8, 9, 1000, 1 << 20} {
		child, recorded, err := filtered(stream, step, noFault)
		if err != nil || string(child) != stream || !slices.Equal(recorded, []string{"open /f", "rename /f /g"}) {
			t.Errorf("by %d: %v, %d of %d bytes, %q", step, err, len(child), len(stream), recorded)
		}
	}
}

func TestWhatMayNotPassIsReplacedWhole(t *testing.T) {
	full := errors.New("full")
	long := strings.Repeat("x", maxPath)
	for name, tt := range map[string]struct {
		packet string
		record error
		reason string
	}{
		"not recorded":            {sftpPacket(ft.Remove, 9, "/f"), full, "it cannot be recorded: full"},
		"a path that is none":     {sftpPacket(ft.Remove, 9, "/f\x00"), nil, "no file can have this name"},
		"a path that is too long": {sftpPacket(ft.Remove, 9, long), nil, "no file can have this name"},
		"the longest of all":      {sftpPacket(ft.Remove, 9, strings.Repeat("x", ft.MaxPacket-9)), nil, "too long"},
		"without a path":          {sftpPacket(ft.Remove, 9), nil, "malformed request"},
		"an unknown handle":       {sftpPacket(ft.Fsetstat, 9, "h", 0), nil, "no such handle"},
		"an unknown kind":         {sftpPacket(99, 9, "/f"), nil, "unknown request"},
		"an unknown extension":    {sftpPacket(ft.Extended, 9, "x@y"), nil, "unknown request"},
		"our own extension":       {string(ft.AppendRefusal(nil, 9, 0, "")), nil, "unknown request"},
		"an answer":               {sftpPacket(ft.Handle, 9, "h"), nil, "unknown request"},
	} {
		for _, step := range []int{1, 7, 1 << 20} {
			before, after := sftpPacket(ft.Stat, 8, "/before"), sftpPacket(ft.Stat, 10, "/after")
			child, _, err := filtered(sftpBegin+before+tt.packet+after, step, func(event.Event) error { return tt.record })
			packets, rest := sftpPackets(child)
			if err != nil || len(packets) != 4 || len(rest) > 0 || string(packets[1]) != before || string(packets[3]) != after {
				t.Errorf("%s: %v, %d packets, %q", name, err, len(packets), rest)
				continue
			}
			refusal := packets[2]
			if ft.Kind(refusal[4]) != ft.Extended || binary.BigEndian.Uint32(refusal[5:]) != 9 ||
				!bytes.Contains(refusal, []byte(ft.Refuse)) || !bytes.Contains(refusal, []byte(tt.reason)) {
				t.Errorf("%s: %q", name, refusal)
			}
		}
	}
}

func TestThePersonIsToldOnceThatNothingCanBeRecorded(t *testing.T) {
	var told []string
	tr := newTransfer(func(event.Event) error { return errors.New("full") }, func(s string) { told = append(told, s) })
	stream := sftpBegin + sftpPacket(ft.Remove, 1, "/f") + sftpPacket(ft.Remove, 2, "/g")
	if err := tr.carry(&bytes.Buffer{}, strings.NewReader(stream)); err != nil || len(told) != 1 || !strings.Contains(told[0], "full") {
		t.Errorf("%v, %q", err, told)
	}
}

func TestAHandleHasTheNameOfWhatWasOpened(t *testing.T) {
	var recorded []string
	tr := newTransfer(func(e event.Event) error { recorded = append(recorded, e.Action+" "+e.Path); return nil }, func(string) {})
	say := func(packets ...string) {
		t.Helper()
		if err := tr.carry(&bytes.Buffer{}, strings.NewReader(strings.Join(packets, ""))); err != nil {
			t.Fatal(err)
		}
	}
	var client bytes.Buffer
	answer := &replies{to: &client, transfer: tr}
	hear := func(packets string, step int) {
		t.Helper()
		for len(packets) > 0 {
			n := min(step, len(packets))
			if _, err := answer.Write([]byte(packets[:n])); err != nil {
				t.Fatal(err)
			}
			packets = packets[n:]
		}
	}
	say(sftpBegin, sftpPacket(ft.Open, 1, "/one", 1, 0), sftpPacket(ft.Open, 2, "/two", 1, 0), sftpPacket(ft.Opendir, 3, "/dir"),
		sftpPacket(ft.Open, 4, "/none", 1, 0), sftpPacket(ft.Open, 2, "/again", 1, 0))
	hear(sftpPacket(2, 3)+sftpPacket(ft.Handle, 1, "A")+sftpPacket(103, 77, strings.Repeat("x", 5000))+
		sftpPacket(ft.Handle, 3, "C")+sftpPacket(101, 4, 2, "No such file", "")+sftpPacket(ft.Handle, 4, "D")+sftpPacket(ft.Handle, 2, "B"), 1)
	recorded = nil
	say(sftpPacket(ft.Fsetstat, 5, "A", 0), sftpPacket(ft.Fsetstat, 6, "C", 0), sftpPacket(ft.Fsetstat, 7, "D", 0),
		sftpPacket(ft.Fsetstat, 8, "B", 0), sftpPacket(ft.Close, 9, "A"), sftpPacket(ft.Fsetstat, 10, "A", 0))
	if want := []string{"fsetstat /one", "fsetstat /dir"}; !slices.Equal(recorded, want) {
		t.Errorf("%q, want %q", recorded, want)
	}
	if len(tr.opening) != 0 || len(tr.open) != 1 {
		t.Errorf("%v, %v", tr.opening, tr.open)
	}
}

func TestNoMorePathsAreRememberedThanFilesMayBeOpen(t *testing.T) {
	tr := newTransfer(noFault, func(string) {})
	stream := sftpBegin
	for i := range 2 * ft.MaxHandles {
		stream += sftpPacket(ft.Open, uint32(i), "/f", 1, 0)
	}
	if err := tr.carry(&bytes.Buffer{}, strings.NewReader(stream)); err != nil || len(tr.opening) != ft.MaxHandles {
		t.Errorf("%v, %d", err, len(tr.opening))
	}
}

func TestWhatTheChildSaysIsBounded(t *testing.T) {
	for name, said := range map[string]string{
		"no length":         "\x00\x00\x00\x00\x65\x00\x00\x00\x01",
		"too long":          "\x00\x04\x00\x01\x65\x00\x00\x00\x01",
		"too long a handle": "\x00\x00\x02\x00\x66\x00\x00\x00\x01",
		"text":              "panic: runtime error",
	} {
		told := ""
		r := &replies{to: &bytes.Buffer{}, transfer: newTransfer(noFault, func(s string) { told = s })}
		if _, err := r.Write([]byte(said)); err == nil || told == "" {
			t.Errorf("%s is heard", name)
		}
	}
}

// FuzzTransfer: whatever the client says and however it comes, the child gets
// whole packets of which each that does something was recorded, and nothing of
// a packet that was refused.
func FuzzTransfer(f *testing.F) {
	f.Add([]byte(sftpBegin+sftpPacket(ft.Open, 1, "/f", 2, 0)+sftpPacket(ft.Write, 2, "h", 0, 0, "data")), uint16(5), true)
	f.Add([]byte(sftpBegin+sftpPacket(ft.Extended, 1, "posix-rename@openssh.com", "/f", "/g")), uint16(100), false)
	f.Add([]byte(sftpBegin+sftpPacket(ft.Setstat, 1, "/f", 15, 0, 0, 1, 1, 0o777, 1, 1)), uint16(1), true)
	f.Fuzz(func(t *testing.T, stream []byte, step uint16, recordable bool) {
		child, recorded, err := filtered(string(stream), int(step)+1, func(event.Event) error {
			if !recordable {
				return errors.New("full")
			}
			return nil
		})
		packets, rest := sftpPackets(child)
		if err == nil && len(rest) > 0 && !bytes.HasSuffix(stream, rest) {
			t.Errorf("%q is the rest of %q", rest, stream)
		}
		acts := 0
		for i, p := range packets {
			if (i == 0) != (ft.Kind(p[4]) == ft.Init) {
				t.Fatalf("packet %d is %q", i, p)
			}
			acts += actsOf(p)
		}
		if acts > len(recorded) || !recordable && acts > 0 {
			t.Errorf("%d acts, %q recorded, of %q", acts, recorded, stream)
		}
		whole, _, wholeErr := filtered(string(stream), transferBuffer, noFault)
		if recordable && fmt.Sprint(err) == "<nil>" && wholeErr == nil && !bytes.Equal(whole, child) {
			t.Errorf("at once %q, in steps %q", whole, child)
		}
	})
}

func actsOf(p []byte) int {
	switch ft.Kind(p[4]) {
	case ft.Open, ft.Setstat, ft.Fsetstat, ft.Remove, ft.Rmdir, ft.Mkdir, ft.Rename, ft.Symlink:
		return 1
	case ft.Extended:
		f := ft.Fields{Rest: p[9:]}
		switch f.String() {
		case "posix-rename@openssh.com", "hardlink@openssh.com", "lsetstat@openssh.com":
			return 1
		}
	default:
	}
	return 0
}

func FuzzReplies(f *testing.F) {
	f.Add([]byte(sftpPacket(ft.Handle, 1, "h") + sftpPacket(101, 2, 0, "", "")))
	f.Fuzz(func(t *testing.T, said []byte) {
		tr := newTransfer(noFault, func(string) {})
		tr.opening[1] = "/f"
		var client bytes.Buffer
		r := &replies{to: &client, transfer: tr}
		for i := range said {
			if _, err := r.Write(said[i : i+1]); err != nil {
				break
			}
		}
		if len(r.head) > packetHead+4+maxHandle || len(tr.open) > 1 || !bytes.HasPrefix(said, client.Bytes()) {
			t.Errorf("%d, %q", len(r.head), tr.open)
		}
	})
}
