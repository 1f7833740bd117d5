package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	ft "devicetrust/node/filetransfer"

	"devicetrust/audit/event"
)

// transfer stands between a client and the child that does its file transfer.
// What changes a file or opens one is recorded here, by the node, before the
// child hears of it; what cannot be recorded the child is told to refuse.
// Listings and what is only asked about files are not recorded: they are most
// of what clients say, and give nobody a file's content.
type transfer struct {
	// record writes what is about to be done.
	record func(event.Event) error
	// tell says a line to the person; stock clients do not show the text of a
	// status.
	tell func(string)
	told sync.Once

	// of the client's stream
	begun bool
	// skip bytes are left of a packet that passes unread or, where drop is set,
	// does not.
	skip int
	drop bool

	mu sync.Mutex
	// opening are paths by requests without an answer yet; open are those that
	// handles stand for. Together they are at most filetransfer.MaxHandles.
	opening map[uint32]string
	open    map[string]string
}

func newTransfer(record func(event.Event) error, tell func(string)) *transfer {
	return &transfer{record: record, tell: tell, opening: map[uint32]string{}, open: map[string]string{}}
}

// carry gives the child what the client sends, as far as it may have it, until
// either is at its end; an error is for the person.
func (t *transfer) carry(child io.Writer, client io.Reader) error {
	buffer := make([]byte, transferBuffer)
	have := 0
	for {
		n, err := client.Read(buffer[have:])
		have += n
		done, fault := t.pass(child, buffer[:have])
		if fault != nil {
			return fault
		}
		have = copy(buffer, buffer[done:have])
		if err != nil {
			return nil //nolint:nilerr // the client has gone; what it had not said whole is nothing
		}
	}
}

// errChildGone: the child takes no more; its exit status says why.
var errChildGone = errors.New("the file transfer's process has ended")

// pass gives the child what is whole of b, and tells how much of b that is.
func (t *transfer) pass(child io.Writer, b []byte) (done int, err error) {
	given := 0
	give := func(instead []byte) error {
		for _, part := range [][]byte{b[given:done], instead} {
			if len(part) == 0 {
				continue
			}
			if _, err := child.Write(part); err != nil {
				return errChildGone
			}
		}
		given = done
		return nil
	}
	for done < len(b) {
		if t.skip > 0 {
			n := min(t.skip, len(b)-done)
			t.skip -= n
			done += n
			if t.drop {
				given = done
			}
			continue
		}
		p, whole, err := t.next(b[done:])
		if err != nil {
			return done, err
		}
		if !whole {
			break
		}
		if instead := t.judge(p); instead != nil {
			if err := give(instead); err != nil {
				return done, err
			}
			t.drop = true
		} else {
			t.drop = false
		}
		t.skip = p.size
	}
	return done, give(nil)
}

// request is a client's packet.
type request struct {
	kind ft.Kind
	id   uint32
	// size with its length; rest is what follows the id, nil where it is not
	// looked at.
	size int
	rest []byte
}

// Sizes of a packet's beginning: length, kind, and version or id; without the
// length.
const (
	packetHead  = ft.LengthSize + packetLeast
	packetLeast = 5
)

// next reads the packet that b begins with; not whole, where more of it has to
// be seen than there is.
func (t *transfer) next(b []byte) (p request, whole bool, err error) {
	if len(b) < ft.LengthSize {
		return p, false, nil
	}
	size := binary.BigEndian.Uint32(b)
	if size < packetLeast || size > ft.MaxPacket {
		return p, false, fmt.Errorf("file transfer ends: a packet of %d bytes, not %d to %d", size, packetLeast, ft.MaxPacket)
	}
	if len(b) < packetHead {
		return p, false, nil
	}
	p = request{kind: ft.Kind(b[4]), id: binary.BigEndian.Uint32(b[5:]), size: ft.LengthSize + int(size)}
	if isInit := p.kind == ft.Init; t.begun == isInit || isInit && size > maxWatched {
		return p, false, fmt.Errorf("file transfer ends: packet %d comes where it may not", p.kind)
	}
	if unwatched(p.kind) || size > maxWatched {
		return p, true, nil
	}
	if len(b) < p.size {
		return p, false, nil
	}
	p.rest = b[packetHead:p.size]
	return p, true, nil
}

// unwatched are requests that open nothing and change nothing but what is open.
func unwatched(kind ft.Kind) bool {
	switch kind {
	case ft.Read, ft.Write, ft.Lstat, ft.Fstat, ft.Readdir, ft.Realpath, ft.Stat, ft.Readlink:
		return true
	default:
		return false
	}
}

// judge is nil where p may pass; else the packet to give in its place.
func (t *transfer) judge(p request) (instead []byte) {
	switch {
	case unwatched(p.kind):
		return nil
	case p.rest == nil:
		return ft.AppendRefusal(nil, p.id, ft.StatusFailure, "the request is too long")
	case p.kind == ft.Init:
		t.begun = true
		return nil
	}
	e, no := t.describe(p)
	if no == nil && e.Action != "" {
		if err := t.record(e); err != nil {
			no = &unwilling{ft.StatusFailure, "it cannot be recorded: " + err.Error()}
			t.told.Do(func() { t.tell("file transfer: " + no.reason) })
		}
	}
	if no != nil {
		t.forget(p.id)
		return ft.AppendRefusal(nil, p.id, no.code, no.reason)
	}
	return nil
}

// unwilling is why a request does not pass.
type unwilling struct {
	code   uint32
	reason string
}
