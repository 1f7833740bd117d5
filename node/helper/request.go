package helper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
)

// Request is what a session's process is to become.
type Request struct {
	// As is whose process it is; the zero value is nobody's.
	As       RunAs
	UID, GID uint32
	Groups   []uint32
	// Terminal: file 0 becomes the controlling terminal.
	Terminal bool
	// Home is where it begins; "/", where that cannot be entered or is "".
	Home string
	// Work is for the rest of this program; where it is NoWork, Program is
	// run.
	Work    Work
	Program string
	Argv    []string
	Env     []string
}

// Work is what a helper does that stays this program.
type Work uint32

const (
	// NoWork: it runs another program.
	NoWork Work = iota
	// SFTP serves the SSH file transfer protocol on its standard input and
	// output.
	SFTP
	// Sockets opens sockets for port forwarding, and hands them to the node.
	Sockets
	works
)

// RunAs is whose process a session is.
type RunAs uint32

const (
	// AsNobody is refused.
	AsNobody RunAs = iota
	// AsOurselves leaves the ids; root refuses it.
	AsOurselves
	// AsAccount takes UID, GID and Groups.
	AsAccount
	// AsRoot stays what the node is, where that is root, and keeps the socket:
	// for dtnoded-pam, which does the rest.
	AsRoot
)

// LengthSize is of the length that goes before a request; the files go with
// it.
const LengthSize = 4

// Marshal gives the request as it travels: numbers of four bytes in network
// order, texts and lists each after its length; before all, its own.
func (r Request) Marshal() ([]byte, error) {
	b := make([]byte, LengthSize, 1024)
	number := func(n int) { b = binary.BigEndian.AppendUint32(b, uint32(n)) }
	text := func(list ...string) {
		for _, s := range list {
			number(len(s))
			b = append(b, s...)
		}
	}
	terminal := 0
	if r.Terminal {
		terminal = 1
	}
	for _, n := range []uint32{uint32(r.As), r.UID, r.GID, uint32(terminal), uint32(r.Work)} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	number(len(r.Groups))
	for _, g := range r.Groups {
		b = binary.BigEndian.AppendUint32(b, g)
	}
	text(r.Home, r.Program)
	number(len(r.Argv))
	text(r.Argv...)
	number(len(r.Env))
	text(r.Env...)
	if len(b)-LengthSize > maxRequest {
		return nil, fmt.Errorf("what is to be started takes %d bytes, more than %d", len(b)-LengthSize, maxRequest)
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-LengthSize))
	return b, nil
}

func (r Request) check() error {
	if r.As != AsOurselves && r.As != AsAccount && (r.As != AsRoot || r.Work != NoWork) {
		return fmt.Errorf("nobody's process (%d)", r.As)
	}
	if r.Work >= works {
		return fmt.Errorf("unknown work (%d)", r.Work)
	}
	if r.Work == NoWork && (r.Program == "" || len(r.Argv) == 0) {
		return errors.New("no program")
	}
	if r.Work != NoWork && (r.Program != "" || len(r.Argv) > 0) {
		return errors.New("a program and work")
	}
	for _, s := range slices.Concat([]string{r.Home, r.Program}, r.Argv, r.Env) {
		if strings.Contains(s, "\x00") {
			return errors.New("a NUL byte cannot be given to a process")
		}
	}
	return nil
}

// parse takes what Marshal makes after the length, and nothing else.
func parse(body []byte) (Request, error) {
	p := parser{rest: body}
	r := Request{As: RunAs(p.number()), UID: p.number(), GID: p.number()}
	switch p.number() {
	case 0:
	case 1:
		r.Terminal = true
	default:
		return Request{}, errors.New("neither with nor without a terminal")
	}
	r.Work = Work(p.number())
	for range p.count() {
		r.Groups = append(r.Groups, p.number())
	}
	r.Home, r.Program = p.text(), p.text()
	for range p.count() {
		r.Argv = append(r.Argv, p.text())
	}
	for range p.count() {
		r.Env = append(r.Env, p.text())
	}
	if p.short || len(p.rest) > 0 {
		return Request{}, errors.New("too short or too long")
	}
	return r, r.check()
}

type parser struct {
	rest  []byte
	short bool
}

func (p *parser) take(n int) []byte {
	if n > len(p.rest) {
		p.short, p.rest = true, nil
		return nil
	}
	taken := p.rest[:n]
	p.rest = p.rest[n:]
	return taken
}

func (p *parser) number() uint32 {
	b := p.take(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// count is of things that take four bytes at least: it is bounded by what is
// there.
func (p *parser) count() int {
	n := p.number()
	if uint64(n)*4 > uint64(len(p.rest)) {
		p.short = true
		return 0
	}
	return int(n)
}

func (p *parser) text() string { return string(p.take(int(p.number()))) }

// Step is one on the way to a session's process.
type Step byte

const (
	_ Step = iota
	// Begun: there is a process; no failure.
	Begun
	Understand
	Fork
	Files
	Terminal
	Identity
	// Home is no failure either: it begins in "/".
	Home
	Exec
	// Hush is none either: a login shell on a terminal whose home has a
	// .hushlogin.
	Hush
)

// Report is what a nursery, or a session's process, says of a step. When the
// session runs, the socket is at its end.
type Report struct {
	Step Step
	// Number is the process's with Begun, else a syscall.Errno.
	Number uint32
}

const reportSize = 5

func (r Report) marshal() []byte {
	return binary.BigEndian.AppendUint32([]byte{byte(r.Step)}, r.Number)
}

// ReadReport reads one; io.EOF is the end.
func ReadReport(from io.Reader) (Report, error) {
	var b [reportSize]byte
	if _, err := io.ReadFull(from, b[:]); err != nil {
		return Report{}, err
	}
	return Report{Step(b[0]).asOurs(), binary.BigEndian.Uint32(b[1:])}, nil
}

// Errno is why the step failed.
func (r Report) Errno() syscall.Errno { return syscall.Errno(r.Number) }

// Err is the report of a failure in words.
func (r Report) Err(of Request) error {
	what := fmt.Sprintf("start a session (step %d)", r.Step)
	switch r.Step {
	case Understand:
		what = "understand what to start"
	case Fork:
		what = "make a process"
	case Files:
		what = "take the session's files"
	case Terminal:
		what = "take the terminal"
	case Identity:
		what = fmt.Sprintf("become user %d", of.UID)
	case Exec:
		what = "run " + of.Program
	case PAMStart, PAMAccount, PAMCredentials, PAMSession:
		return r.Step.pamErr(r.Number)
	case PAMExec:
		what = "run the account's shell"
	case PAMFork:
		what = "make a process"
	case Begun, Home, Hush, pamIdentity, pamHome, pamHush: // no failures, or read as others
	}
	return fmt.Errorf("cannot %s: %w", what, r.Errno())
}
