// Package sockets opens sockets as a login account. A worker, which is this
// program once more as that account (node/helper), resolves names, connects,
// listens and accepts; what it gets it hands to the node, which carries bytes
// and does nothing else on an account's behalf.
//
// The two talk over a SOCK_SEQPACKET socket, one JSON object a packet, with one
// file at most. The node asks; each question gets one answer, and a listener
// tells of each connection besides. What a worker says is believed by nobody:
// it is the account's.
package sockets

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf8"
)

// Address is where to connect or to listen: a Path, or a Host and a Port.
type Address struct {
	// Host is a name or an address. To listen, "localhost" is every loopback
	// address, and "" every address.
	Host string `json:"host,omitempty"`
	// Port 0, to listen, is any free one.
	Port uint16 `json:"port,omitempty"`
	// Path of a UNIX socket, absolute.
	Path string `json:"path,omitempty"`
}

// CheckHost refuses what is no host's name or address; nothing is resolved.
func CheckHost(host string) error {
	if len(host) > maxHost {
		return fmt.Errorf("host of %d bytes, more than %d", len(host), maxHost)
	}
	for _, b := range []byte(host) {
		if b <= ' ' || b > '~' || strings.IndexByte(`"'/\`, b) >= 0 {
			return fmt.Errorf("host %.64q", host)
		}
	}
	return nil
}

// CheckPath refuses what is no socket's absolute path: another would be one
// from where the worker happens to be, or none at all ("@", unix(7)).
func CheckPath(name string) error {
	switch {
	case len(name) > maxSocketPath:
		return fmt.Errorf("socket's path of %d bytes, more than %d", len(name), maxSocketPath)
	case !path.IsAbs(name):
		return fmt.Errorf("the socket's path %.64q is not absolute", name)
	case strings.ContainsRune(name, 0) || !utf8.ValidString(name):
		return fmt.Errorf("socket's path %.64q", name)
	}
	return nil
}

func (a Address) check() error {
	if a.Path == "" {
		return CheckHost(a.Host)
	}
	if a.Host != "" || a.Port != 0 {
		return errors.New("an address with both a path and a host")
	}
	return CheckPath(a.Path)
}

// Display is an X11 display that is to be shown elsewhere.
type Display struct {
	// Protocol and Cookie, hexadecimal, are what programs prove themselves to
	// the X server with (xauth(1)).
	Protocol string `json:"protocol"`
	Cookie   string `json:"cookie"`
	Screen   uint32 `json:"screen"`
	// Home is where xauth keeps them.
	Home string `json:"home"`
}

// Check refuses what could be anything else to xauth, which reads it as
// commands.
func (d Display) Check() error {
	if d.Protocol == "" || len(d.Protocol) > maxProtocol {
		return fmt.Errorf("X11 protocol of %d bytes", len(d.Protocol))
	}
	for _, b := range []byte(d.Protocol) {
		if (b < 'A' || b > 'Z') && (b < '0' || b > '9') && b != '-' {
			return fmt.Errorf("X11 protocol %.64q", d.Protocol)
		}
	}
	// It is a secret: no error repeats it.
	if n := len(d.Cookie); n == 0 || n > maxCookie {
		return fmt.Errorf("X11 cookie of %d digits", n)
	}
	if _, err := hex.DecodeString(d.Cookie); err != nil {
		return errors.New("X11 cookie that is not hexadecimal")
	}
	if d.Screen > maxScreen {
		return fmt.Errorf("X11 screen %d", d.Screen)
	}
	return nil
}

// verb is what the node asks for.
type verb string

const (
	dial    verb = "dial"
	listen  verb = "listen"
	agent   verb = "agent"   // listen at a new place that only the account reaches
	display verb = "display" // listen as an X server does, and tell xauth
	stop    verb = "stop"    // what the question with this ID began
)

// question is the node's.
type question struct {
	ID uint32   `json:"id"`
	Do verb     `json:"do"`
	At *Address `json:"at,omitempty"` // dial, listen
	On *Display `json:"on,omitempty"` // display
}

func (q question) check() error {
	if (q.Do == dial || q.Do == listen) != (q.At != nil) || (q.Do == display) != (q.On != nil) {
		return fmt.Errorf("%.16q without what belongs to it, or with more", q.Do)
	}
	switch q.Do {
	case dial, listen:
		return q.At.check()
	case display:
		return q.On.Check()
	case agent, stop:
		return nil
	default:
		return fmt.Errorf("unknown verb %.16q", q.Do)
	}
}

// outcome is what an answer tells.
type outcome string

const (
	done     outcome = "done"     // of dial: with the socket
	failed   outcome = "failed"   // and Why
	accepted outcome = "accepted" // by the listener of the ID; with the socket
)

// answer is the worker's.
type answer struct {
	ID  uint32  `json:"id"`
	Is  outcome `json:"is"`
	Why string  `json:"why,omitempty"`
	// Port that is listened on; of a display, its number.
	Port uint16 `json:"port,omitempty"`
	// Path of an agent's socket.
	Path string `json:"path,omitempty"`
}

func (a answer) check() error {
	switch a.Is {
	case done, accepted:
		if a.Why != "" {
			return errors.New("an error of what did not fail")
		}
	case failed:
		if a.Why == "" || len(a.Why) > maxWhy || a.Port != 0 || a.Path != "" {
			return errors.New("a failure without a reason of its own")
		}
	default:
		return fmt.Errorf("unknown outcome %.16q", a.Is)
	}
	if a.Is == accepted && (a.Port != 0 || a.Path != "") {
		return errors.New("a connection with a listener's fields")
	}
	if a.Path != "" && !isAgentPath(a.Path) {
		return fmt.Errorf("an agent's socket at %.64q", a.Path)
	}
	return nil
}

// Agents' sockets are where those of sshd are (session.c,
// auth_input_request_forwarding): programs look for them there.
const (
	agentFolder = "/tmp/ssh-"
	agentName   = "agent."
)

// isAgentPath: it becomes SSH_AUTH_SOCK.
func isAgentPath(name string) bool {
	rest, ok := strings.CutPrefix(name, agentFolder)
	folder, socket, cut := strings.Cut(rest, "/"+agentName)
	return ok && cut && isAlphanumeric(folder) && isAlphanumeric(socket) && CheckPath(name) == nil
}

func isAlphanumeric(s string) bool {
	for _, b := range []byte(s) {
		if (b < '0' || b > '9') && (b < 'A' || b > 'Z') && (b < 'a' || b > 'z') {
			return false
		}
	}
	return s != ""
}

// message is either of the two.
type message interface{ check() error }

var _, _ message = question{}, answer{}

func encode(m message) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(m)
	if err == nil && len(b) > maxMessage {
		err = fmt.Errorf("message of %d bytes, more than %d", len(b), maxMessage)
	}
	return b, err
}

// decode takes what encode makes.
func decode[M message](b []byte) (m M, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, errors.New("malformed message")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return m, errors.New("more than one message in a packet")
	}
	return m, m.check()
}
