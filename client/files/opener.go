package files

import (
	"encoding/binary"
	"io"
	"io/fs"
)

// Numbers of SFTP (draft-ietf-secsh-filexfer-02, sections 3, 5 and 6.3).
const (
	messageOpen = 3
	openCreate  = 0x08
	attrMode    = 0x04
)

// opener gives new files their mode with the request that opens them, for which
// the package has no word. With the mode that all new files have, anybody there
// could open a private one before it was given its own, and read all that comes
// later.
type opener struct {
	io.WriteCloser
	// mode of the next file that is created.
	mode fs.FileMode
	// rest of the message that is being written.
	rest int
}

// Write gets the head of a message at a time, or the data of one: so the package
// writes them.
func (o *opener) Write(b []byte) (int, error) {
	const leastOpen = 4 + 1 + 4 + 4 + 4 + 4 // size, kind, number, path, flags, attributes
	if o.rest > 0 {
		o.rest -= len(b)
		return o.WriteCloser.Write(b)
	}
	size := binary.BigEndian.Uint32(b)
	o.rest = 4 + int(size) - len(b)
	if o.rest != 0 || len(b) < leastOpen || b[4] != messageOpen {
		return o.WriteCloser.Write(b)
	}
	flags, attributes := binary.BigEndian.Uint32(b[len(b)-8:]), binary.BigEndian.Uint32(b[len(b)-4:])
	if flags&openCreate == 0 || attributes != 0 {
		return o.WriteCloser.Write(b)
	}
	open := binary.BigEndian.AppendUint32(nil, size+4)
	open = append(open, b[4:len(b)-4]...)
	open = binary.BigEndian.AppendUint32(open, attrMode)
	open = binary.BigEndian.AppendUint32(open, uint32(o.mode.Perm()))
	if _, err := o.WriteCloser.Write(open); err != nil {
		return 0, err
	}
	return len(b), nil
}
