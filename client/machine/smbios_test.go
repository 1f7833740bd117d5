package machine

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// smbiosOf makes what Windows gives of structures.
func smbiosOf(structures ...[]byte) []byte {
	raw := make([]byte, 8)
	raw[1] = 3 // version 3.0
	for _, s := range structures {
		raw = append(raw, s...)
	}
	binary.LittleEndian.PutUint32(raw[4:], uint32(len(raw)-8))
	return raw
}

// structureOf makes one of a type: its formatted part after the header, and
// its strings.
func structureOf(kind byte, formatted []byte, texts ...string) []byte {
	s := append([]byte{kind, byte(4 + len(formatted)), 1, 0}, formatted...)
	for _, text := range texts {
		s = append(append(s, text...), 0)
	}
	if len(texts) == 0 {
		s = append(s, 0)
	}
	return append(s, 0)
}

// As a laptop has them: manufacturer, product, version, serial number and, of
// board and chassis, the asset tag.
var (
	bios    = structureOf(0, make([]byte, 20), "Example", "1.0")
	sys     = structureOf(1, []byte{1, 2, 0, 3, 9, 9, 9, 9}, "Example", "Book 14", "C00AA0AAAA0A  ")
	board   = structureOf(2, []byte{1, 0, 0, 2, 3}, "Example", "B1", "no tag")
	chassis = structureOf(3, []byte{1, 10, 0, 2, 3}, "Example", "CH1", "IT-4711")
	port    = structureOf(8, []byte{0, 0, 0, 0, 0})
	end     = structureOf(127, nil)
)

func TestTheTablesOfTheFirmwareAreRead(t *testing.T) {
	whole := firmware{chassisAssetTag: "IT-4711", productSerial: "C00AA0AAAA0A", boardSerial: "B1", productName: "Book 14"}
	for _, test := range []struct {
		name string
		raw  []byte
		want firmware
	}{
		{"a laptop", smbiosOf(bios, sys, board, port, chassis, end), whole},
		{"another order", smbiosOf(chassis, port, board, sys, bios, end), whole},
		{"no end", smbiosOf(sys, board, chassis), whole},
		{"a second board", smbiosOf(sys, board, structureOf(2, []byte{0, 0, 0, 1}, "B2"), chassis), whole},
		{"something after the end", smbiosOf(sys, board, chassis, end, []byte{1, 2, 3}), whole},
		{"nothing", smbiosOf(), firmware{}},
		{"a string that is not there", smbiosOf(structureOf(1, []byte{0, 1, 0, 7}, "Book 14")), firmware{productName: "Book 14"}},
		{"an old structure without the field", smbiosOf(structureOf(3, []byte{0, 0}, "x")), firmware{}},
		{"no strings", smbiosOf(structureOf(1, []byte{0, 1, 0, 1})), firmware{}},
		{"a long string", smbiosOf(structureOf(1, []byte{0, 1, 0, 2}, strings.Repeat("x", maxField+1), "S1")), firmware{productSerial: "S1"}},
		{"what moves a cursor", smbiosOf(structureOf(1, []byte{0, 1, 0, 0}, "Book\x1b[2J\xff 14")), firmware{productName: "Book[2J 14"}},
	} {
		got, err := parseSMBIOS(test.raw)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(firmware{})); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

func TestTablesThatAreCutOffSayNothing(t *testing.T) {
	whole := smbiosOf(sys, board, chassis)
	long := smbiosOf(sys, structureOf(3, []byte{0, 0, 0, 0, 1}, strings.Repeat("x", maxSMBIOS)))
	for name, raw := range map[string][]byte{
		"no head":                         whole[:7],
		"shorter than it says":            append([]byte{0, 3, 0, 0, byte(len(whole)), 0, 0, 0}, whole[8:]...),
		"longer than it says":             append(whole[:len(whole):len(whole)], 0),
		"too long":                        long,
		"a head that is cut off":          smbiosOf(sys, []byte{2}),
		"a structure that is cut off":     smbiosOf(sys, board[:6]),
		"shorter than its head":           smbiosOf(sys, []byte{2, 3, 0, 0, 0}),
		"strings that do not end":         smbiosOf(sys, board[:len(board)-1]),
		"no strings, and no end of those": smbiosOf(sys, port[:len(port)-1]),
	} {
		got, err := parseSMBIOS(raw)
		if err == nil || !cmp.Equal(got, firmware{}, cmp.AllowUnexported(firmware{})) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func FuzzSMBIOS(f *testing.F) {
	f.Add(smbiosOf(bios, sys, board, port, chassis, end))
	f.Add(smbiosOf(port))
	f.Fuzz(func(t *testing.T, raw []byte) {
		found, err := parseSMBIOS(raw)
		if err != nil {
			return
		}
		for _, text := range []string{found.chassisAssetTag, found.productSerial, found.boardSerial, found.productName} {
			if field(text) != text {
				t.Errorf("%q cannot be sent", text)
			}
		}
	})
}
