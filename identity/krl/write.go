package krl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"devicetrust/policy"
)

// Numbers of PROTOCOL.krl, sections 1 and 2.
const (
	magic         = "SSHKRL\n\x00"
	formatVersion = 1

	sectionCertificates = 1

	certSerialList   = 0x20
	certSerialRange  = 0x21
	certSerialBitmap = 0x22
)

// Marshal is l as OpenSSH reads it. The same list has the same bytes. A list
// without authorities is an error: it would revoke nothing, whatever happened.
func (l List) Marshal() ([]byte, error) {
	date := l.Date.Unix()
	switch {
	case len(l.Authorities) == 0 || len(l.Authorities) > maxAuthorities:
		return nil, fmt.Errorf("krl: a list is about 1 to %d authorities, got %d", maxAuthorities, len(l.Authorities))
	case date < 0 || date > maxDate:
		return nil, errors.New("krl: a list has a date")
	case len(l.Comment) > maxComment || strings.ContainsFunc(l.Comment, isControl):
		return nil, fmt.Errorf("krl: a comment is one line of at most %d bytes, got %.64q", maxComment, l.Comment)
	}
	b := binary.BigEndian.AppendUint32([]byte(magic), formatVersion)
	b = binary.BigEndian.AppendUint64(b, l.Version)
	b = binary.BigEndian.AppendUint64(b, uint64(date))
	b = binary.BigEndian.AppendUint64(b, 0) // flags
	b = appendString(b, nil)                // reserved
	b = appendString(b, []byte(l.Comment))
	seen := map[string]bool{}
	for _, a := range l.Authorities {
		key := a.Key.Marshal()
		if seen[string(key)] {
			return nil, errors.New("krl: an authority is there twice")
		}
		seen[string(key)] = true
		serials, err := serialsOf(a.Revoked)
		if err != nil {
			return nil, err
		}
		section := appendString(appendString(nil, key), nil) // reserved
		b = appendString(append(b, sectionCertificates), appendSerials(section, serials))
	}
	if len(b) > maxSize {
		return nil, fmt.Errorf("krl: a list has at most %d bytes, got %d", maxSize, len(b))
	}
	return b, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func appendString(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// span is the serials from first to last.
type span struct{ first, last uint64 }

// count is never 0: there is no serial 0.
func (s span) count() uint64 { return s.last - s.first + 1 }

// serialsOf checks ranges and joins those that touch.
func serialsOf(ranges []policy.Revocation) ([]span, error) {
	var out []span
	for _, r := range ranges {
		var err error
		if out, err = add(out, span{r.First, r.Last}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// add puts s after all that is in spans.
func add(spans []span, s span) ([]span, error) {
	n := len(spans)
	switch {
	case s.first == 0 || s.first > s.last:
		// OpenSSH takes 0 for "no serial" and refuses a list that has it (krl.c).
		return nil, fmt.Errorf("krl: serials from %d to %d are none", s.first, s.last)
	case n > 0 && s.first <= spans[n-1].last:
		return nil, fmt.Errorf("krl: serials from %d on are not after %d", s.first, spans[n-1].last)
	case n > 0 && s.first == spans[n-1].last+1:
		spans[n-1].last = s.last
		return spans, nil
	case n == maxRanges:
		return nil, fmt.Errorf("krl: more than %d ranges of serials", maxRanges)
	}
	return append(spans, s), nil
}

// form is which kind of sub-section a span lies in.
type form uint8

const (
	asRange form = iota // alone
	inList
	inBitmap
	forms
)

// What a sub-section costs, in bits: its type and length, and what is in it.
const (
	bitsOfHead   = 8 * (1 + 4)
	bitsOfSerial = 64
	bitsOfRange  = bitsOfHead + 2*bitsOfSerial
	// bitsOfBitmap is one without a bit: the offset, the number's length, and
	// the bits that fill its last byte and keep it positive.
	bitsOfBitmap = bitsOfHead + bitsOfSerial + 8*(4+1)
	// mostInList serials of a span may be cheaper one by one than as a range
	// that ends the list before it and has another one begin after it.
	mostInList = 3
)

const never = math.MaxUint64 / 2

// step is the least that it costs to write all spans up to one, for each form
// that this one may have.
type step struct {
	cost   [forms]uint64
	before [forms]form // that of the span before it
	goesOn [forms]bool // in the sub-section of the span before it
	offset uint64      // of the bitmap in cost[inBitmap]
}

func (s *step) least() form {
	best := asRange
	for f := range forms {
		if s.cost[f] < s.cost[best] {
			best = f
		}
	}
	return best
}

// next is the step of a span after s, which was that of the span up to last.
func (s *step) next(last uint64, one span) step {
	least, n := s.least(), one.count()
	paid := s.cost[least]
	out := step{before: [forms]form{least, least, least}, offset: one.first}
	out.cost = [forms]uint64{paid + bitsOfRange, never, never}
	if n <= mostInList {
		out.cost[inList] = paid + bitsOfHead + n*bitsOfSerial
		if on := s.cost[inList] + n*bitsOfSerial; on <= out.cost[inList] {
			out.cost[inList], out.before[inList], out.goesOn[inList] = on, inList, true
		}
	}
	if n <= maxBits {
		out.cost[inBitmap] = paid + bitsOfBitmap + n
	}
	if s.cost[inBitmap] < never && one.last-s.offset < maxBits {
		if on := s.cost[inBitmap] + one.last - last; on <= out.cost[inBitmap] {
			out.cost[inBitmap], out.before[inBitmap], out.goesOn[inBitmap] = on, inBitmap, true
			out.offset = s.offset
		}
	}
	return out
}

// appendSerials writes spans in the sub-sections that need the fewest bytes.
func appendSerials(b []byte, spans []span) []byte {
	steps := make([]step, len(spans)+1)
	steps[0].cost = [forms]uint64{0, never, never}
	last := uint64(0)
	for i, one := range spans {
		steps[i+1] = steps[i].next(last, one)
		last = one.last
	}
	// The way to the cheapest end, from its end.
	chosen := make([]form, len(spans))
	f := steps[len(spans)].least()
	for i := len(spans); i > 0; i-- {
		chosen[i-1], f = f, steps[i].before[f]
	}
	for i := 0; i < len(spans); {
		end := i + 1
		for end < len(spans) && chosen[end] == chosen[i] && steps[end+1].goesOn[chosen[end]] {
			end++
		}
		b = appendSubsection(b, chosen[i], spans[i:end])
		i = end
	}
	return b
}

func appendSubsection(b []byte, f form, spans []span) []byte {
	switch f {
	case inList:
		var list []byte
		for _, s := range spans {
			for i := range s.count() {
				list = binary.BigEndian.AppendUint64(list, s.first+i)
			}
		}
		return appendString(append(b, certSerialList), list)
	case inBitmap:
		return appendString(append(b, certSerialBitmap), bitmap(spans))
	default: // a span alone
		r := binary.BigEndian.AppendUint64(nil, spans[0].first)
		return appendString(append(b, certSerialRange), binary.BigEndian.AppendUint64(r, spans[0].last))
	}
}

// bitmap is the offset and a number whose bit n says that serial offset+n is
// revoked, as an mpint (RFC 4251 section 5): positive, so that its highest bit
// is none of ours.
func bitmap(spans []span) []byte {
	offset := spans[0].first
	bits := make([]byte, (spans[len(spans)-1].last-offset+1)/8+1)
	for _, s := range spans {
		for i := range s.count() {
			bit := s.first + i - offset
			bits[uint64(len(bits))-1-bit/8] |= 1 << (bit % 8)
		}
	}
	return appendString(binary.BigEndian.AppendUint64(nil, offset), bits)
}
