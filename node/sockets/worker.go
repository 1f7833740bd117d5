package sockets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Worker is the node's half: one process that opens sockets as an account.
// Run has to be running.
type Worker struct {
	conn *net.UnixConn
	pid  int
	done chan struct{} // closed when nothing more comes of it

	mu sync.Mutex
	// last is the ID of the last question; they begin at 1.
	last      uint32
	waiting   map[uint32]*waiting
	listeners map[uint32]*Listener
	closed    bool
}

// waiting is a question without an answer yet.
type waiting struct {
	question
	// listener that there is once the answer is "done"; nil for a dial.
	listener *Listener
	// abandoned: nobody waits for it any more.
	abandoned bool
	answer    chan answered // of capacity 1
}

type answered struct {
	conn Conn // of a dial that is done
	err  error
}

// Listener is one that the worker has opened.
type Listener struct {
	worker *Worker
	id     uint32
	accept func(Conn)
	// Port that it has, or the display's number; 0 where it has a path.
	Port uint16
	// Path of an agent's socket.
	Path string
}

// NewWorker is for the process pid at the other end of conn.
func NewWorker(conn *net.UnixConn, pid int) *Worker {
	return &Worker{
		conn: conn, pid: pid, done: make(chan struct{}),
		waiting: map[uint32]*waiting{}, listeners: map[uint32]*Listener{},
	}
}

// errGone is also what follows a message that the worker should not have sent.
var errGone = errors.New("what opens sockets as the account has ended")

// Done is closed when the worker can do nothing more.
func (w *Worker) Done() <-chan struct{} { return w.done }

// Close ends the worker: it goes when its socket is closed, with its listeners.
func (w *Worker) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	_ = w.conn.Close()
}

// Run takes what the worker says until its end, or until it says what it
// should not; the error tells which. Listeners' functions are called by it, and
// hold it up.
func (w *Worker) Run() error {
	defer w.end()
	buffer := make([]byte, maxMessage)
	for {
		packet, file, err := receive(w.conn, buffer)
		if err != nil {
			return err
		}
		if err := w.take(packet, file); err != nil {
			return err
		}
	}
}

func (w *Worker) end() {
	w.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, q := range w.waiting {
		delete(w.waiting, id)
		q.answer <- answered{err: errGone}
	}
	clear(w.listeners)
	close(w.done)
}

// take deals with one message. It closes file, or passes it on.
func (w *Worker) take(packet []byte, file *os.File) error {
	a, err := decode[answer](packet)
	if err != nil {
		if file != nil {
			file.Close()
		}
		return err
	}
	var conn Conn
	if file != nil {
		if conn, err = connOf(file, w.pid); err != nil {
			return err
		}
	}
	if err := w.pass(a, conn); err != nil {
		if conn != nil {
			conn.Close()
		}
		return err
	}
	return nil
}

