package node

import (
	"encoding/binary"
	"errors"
	"io"

	ft "devicetrust/node/filetransfer"
)

// replies is what a file transfer's child says, on its way to the client: it
// tells which handle stands for which path. The child is the account's: it may
// say anything, and is heard as far as that is bounded.
type replies struct {
	to       io.Writer
	transfer *transfer
	head     []byte // of the packet that has begun
	skip     int
}

// maxHandle is the longest of the protocol (section 6.3, 256 bytes).
const maxHandle = 256

var errReply = errors.New("the file transfer's process says what is no answer")

func (r *replies) Write(b []byte) (int, error) {
	if err := r.read(b); err != nil {
		r.transfer.tell(err.Error())
		return 0, err
	}
	return r.to.Write(b)
}

func (r *replies) read(b []byte) error {
	for len(b) > 0 {
		if r.skip > 0 {
			n := min(r.skip, len(b))
			r.skip -= n
			b = b[n:]
			continue
		}
		want := packetHead
		if len(r.head) >= packetHead && ft.Kind(r.head[4]) == ft.Handle {
			want = ft.LengthSize + int(binary.BigEndian.Uint32(r.head))
		}
		n := min(want-len(r.head), len(b))
		r.head, b = append(r.head, b[:n]...), b[n:]
		if len(r.head) < want {
			continue
		}
		if err := r.begun(); err != nil {
			return err
		}
	}
	return nil
}

// begun looks at a packet's head; that of a handle is all of it.
func (r *replies) begun() error {
	size := binary.BigEndian.Uint32(r.head)
	kind, id := ft.Kind(r.head[4]), binary.BigEndian.Uint32(r.head[5:])
	switch {
	case size < packetLeast || size > ft.MaxPacket:
		return errReply
	case kind == ft.Version: // of no request
	case kind != ft.Handle:
		r.transfer.forget(id)
	case size > packetLeast+4+maxHandle:
		return errReply
	case len(r.head) < ft.LengthSize+int(size):
		return nil
	default:
		f := ft.Fields{Rest: r.head[packetHead:]}
		r.transfer.opened(id, f.Bytes())
	}
	r.skip = ft.LengthSize + int(size) - len(r.head)
	r.head = r.head[:0]
	return nil
}

// opened makes what was being opened known by its handle.
func (t *transfer) opened(id uint32, handle []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	path, ok := t.opening[id]
	if !ok {
		return
	}
	delete(t.opening, id)
	t.open[string(handle)] = path
}

// forget: what was being opened is not open.
func (t *transfer) forget(id uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.opening, id)
}

func (t *transfer) closed(handle []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, string(handle))
}
