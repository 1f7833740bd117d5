package node

import (
	"net"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// quickConn acknowledges at once while hurry is set. OpenSSH's client leaves
// Nagle's algorithm on until its session runs, so that each of its small
// packets waits for the acknowledgement of the one before, and Linux delays
// that by 40 ms. TCP_QUICKACK does not last (tcp(7)): it is set again around
// each read and write.
type quickConn struct {
	net.Conn
	hurry   atomic.Bool
	metrics *metrics // counts the bytes
}

func newQuickConn(c net.Conn, m *metrics) *quickConn {
	q := &quickConn{Conn: c, metrics: m}
	q.hurry.Store(true)
	return q
}

func (q *quickConn) Read(b []byte) (int, error) {
	q.acknowledge()
	n, err := q.Conn.Read(b)
	q.metrics.in.Add(float64(n))
	return n, err
}

func (q *quickConn) Write(b []byte) (int, error) {
	n, err := q.Conn.Write(b)
	q.metrics.out.Add(float64(n))
	q.acknowledge()
	return n, err
}

func (q *quickConn) acknowledge() {
	if !q.hurry.Load() {
		return
	}
	tcp, ok := q.Conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	// It is about speed only: what fails is noticed by the read.
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	})
}

// relax ends the hurry.
func (q *quickConn) relax() { q.hurry.Store(false) }
