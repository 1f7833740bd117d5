package krl

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// section is a list of version 7 with that section.
func section(t testing.TB, kind byte, content []byte) []byte {
	t.Helper()
	whole := marshal(t, list(t, nil))
	header := whole[:len(whole)-1-4-4-len(signer(t, 1).PublicKey().Marshal())-4]
	return appendString(append(bytes.Clone(header), kind), content)
}

func serials(t testing.TB, subsections ...[]byte) []byte {
	t.Helper()
	content := appendString(appendString(nil, signer(t, 1).PublicKey().Marshal()), nil)
	for _, s := range subsections {
		content = append(content, s...)
	}
	return section(t, sectionCertificates, content)
}

func subsection(kind byte, numbers ...uint64) []byte {
	var b []byte
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return appendString([]byte{kind}, b)
}

func bits(offset uint64, number ...byte) []byte {
	return appendString([]byte{certSerialBitmap}, appendString(binary.BigEndian.AppendUint64(nil, offset), number))
}

// unusualRSA is a key with zeros before its exponent, which are none of it.
func unusualRSA(t testing.TB) []byte {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	wire := appendString(nil, []byte(ssh.KeyAlgoRSA))
	wire = appendString(wire, []byte{0, 0, 1, 0, 1})
	wire = appendString(wire, append([]byte{0}, private.N.Bytes()...))
	if _, err := ssh.ParsePublicKey(wire); err != nil {
		t.Fatal(err)
	}
	return wire
}

// about are sections of so many authorities, each with subsections.
func about(t testing.TB, n byte, subsections ...[]byte) []byte {
	t.Helper()
	all := section(t, sectionCertificates, nil)
	all = all[:len(all)-5]
	for i := range n {
		content := appendString(appendString(nil, signer(t, i).PublicKey().Marshal()), nil)
		for _, s := range subsections {
			content = append(content, s...)
		}
		all = appendString(append(all, sectionCertificates), content)
	}
	return all
}

func TestWhatIsMadeWrongIsRefused(t *testing.T) {
	key := signer(t, 1).PublicKey().Marshal()
	certificate := &ssh.Certificate{Key: signer(t, 9).PublicKey(), CertType: ssh.UserCert}
	if err := certificate.SignCert(rand.Reader, signer(t, 1)); err != nil {
		t.Fatal(err)
	}
	many := make([]uint64, maxSize/8)
	for i := range many {
		many[i] = uint64(i + 1)
	}
	for name, row := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":                    {nil, "it is empty"},
		"half a header":              {section(t, 1, nil)[:20], errEnds.Error()},
		"too many bytes":             {serials(t, subsection(certSerialList, many...)), "more than"},
		"too many authorities":       {about(t, maxAuthorities+1), "more than 16 authorities"},
		"a key that is certified":    {section(t, sectionCertificates, appendString(appendString(nil, certificate.Marshal()), nil)), "cannot be read"},
		"a key in another form":      {section(t, sectionCertificates, appendString(appendString(nil, unusualRSA(t)), nil)), "cannot be read"},
		"half a sub-section":         {section(t, sectionCertificates, append(appendString(appendString(nil, key), nil), certSerialList, 0, 0, 0, 9, 0)), errEnds.Error()},
		"another section":            {section(t, 2, appendString(nil, key)), "a section of type 2"},
		"a section of nothing":       {section(t, sectionCertificates, nil), errEnds.Error()},
		"a section without a key":    {section(t, sectionCertificates, appendString(appendString(nil, []byte("x")), nil)), "cannot be read"},
		"flags of a section":         {section(t, sectionCertificates, appendString(appendString(nil, key), []byte("x"))), "flags"},
		"a key ID":                   {serials(t, subsection(0x23, 1)), "a sub-section of type 0x23"},
		"serial 0":                   {serials(t, subsection(certSerialList, 0)), "from 0 to 0"},
		"a list that is not whole":   {serials(t, appendString([]byte{certSerialList}, []byte("1234567"))), errEnds.Error()},
		"a range that is not whole":  {serials(t, subsection(certSerialRange, 5)), errEnds.Error()},
		"a range of too much":        {serials(t, subsection(certSerialRange, 5, 6, 7)), "more in it"},
		"a range of none":            {serials(t, subsection(certSerialRange, 6, 5)), "from 6 to 5"},
		"serials that go back":       {serials(t, subsection(certSerialList, 6, 5)), "not after 6"},
		"a serial twice":             {serials(t, subsection(certSerialRange, 5, 6), subsection(certSerialList, 6)), "not after 6"},
		"an empty bitmap":            {serials(t, bits(5)), "a bitmap"},
		"a bitmap of 0":              {serials(t, bits(5, 0)), "a bitmap"},
		"a negative bitmap":          {serials(t, bits(5, 0x80)), "a bitmap"},
		"a bitmap of too many bytes": {serials(t, bits(5, 0, 0x7f)), "a bitmap"},
		"a bitmap of too many bits":  {serials(t, bits(5, append([]byte{1}, make([]byte, maxBits/8)...)...)), "a bitmap has more"},
		"a bitmap with serial 0":     {serials(t, bits(0, 1)), "from 0 to 0"},
		"a bitmap beyond the end":    {serials(t, bits(math.MaxUint64, 3)), "beyond the highest"},
		"a bitmap before the end":    {serials(t, subsection(certSerialRange, 5, 6), bits(4, 4)), "not after 6"},
		"an authority twice":         {append(serials(t), serials(t)[len(section(t, 1, nil))-5:]...), "twice"},
	} {
		if _, err := Parse(row.data); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", name, err, row.want)
		}
	}
	good := marshal(t, list(t, ranges(5, 5)))
	for name, change := range map[string]func([]byte) []byte{
		"format version 2": func(b []byte) []byte { b[11] = 2; return b },
		"flags":            func(b []byte) []byte { b[35] = 1; return b },
		"a date too late":  func(b []byte) []byte { b[20] = 1; return b },
		"a control":        func(b []byte) []byte { b[45] = 0x1b; return b },
		"a reserved field": func(b []byte) []byte { return slices.Insert(setByte(b, 39, 1), 40, 'x') },
		"a long comment": func(b []byte) []byte {
			return slices.Insert(setByte(setByte(b, 43, 0), 42, 2), 44, bytes.Repeat([]byte("a"), 512-7)...)
		},
	} {
		if _, err := Parse(change(bytes.Clone(good))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func setByte(b []byte, at int, v byte) []byte {
	b[at] = v
	return b
}

// A bitmap is small and can unfold to much.
func TestWhatUnfoldsToTooMuchIsRefused(t *testing.T) {
	dense := append([]byte{0x2a}, bytes.Repeat([]byte{0xaa}, maxBits/8-1)...)
	var all [][]byte
	for i := range uint64(maxRanges/(maxBits/2) + 2) {
		all = append(all, bits(1+i*maxBits*2, dense...))
	}
	for name, data := range map[string][]byte{"of one authority": serials(t, all...), "of two": about(t, 2, all[:2*len(all)/3]...)} {
		if _, err := Parse(data); len(data) > maxSize || err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%s, %d bytes: got %v", name, len(data), err)
		}
	}
}
