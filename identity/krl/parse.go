package krl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/policy"
)

var errEnds = errors.New("krl: it ends in the middle")

// Parse reads a list of the kind that Marshal writes: with other sections than
// those of certificates' serials, with serials out of order, or with bytes
// after its end, it is refused.
func Parse(data []byte) (List, error) {
	if len(data) == 0 {
		return List{}, errors.New("krl: it is empty")
	}
	if len(data) > maxSize {
		return List{}, fmt.Errorf("krl: it has %d bytes, more than %d", len(data), maxSize)
	}
	r := &reader{rest: data}
	l, err := r.header()
	if err != nil {
		return List{}, err
	}
	left := maxRanges
	for len(r.rest) > 0 {
		if len(l.Authorities) == maxAuthorities {
			return List{}, fmt.Errorf("krl: it is about more than %d authorities", maxAuthorities)
		}
		if section := r.byte(); section != sectionCertificates {
			return List{}, fmt.Errorf("krl: a section of type %d is not one of certificates", section)
		}
		a, err := parseAuthority(r.string(), left)
		if err != nil {
			return List{}, err
		}
		if l.of(a.Key) != nil {
			return List{}, errors.New("krl: an authority is there twice")
		}
		left -= len(a.Revoked)
		l.Authorities = append(l.Authorities, a)
	}
	return l, nil
}

// reader takes a message apart; ended is that it asked for more than there is.
type reader struct {
	rest  []byte
	ended bool
}

func (r *reader) take(n uint64) []byte {
	if r.ended || n > uint64(len(r.rest)) {
		r.ended = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) string() []byte { return r.take(uint64(r.uint32())) }

func (r *reader) header() (List, error) {
	if start := r.take(uint64(len(magic))); start == nil || string(start) != magic {
		return List{}, errors.New("krl: it does not begin as a revocation list does")
	}
	format, version, date, flags := r.uint32(), r.uint64(), r.uint64(), r.uint64()
	reserved, comment := r.string(), r.string()
	switch {
	case r.ended:
		return List{}, errEnds
	case format != formatVersion:
		return List{}, fmt.Errorf("krl: format version %d, want %d", format, formatVersion)
	case flags != 0 || len(reserved) > 0:
		return List{}, errors.New("krl: it has flags, and none are known")
	case date > maxDate:
		return List{}, fmt.Errorf("krl: its date, second %d, is none", date)
	case len(comment) > maxComment || strings.ContainsFunc(string(comment), isControl):
		return List{}, fmt.Errorf("krl: its comment is %.64q", comment)
	}
	return List{Version: version, Date: time.Unix(int64(date), 0).UTC(), Comment: string(comment)}, nil
}

// parseAuthority reads a certificate section of at most so many ranges.
func parseAuthority(section []byte, most int) (Authority, error) {
	r := &reader{rest: section}
	wire, reserved := r.string(), r.string()
	if r.ended {
		return Authority{}, errEnds
	}
	key, err := ssh.ParsePublicKey(wire)
	if _, certified := key.(*ssh.Certificate); err != nil || certified || !bytes.Equal(key.Marshal(), wire) {
		return Authority{}, errors.New("krl: the key of an authority cannot be read")
	}
	if len(reserved) > 0 {
		return Authority{}, errors.New("krl: a section has flags, and none are known")
	}
	var spans []span
	for len(r.rest) > 0 {
		kind, content := r.byte(), r.string()
		if r.ended {
			return Authority{}, errEnds
		}
		if spans, err = parseSerials(spans, kind, &reader{rest: content}); err != nil {
			return Authority{}, err
		}
		if len(spans) > most {
			return Authority{}, fmt.Errorf("krl: more than %d ranges of serials", maxRanges)
		}
	}
	a := Authority{Key: key}
	for _, s := range spans {
		a.Revoked = append(a.Revoked, policy.Revocation{First: s.first, Last: s.last})
	}
	return a, nil
}

// parseSerials adds those of a sub-section to spans.
func parseSerials(spans []span, kind byte, r *reader) ([]span, error) {
	var err error
	switch kind {
	case certSerialList:
		for len(r.rest) > 0 && !r.ended && err == nil {
			if serial := r.uint64(); !r.ended {
				spans, err = add(spans, span{serial, serial})
			}
		}
	case certSerialRange:
		s := span{r.uint64(), r.uint64()}
		if !r.ended {
			spans, err = add(spans, s)
		}
	case certSerialBitmap:
		offset, number := r.uint64(), r.string()
		if !r.ended {
			spans, err = addBits(spans, offset, number)
		}
	default:
		return nil, fmt.Errorf("krl: a sub-section of type %#x is not one of serials", kind)
	}
	switch {
	case err != nil:
		return nil, err
	case r.ended:
		return nil, errEnds
	case len(r.rest) > 0:
		return nil, errors.New("krl: a sub-section has more in it than it should")
	}
	return spans, nil
}

// addBits adds the serials of a bitmap.
func addBits(spans []span, offset uint64, number []byte) ([]span, error) {
	n := uint64(len(number))
	switch {
	case n == 0 || number[0]&0x80 != 0 || number[0] == 0 && (n == 1 || number[1]&0x80 == 0):
		return nil, errors.New("krl: a bitmap is not a number above 0, or not in its shortest form")
	case n > maxBits/8+1 || n == maxBits/8+1 && number[0] != 0:
		return nil, fmt.Errorf("krl: a bitmap has more than %d bits", maxBits)
	}
	for bit := range n * 8 {
		if number[n-1-bit/8]&(1<<(bit%8)) == 0 {
			continue
		}
		// A sum that went over the highest serial is not after what was before.
		serial := offset + bit
		if serial < offset {
			return nil, errors.New("krl: a bitmap goes beyond the highest serial")
		}
		var err error
		if spans, err = add(spans, span{serial, serial}); err != nil {
			return nil, err
		}
	}
	return spans, nil
}
