package machine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Types of structures, and where in them is the number of a string (DMTF
// DSP0134, sections 7.2 to 7.4).
const (
	smbiosSystem    = 1
	smbiosBaseBoard = 2
	smbiosChassis   = 3
	smbiosEnd       = 127

	systemProductName = 0x05
	serialNumberAt    = 0x07 // of all three
	chassisAssetTagAt = 0x08
)

// parseSMBIOS reads what GetSystemFirmwareTable gives for 'RSMB', a
// RawSMBIOSData: four bytes of versions, the length of the table as a DWORD,
// and the table. Of several structures of a type the first counts, as on Linux.
func parseSMBIOS(raw []byte) (firmware, error) {
	if len(raw) < 8 || len(raw) > maxSMBIOS {
		return firmware{}, fmt.Errorf("SMBIOS data has %d bytes", len(raw))
	}
	table := raw[8:]
	if length := binary.LittleEndian.Uint32(raw[4:8]); uint64(length) != uint64(len(table)) {
		return firmware{}, fmt.Errorf("SMBIOS table has %d bytes, and says %d", len(table), length)
	}
	var f firmware
	seen := map[byte]bool{}
	for len(table) > 0 {
		s, rest, err := nextStructure(table)
		if err != nil {
			return firmware{}, err
		}
		table = rest
		kind := s.formatted[0]
		if kind == smbiosEnd {
			break
		}
		if seen[kind] {
			continue
		}
		seen[kind] = true
		switch kind {
		case smbiosSystem:
			f.productName, f.productSerial = s.text(systemProductName), s.text(serialNumberAt)
		case smbiosBaseBoard:
			f.boardSerial = s.text(serialNumberAt)
		case smbiosChassis:
			f.chassisAssetTag = s.text(chassisAssetTagAt)
		}
	}
	return f, nil
}

// structure is one of the table: a formatted part, and the strings that it
// counts from 1 (section 6.1).
type structure struct {
	formatted []byte
	strings   [][]byte
}

// nextStructure takes the first structure off table.
func nextStructure(table []byte) (s structure, rest []byte, err error) {
	const header = 4 // type, length, handle
	if len(table) < header || int(table[1]) < header || int(table[1]) > len(table) {
		return s, nil, errors.New("an SMBIOS structure is cut off")
	}
	s.formatted, rest = table[:table[1]], table[table[1]:]
	// The strings end with an empty one; where there are none, two zeros stand.
	if bytes.HasPrefix(rest, []byte{0, 0}) {
		return s, rest[2:], nil
	}
	for {
		text, after, ok := bytes.Cut(rest, []byte{0})
		if !ok || len(text) == 0 && len(s.strings) == 0 {
			return s, nil, errors.New("the strings of an SMBIOS structure do not end")
		}
		if rest = after; len(text) == 0 {
			return s, rest, nil
		}
		s.strings = append(s.strings, text)
	}
}

// text is the string whose number is at an offset; there may be none.
func (s structure) text(at int) string {
	if at >= len(s.formatted) {
		return ""
	}
	n := int(s.formatted[at])
	if n == 0 || n > len(s.strings) {
		return ""
	}
	return field(string(s.strings[n-1]))
}