func (w *Worker) pass(a answer, conn Conn) error {
	if a.Is == accepted {
		return w.connected(a.ID, conn)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.waiting[a.ID]
	if q == nil {
		return fmt.Errorf("an answer that nobody waits for (%d)", a.ID)
	}
	if err := q.fits(a, conn); err != nil {
		return err
	}
	delete(w.waiting, a.ID)
	switch {
	case a.Is == failed:
		q.answer <- answered{err: errors.New(a.Why)}
	case q.listener == nil && q.abandoned:
		conn.Close()
	case q.listener == nil:
		q.answer <- answered{conn: conn}
	case q.abandoned:
		w.tellLocked(question{ID: a.ID, Do: stop})
	default:
		q.listener.Port, q.listener.Path = a.Port, a.Path
		w.listeners[a.ID] = q.listener
		q.answer <- answered{}
	}
	return nil
}

// fits tells whether an answer is one to this question.
func (q *waiting) fits(a answer, conn Conn) error {
	ok := conn == nil && a.Is == failed
	if a.Is == done {
		switch q.Do {
		case dial:
			ok = conn != nil && a.Port == 0 && a.Path == ""
		case agent:
			ok = conn == nil && a.Port == 0 && a.Path != ""
		case display:
			ok = conn == nil && a.Port >= firstDisplay && a.Port < firstDisplay+displays && a.Path == ""
		case listen:
			ok = conn == nil && a.Path == "" && (a.Port != 0) == (q.At.Path == "") && (q.At.Port == 0 || q.At.Port == a.Port)
		default:
		}
	}
	if !ok {
		return fmt.Errorf("an answer that does not fit the question (%s)", q.Do)
	}
	return nil
}

func (w *Worker) connected(id uint32, conn Conn) error {
	w.mu.Lock()
	l, last := w.listeners[id], w.last
	w.mu.Unlock()
	switch {
	case conn == nil || id > last:
		return errors.New("a connection without a socket, or without a listener")
	case l == nil: // closed a moment ago
		conn.Close()
	default:
		l.accept(conn)
	}
	return nil
}

// Dial connects to a as the account. The error is one line.
func (w *Worker) Dial(ctx context.Context, a Address) (Conn, error) {
	got, err := w.ask(ctx, question{Do: dial, At: &a}, nil)
	return got, err
}

// Listen listens at a as the account, and gives accept each connection. It must
// not block.
func (w *Worker) Listen(ctx context.Context, a Address, accept func(Conn)) (*Listener, error) {
	return w.listen(ctx, question{Do: listen, At: &a}, accept)
}

// Agent listens at a new path in a folder that only the account enters.
func (w *Worker) Agent(ctx context.Context, accept func(Conn)) (*Listener, error) {
	return w.listen(ctx, question{Do: agent}, accept)
}

// Display listens as an X server does, on loopback, and tells xauth of it.
func (w *Worker) Display(ctx context.Context, d Display, accept func(Conn)) (*Listener, error) {
	return w.listen(ctx, question{Do: display, On: &d}, accept)
}

func (w *Worker) listen(ctx context.Context, q question, accept func(Conn)) (*Listener, error) {
	l := &Listener{worker: w, accept: accept}
	if _, err := w.ask(ctx, q, l); err != nil {
		return nil, err
	}
	return l, nil
}

// Close ends the listener; what it has accepted stays.
func (l *Listener) Close() {
	l.worker.mu.Lock()
	defer l.worker.mu.Unlock()
	if _, open := l.worker.listeners[l.id]; !open {
		return
	}
	delete(l.worker.listeners, l.id)
	l.worker.tellLocked(question{ID: l.id, Do: stop})
}

// ask asks q, with the listener that it may bring, and waits for the answer or
// until ctx ends.
func (w *Worker) ask(ctx context.Context, q question, l *Listener) (Conn, error) {
	asked := &waiting{question: q, listener: l, answer: make(chan answered, 1)}
	id, err := w.put(q, asked)
	if err != nil {
		return nil, err
	}
	select {
	case a := <-asked.answer:
		return a.conn, a.err
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, still := w.waiting[id]; !still { // it was answered at the same time
		a := <-asked.answer
		return a.conn, a.err
	}
	asked.abandoned = true
	w.tellLocked(question{ID: id, Do: stop})
	return nil, context.Cause(ctx)
}

func (w *Worker) put(q question, asked *waiting) (id uint32, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, errGone
	}
	if len(w.waiting) >= maxWaiting || w.last == 1<<32-1 {
		return 0, errors.New("too much at once")
	}
	q.ID = w.last + 1
	packet, err := encode(q)
	if err != nil {
		return 0, err
	}
	w.last++
	if asked.listener != nil {
		asked.listener.id = q.ID
	}
	w.waiting[q.ID] = asked
	w.sendLocked(packet)
	return q.ID, nil
}

// tellLocked asks for what has no answer.
func (w *Worker) tellLocked(q question) {
	if packet, err := encode(q); err == nil {
		w.sendLocked(packet)
	}
}

// sendLocked does not wait, by no poller: a worker that takes nothing any more
// (its account may stop it) is ended.
func (w *Worker) sendLocked(packet []byte) {
	raw, err := w.conn.SyscallConn()
	if err == nil {
		sent := raw.Control(func(fd uintptr) {
			err = unix.Sendmsg(int(fd), packet, nil, nil, unix.MSG_NOSIGNAL)
		})
		err = errors.Join(err, sent)
	}
	if err != nil {
		w.closed = true
		_ = w.conn.Close()
	}
}
