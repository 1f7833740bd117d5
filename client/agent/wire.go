package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/ssh"
)

// Messages of the protocol (draft-miller-ssh-agent section 6.1). The numbers of
// smart cards are known to nobody here, as any other: they get a failure.
const (
	msgFailure             = 5
	msgSuccess             = 6
	msgRequestIdentities   = 11
	msgIdentities          = 12
	msgSign                = 13
	msgSignature           = 14
	msgAdd                 = 17
	msgRemove              = 18
	msgRemoveAll           = 19
	msgLock                = 22
	msgUnlock              = 23
	msgAddConstrained      = 25
	msgExtension           = 27
	msgExtensionFailure    = 28
	msgRemoveAllOfVersion1 = 9 // ssh-add -D sends it too
)

// Extensions (PROTOCOL.agent of OpenSSH section 1, and our own).
const (
	extSessionBind = "session-bind@openssh.com"
	extForwarded   = "forwarded@devicetrust"
	extStop        = "stop@devicetrust"
)

var errMalformed = errors.New("malformed message")

// readMessage reads the next message. It allocates as bytes arrive and not as
// they are announced. It closes c where the rest of a message does not come.
func readMessage(c io.ReadCloser) ([]byte, error) {
	var header [4]byte
	if _, err := io.ReadFull(c, header[:1]); err != nil {
		return nil, err
	}
	late := time.AfterFunc(messageTimeout, func() { _ = c.Close() })
	defer late.Stop()
	if _, err := io.ReadFull(c, header[1:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(header[:])
	if n == 0 || n > maxMessage {
		return nil, fmt.Errorf("message of %d bytes, want 1 to %d", n, maxMessage)
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, c, int64(n)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// writeMessage closes c where the other end does not take the message.
func writeMessage(c io.WriteCloser, msg []byte) error {
	late := time.AfterFunc(messageTimeout, func() { _ = c.Close() })
	defer late.Stop()
	_, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...))
	return err
}

// reader takes apart what came off the wire; after the first failure it gives
// zero values, and done tells.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if r.failed || n < 0 || n > len(r.rest) {
		r.failed, r.rest = true, nil
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

func (r *reader) string() []byte {
	n := r.uint32()
	if uint64(n) > uint64(len(r.rest)) {
		r.failed, r.rest = true, nil
	}
	return r.take(int(n))
}

// bool is strict, where OpenSSH takes any byte but zero for true: what is
// signed must not have two readings.
func (r *reader) bool() bool {
	b := r.byte()
	if b > 1 {
		r.failed, r.rest = true, nil
	}
	return b == 1
}

func (r *reader) key() ssh.PublicKey {
	blob := r.string()
	if r.failed {
		return nil
	}
	key, err := parseKey(blob)
	if err != nil {
		r.failed, r.rest = true, nil
		return nil
	}
	return key
}

func (r *reader) more() bool { return !r.failed && len(r.rest) > 0 }

// done is whether all was read and nothing else is there.
func (r *reader) done() bool { return !r.failed && len(r.rest) == 0 }

// parseKey reads a public key or certificate, and only one that is written as we
// would write it: keys are compared as bytes. The key keeps nothing of blob,
// which is cleared when the message has been answered.
func parseKey(blob []byte) (ssh.PublicKey, error) {
	if len(blob) > maxKeyBlob {
		return nil, errMalformed
	}
	key, err := ssh.ParsePublicKey(bytes.Clone(blob))
	if err != nil || !bytes.Equal(key.Marshal(), blob) {
		return nil, errMalformed
	}
	return key, nil
}

func equal(a, b ssh.PublicKey) bool {
	return a != nil && b != nil && bytes.Equal(a.Marshal(), b.Marshal())
}

func appendString[S ~string | ~[]byte](b []byte, s S) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}
