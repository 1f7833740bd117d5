package node

import (
	"fmt"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	gossh "golang.org/x/crypto/ssh"
)

// x/crypto/ssh (up to v0.59.0 at least, handshake.go, readLoop) has a goroutine
// that reads packets and puts them into a channel with room for 16. When what
// takes them out gives up, on a malformed message for example, the goroutine
// waits for ever where more have come, and so do two others; that the
// connection is closed does not help. A stranger could fill the memory so.

// unread is where packets of a connection wait, nil before there is one.
type unread <-chan []byte

// unreadOf finds it in x/crypto's type: there is no other way to it.
func unreadOf(conn gossh.ServerPreAuthConn) (unread, error) {
	v := reflect.Indirect(reflect.ValueOf(conn))
	for _, field := range []string{"transport", "incoming"} {
		if v.Kind() != reflect.Struct || !v.FieldByName(field).IsValid() {
			return nil, fmt.Errorf("%T has no %s: x/crypto/ssh has changed", conn, field)
		}
		v = v.FieldByName(field)
		if v.Kind() == reflect.Interface {
			v = v.Elem()
		}
		v = reflect.Indirect(v)
	}
	if v.Type() != reflect.TypeFor[chan []byte]() || !v.CanAddr() {
		return nil, fmt.Errorf("packets of %T wait in a %s: x/crypto/ssh has changed", conn, v.Type())
	}
	return *(*chan []byte)(unsafe.Pointer(v.UnsafeAddr())), nil //nolint:gosec // of the type that it was just found to have
}

// discard takes out what nobody will, of a connection that is closed. It
// returns when the reader has come to the end.
func (u unread) discard() {
	if u == nil {
		return
	}
	for range u { //nolint:revive // nobody wants it
	}
}

// Until the connection can be asked where its packets wait, a stranger gets no
// further than what fits.
const (
	// firstWrites are the version, the two messages of the exchange of keys
	// and NEWKEYS (RFC 4253 sections 4.2 and 7): before them no packet waits.
	firstWrites = 4
	// unansweredBytes hold at most 16 packets: none is smaller than 28 bytes
	// (chacha20-poly1305@openssh.com: length, one block, tag). The request for
	// ssh-userauth and OpenSSH's EXT_INFO fit.
	unansweredBytes = 16 * 28
	// unansweredWait is for a client that needs more; it only waits.
	unansweredWait = 300 * time.Millisecond
)

// paced is a connection whose first sealed packets come a few at a time.
type paced struct {
	net.Conn
	// known: the packets' place is, and nothing has to be paced any more.
	known  atomic.Bool
	writes atomic.Int64
	since  atomic.Int64  // bytes read since the last write
	news   chan struct{} // that somebody who waits looks again
	closed chan struct{}
	close  func()
}

func newPaced(conn net.Conn) *paced {
	p := &paced{Conn: conn, news: make(chan struct{}, 1), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	return p
}

func (p *paced) Read(b []byte) (int, error) {
	if p.known.Load() || p.writes.Load() < firstWrites {
		return p.Conn.Read(b)
	}
	p.await()
	n, err := p.Conn.Read(b[:min(len(b), unansweredBytes)])
	p.since.Add(int64(n))
	return n, err
}

// await an answer to what was read, or the end.
func (p *paced) await() {
	patience := time.NewTimer(unansweredWait)
	defer patience.Stop()
	for p.since.Load() >= unansweredBytes && !p.known.Load() {
		select {
		case <-p.news: // maybe old
		case <-p.closed:
			return
		case <-patience.C:
			return
		}
	}
}

func (p *paced) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(b)
	p.writes.Add(1)
	p.since.Store(0)
	p.tell()
	return n, err
}

// release ends the pacing.
func (p *paced) release() {
	p.known.Store(true)
	p.tell()
}

func (p *paced) tell() {
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// Close lets a Read that waits go on when there is nothing to read any more.
func (p *paced) Close() error {
	defer p.close()
	return p.Conn.Close()
}
