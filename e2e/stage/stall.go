package stage

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
)

// Commands of the TPM 2.0 (Part 2, TPM_CC) at which a ceremony can be stopped
// in the middle: the server has asked by then, and not heard the answer.
const (
	ActivateCredential = 0x147 // in an enrollment
	Quote              = 0x158 // in an enrollment and in a login
)

// Stall is a TPM that stops to think before one command: a socket in front of
// the real one, which passes everything on but holds that command back.
type Stall struct {
	Address string
	// Reached is closed when the command has come.
	Reached chan struct{}

	listener net.Listener
	command  uint32
	reach    func()
	release  chan struct{}
}

// Stall puts a stalling TPM in front of t.
func (t *TPM) Stall(command uint32) (*Stall, error) {
	path := t.socket + ".stall"
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	s := &Stall{
		Address: "unix:" + path, Reached: make(chan struct{}),
		listener: l, command: command, release: make(chan struct{}),
	}
	s.reach = sync.OnceFunc(func() { close(s.Reached) })
	go s.serve(t.socket)
	return s, nil
}

// Release lets the command go on, and ends the stalling TPM for whoever comes
// next.
func (s *Stall) Release() error {
	close(s.release)
	return s.listener.Close()
}

func (s *Stall) serve(socket string) {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		go s.pass(c, socket)
	}
}

func (s *Stall) pass(c net.Conn, socket string) {
	defer c.Close()
	tpm, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer tpm.Close()
	go func() { _, _ = io.Copy(c, tpm) }()
	for {
		command, code, err := readCommand(c)
		if err != nil {
			return
		}
		if code == s.command {
			s.reach()
			<-s.release
		}
		if _, err := tpm.Write(command); err != nil {
			return
		}
	}
}

// readCommand reads one command: tag, size of all, code (TPM 2.0 Part 1,
// section 18), and the rest.
func readCommand(r io.Reader) (command []byte, code uint32, err error) {
	header := make([]byte, 10)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, 0, err
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < 10 || size > 1<<16 {
		return nil, 0, errors.New("not a TPM command")
	}
	command = append(header, make([]byte, size-10)...)
	_, err = io.ReadFull(r, command[10:])
	return command, binary.BigEndian.Uint32(header[6:]), err
}
