package forward

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Address is a port of a host, or a UNIX socket.
type Address struct {
	// Host of a listener: empty is the loopback, unless GatewayPorts says
	// otherwise; "*" is every address.
	Host string
	Port uint16
	// Path of a UNIX socket; empty is a port.
	Path string
}

func (a Address) String() string {
	if a.Path != "" {
		return a.Path
	}
	host := a.Host
	if host == "" {
		host = "localhost"
	}
	return net.JoinHostPort(host, strconv.Itoa(int(a.Port)))
}

// Spec is one thing to forward: what connects to Listen is connected with To.
type Spec struct {
	// Remote is listened for on the node, and connected from here; others the
	// other way round.
	Remote bool
	Listen Address
	// To is where connections go; the zero Address is where each asks for, as
	// of a SOCKS proxy.
	To Address
}

// Dynamic tells whether each connection says where it goes.
func (s Spec) Dynamic() bool { return s.To == Address{} }

// Flag is s as ssh(1) has it, for messages.
func (s Spec) Flag() string {
	switch {
	case s.Remote && s.Dynamic():
		return "-R " + s.Listen.String()
	case s.Remote:
		return "-R " + s.Listen.String() + ":" + s.To.String()
	case s.Dynamic():
		return "-D " + s.Listen.String()
	default:
		return "-L " + s.Listen.String() + ":" + s.To.String()
	}
}

// Target is where s goes, for messages.
func (s Spec) Target() string {
	if s.Dynamic() {
		return "where each client of SOCKS asks for"
	}
	return s.To.String()
}

// ParseLocal reads what ssh -L takes: [BIND:]PORT:HOST:HOSTPORT,
// [BIND:]PORT:/SOCKET, /SOCKET:HOST:PORT or /SOCKET:/SOCKET.
func ParseLocal(text string) (Spec, error) {
	s, err := parse(text)
	if err == nil && (s.Dynamic() || s.Listen.Path == "" && s.Listen.Port == 0) {
		err = errNoSpec
	}
	if err != nil {
		return Spec{}, fmt.Errorf("%w: want [BIND:]PORT:HOST:HOSTPORT, a socket's path in place of either side", err)
	}
	return s, nil
}

// ParseRemote reads what ssh -R takes: as ParseLocal, port 0 is one that the
// node chooses, and [BIND:]PORT alone is a SOCKS proxy for the node.
func ParseRemote(text string) (Spec, error) {
	s, err := parse(text)
	if err != nil {
		return Spec{}, fmt.Errorf("%w: want [BIND:]PORT:HOST:HOSTPORT, a socket's path in place of either side, or [BIND:]PORT", err)
	}
	s.Remote = true
	return s, nil
}

// ParseDynamic reads what ssh -D takes: [BIND:]PORT, or a socket's path.
func ParseDynamic(text string) (Spec, error) {
	s, err := parse(text)
	if err == nil && (!s.Dynamic() || s.Listen.Path == "" && s.Listen.Port == 0) {
		err = errNoSpec
	}
	if err != nil {
		return Spec{}, fmt.Errorf("%w: want [BIND:]PORT", err)
	}
	return s, nil
}

var errNoSpec = errors.New("not of a form that is known")

// parse tells the forms apart as OpenSSH does (readconf.c, parse_forward): by
// how many fields there are, and which are paths.
func parse(text string) (Spec, error) {
	fields, err := split(text)
	if err != nil {
		return Spec{}, err
	}
	var s Spec
	s.Listen, fields, err = takeListen(fields)
	if err != nil || len(fields) == 0 {
		return s, err
	}
	if fields[0].path {
		s.To, err = pathOf(fields[0])
		fields = fields[1:]
	} else if len(fields) == 2 {
		s.To, err = hostPort(fields[0], fields[1])
		if err == nil && (s.To.Host == "" || s.To.Port == 0) {
			err = errNoSpec
		}
		fields = nil
	}
	if err == nil && len(fields) > 0 {
		err = errNoSpec
	}
	return s, err
}

// takeListen takes [BIND:]PORT or a path off the front.
func takeListen(fields []field) (Address, []field, error) {
	switch n := len(fields); {
	case fields[0].path:
		a, err := pathOf(fields[0])
		return a, fields[1:], err
	case n == 2 && !fields[1].path, n == 3 && fields[2].path, n == 4:
		a, err := hostPort(fields[0], fields[1])
		if a.Host == "" { // it is said: every address, as "*"
			a.Host = "*"
		}
		return a, fields[2:], err
	default:
		port, err := parsePort(fields[0].text)
		return Address{Port: port}, fields[1:], err
	}
}

type field struct {
	text string
	path bool
}

// split splits at colons. What is in [ ] is one field, and a backslash takes
// the meaning from what follows it.
func split(text string) ([]field, error) {
	var fields []field
	for {
		f, rest, more, err := next(text)
		if err != nil {
			return nil, err
		}
		fields = append(fields, field{f, strings.HasPrefix(f, "/")})
		if !more {
			return fields, nil
		}
		if len(fields) == 4 {
			return nil, errNoSpec
		}
		text = rest
	}
}

func next(text string) (f, rest string, more bool, err error) {
	if inside, ok := strings.CutPrefix(text, "["); ok {
		f, rest, ok = strings.Cut(inside, "]")
		if !ok || rest != "" && rest[0] != ':' {
			return "", "", false, errors.New("a [ without its ]")
		}
		return f, strings.TrimPrefix(rest, ":"), rest != "", nil
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == ':':
			return b.String(), text[i+1:], true, nil
		case text[i] == '\\' && i+1 < len(text):
			i++
		}
		b.WriteByte(text[i])
	}
	return b.String(), "", false, nil
}

func hostPort(host, port field) (Address, error) {
	if host.path || !plainHost(host.text) {
		return Address{}, errors.New("no host's name or address")
	}
	n, err := parsePort(port.text)
	return Address{Host: host.text, Port: n}, err
}

// plainHost also takes the empty name and "*", which a listener may have.
func plainHost(host string) bool {
	return len(host) <= maxHost && !strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' })
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, errors.New("no port from 0 to 65535")
	}
	return uint16(n), nil
}

func pathOf(f field) (Address, error) {
	if len(f.text) > maxPath || strings.ContainsRune(f.text, 0) {
		return Address{}, fmt.Errorf("a socket's path has at most %d bytes", maxPath)
	}
	return Address{Path: f.text}, nil
}
