package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// nothing is the only entry of a list that allows no target at all.
const nothing = "none"

// targets is a checked permit_open or permit_listen. Only one that is there
// narrows anything: the zero value contains everything.
type targets struct {
	listed  bool
	ports   []portTarget
	sockets []string // absolute; what ends in a slash is all below it
	// among and notAmong are the rules where it contains the target and where
	// not.
	among, notAmong *Rule
}

// portTarget is a HOST:PORT as targetHost writes it. anything is every host,
// port 0 every port.
type portTarget struct {
	host string
	port uint16
}

// newTargets checks the list of the role (sshd_config(5), PermitOpen and
// PermitListen): HOST:PORT, either of them "*"; [IPv6]:PORT; the absolute path
// of a socket, or of a folder and "/*"; or "none" alone.
func newTargets(role, option string, spec []string) (targets, error) {
	field := "options." + option
	if len(spec) > maxTargets {
		return targets{}, fieldError(field, "%d targets are more than %d", len(spec), maxTargets)
	}
	at := source(role, field)
	t := targets{
		listed:   len(spec) > 0,
		among:    &Rule{RuleAllow, at, "the target is among them"},
		notAmong: &Rule{RuleSkip, at, "the target is not among them"},
	}
	if slices.Equal(spec, []string{nothing}) {
		return t, nil
	}
	for i, text := range spec {
		if err := t.add(text); err != nil {
			return targets{}, fieldError(fmt.Sprintf("%s[%d]", field, i), "%.128q %v", text, err)
		}
	}
	return t, nil
}

func (t *targets) add(text string) error {
	switch {
	case text == nothing:
		return errors.New("stands alone")
	case len(text) > maxText:
		return fmt.Errorf("has %d bytes, more than %d", len(text), maxText)
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("has a character that no target has")
	case strings.HasPrefix(text, "/"):
		return t.addSocket(text)
	default:
		return t.addPort(text)
	}
}

func (t *targets) addSocket(text string) error {
	name, below := strings.CutSuffix(text, "/*")
	if below && name == "" {
		t.sockets = append(t.sockets, "/")
		return nil
	}
	if strings.Contains(name, anything) {
		return errors.New("is a pattern; the only one is /* at the end")
	}
	if path.Clean(name) != name || name == "/" {
		return errors.New("is not the path of a socket without . and ..")
	}
	if below {
		name += "/"
	}
	t.sockets = append(t.sockets, name)
	return nil
}

var errNoTarget = errors.New("is not HOST:PORT, [IPv6]:PORT or the absolute path of a socket")

func (t *targets) addPort(text string) error {
	host, port, ok := cutPort(text)
	if !ok {
		return errNoTarget
	}
	p := portTarget{host: targetHost(host)}
	if port != anything {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return errors.New("has a port that is neither 1 to 65535 nor *")
		}
		p.port = uint16(n)
	}
	t.ports = append(t.ports, p)
	return nil
}

// cutPort takes HOST:PORT and [IPv6]:PORT apart.
func cutPort(text string) (host, port string, ok bool) {
	colon := strings.LastIndexByte(text, ':')
	if colon <= 0 {
		return "", "", false
	}
	host, port = text[:colon], text[colon+1:]
	if host == anything {
		return host, port, true
	}
	if inside, bracketed := strings.CutPrefix(host, "["); bracketed {
		inside, closed := strings.CutSuffix(inside, "]")
		a, err := netip.ParseAddr(inside)
		return inside, port, closed && err == nil && a.Is6() && a.Zone() == ""
	}
	return host, port, !strings.ContainsAny(host, "[]:/*")
}

// targetHost is host in one way of writing: lower case, as sshd has it
// (misc.c, lowercase), and an address as netip writes it. It is never looked
// up: what a name stands for is for whoever answers for the name to say.
func targetHost(host string) string {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().String()
	}
	return strings.ToLower(host)
}

// match tells whether to is among them, and the Rule that says so; nil where
// there are none.
func (t *targets) match(to *Target) (bool, *Rule) {
	switch {
	case !t.listed:
		return true, nil
	case t.contain(to):
		return true, t.among
	default:
		return false, t.notAmong
	}
}

func (t *targets) contain(to *Target) bool {
	if to.Kind == ToSocket || to.Kind == FromSocket {
		return slices.ContainsFunc(t.sockets, func(name string) bool { return isBelow(to.Path, name) })
	}
	host := targetHost(to.Host)
	return slices.ContainsFunc(t.ports, func(p portTarget) bool {
		return (p.host == anything || p.host == host) && (p.port == 0 || p.port == to.Port)
	})
}

// isBelow: a path with .. in it would lead out of where it seems to be. Links
// are not followed: whoever may make one below a folder that is listed reaches
// what their account does.
func isBelow(name, listed string) bool {
	if path.Clean(name) != name {
		return false
	}
	return name == listed || strings.HasSuffix(listed, "/") && strings.HasPrefix(name, listed)
}

// title is how people write t.
func (t *Target) title() string {
	switch {
	case t.Kind == ToSocket || t.Kind == FromSocket:
		return t.Path
	case strings.Contains(t.Host, ":"):
		return fmt.Sprintf("[%s]:%d", t.Host, t.Port)
	default:
		return fmt.Sprintf("%s:%d", t.Host, t.Port)
	}
}
