package forward

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// SOCKS 5 is RFC 1928, of which only CONNECT without authentication is here, as
// in OpenSSH's channels.c (channel_decode_socks5); SOCKS 4 and 4A are described
// by their authors at NEC and David Koblas. No library is used: those that are
// kept up are servers with dialers of their own, and this is two screens.

const (
	socks4, socks5 = 4, 5

	socksConnect = 1
	noMethod     = 0xff

	addressIPv4, addressName, addressIPv6 = 1, 3, 4
)

// socksRequest is where the client of a SOCKS proxy wants to go.
type socksRequest struct {
	version byte
	to      Address
}

// Answers to a request, as SOCKS 5 numbers them (RFC 1928 section 6).
type socksAnswer byte

const (
	socksGranted     socksAnswer = 0
	socksFailure     socksAnswer = 1
	socksNotAllowed  socksAnswer = 2
	socksUnreachable socksAnswer = 4
	socksRefused     socksAnswer = 5
	socksNoCommand   socksAnswer = 7
	socksNoAddress   socksAnswer = 8
)

// readSOCKS reads a request, not a byte more, and answers what has to be
// answered before. The caller bounds the time.
func readSOCKS(rw io.ReadWriter) (socksRequest, error) {
	var version [1]byte
	if _, err := io.ReadFull(rw, version[:]); err != nil {
		return socksRequest{}, err
	}
	r := socksRequest{version: version[0]}
	var err error
	switch r.version {
	case socks4:
		r.to, err = readSOCKS4(rw)
	case socks5:
		r.to, err = readSOCKS5(rw)
	default:
		return socksRequest{}, fmt.Errorf("version %d of SOCKS: want 4 or 5", r.version)
	}
	return r, err
}

func readSOCKS4(rw io.ReadWriter) (Address, error) {
	var head [7]byte // command, port, IPv4 address
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return Address{}, err
	}
	if _, err := readString(rw, maxSOCKSUser); err != nil {
		return Address{}, err
	}
	a := Address{Port: binary.BigEndian.Uint16(head[1:3]), Host: netip.AddrFrom4([4]byte(head[3:])).String()}
	// 4A: 0.0.0.x stands for a name that follows.
	if head[3] == 0 && head[4] == 0 && head[5] == 0 && head[6] != 0 {
		name, err := readString(rw, maxHost)
		if err != nil {
			return Address{}, err
		}
		a.Host = name
	}
	if head[0] != socksConnect {
		return Address{}, answerTo(rw, socks4, socksNoCommand, fmt.Errorf("command %d of SOCKS: want 1, to connect", head[0]))
	}
	return checked(rw, socks4, a)
}

// readString reads up to a zero byte, one byte after the other: what follows is
// not ours.
func readString(r io.Reader, most int) (string, error) {
	var text []byte
	var b [1]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", err
		}
		if b[0] == 0 {
			return string(text), nil
		}
		if len(text) == most {
			return "", fmt.Errorf("a string of SOCKS with more than %d bytes", most)
		}
		text = append(text, b[0])
	}
}

func readSOCKS5(rw io.ReadWriter) (Address, error) {
	var n [1]byte
	if _, err := io.ReadFull(rw, n[:]); err != nil {
		return Address{}, err
	}
	methods := make([]byte, n[0])
	if _, err := io.ReadFull(rw, methods); err != nil {
		return Address{}, err
	}
	method := byte(noMethod)
	for _, m := range methods {
		if m == 0 { // no authentication
			method = 0
		}
	}
	if _, err := rw.Write([]byte{socks5, method}); err != nil {
		return Address{}, err
	}
	if method == noMethod {
		return Address{}, errors.New("the client of SOCKS wants to authenticate")
	}
	var head [4]byte // version, command, reserved, kind of address
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return Address{}, err
	}
	if head[0] != socks5 {
		return Address{}, fmt.Errorf("version %d of SOCKS after 5", head[0])
	}
	a, err := readAddress(rw, head[3])
	if err != nil {
		return Address{}, err
	}
	if head[1] != socksConnect {
		return Address{}, answerTo(rw, socks5, socksNoCommand, fmt.Errorf("command %d of SOCKS: want 1, to connect", head[1]))
	}
	return checked(rw, socks5, a)
}

func readAddress(rw io.ReadWriter, kind byte) (Address, error) {
	var size int
	switch kind {
	case addressIPv4:
		size = 4
	case addressIPv6:
		size = 16
	case addressName:
		var n [1]byte
		if _, err := io.ReadFull(rw, n[:]); err != nil {
			return Address{}, err
		}
		size = int(n[0])
	default:
		return Address{}, answerTo(rw, socks5, socksNoAddress, fmt.Errorf("address of kind %d in SOCKS", kind))
	}
	b := make([]byte, size+2)
	if _, err := io.ReadFull(rw, b); err != nil {
		return Address{}, err
	}
	a := Address{Host: string(b[:size]), Port: binary.BigEndian.Uint16(b[size:])}
	if kind != addressName {
		ip, _ := netip.AddrFromSlice(b[:size])
		a.Host = ip.String()
	}
	return a, nil
}

// checked refuses what is no host and port: it goes into a message to the node.
func checked(rw io.ReadWriter, version byte, a Address) (Address, error) {
	if a.Host == "" || a.Port == 0 || !plainHost(a.Host) {
		return Address{}, answerTo(rw, version, socksFailure, fmt.Errorf("%.256q with port %d in SOCKS", a.Host, a.Port))
	}
	return a, nil
}

// answerTo answers, and is why.
func answerTo(w io.Writer, version byte, answer socksAnswer, why error) error {
	_ = socksRequest{version: version}.answer(w, answer) // why is told, and not this
	return why
}

// answer says how the request went. The address that is bound is nobody's
// business.
func (r socksRequest) answer(w io.Writer, a socksAnswer) error {
	reply := []byte{socks5, byte(a), 0, addressIPv4, 0, 0, 0, 0, 0, 0}
	if r.version == socks4 {
		const granted, rejected = 90, 91
		reply = []byte{0, granted, 0, 0, 0, 0, 0, 0}
		if a != socksGranted {
			reply[1] = rejected
		}
	}
	_, err := w.Write(reply)
	return err
}
