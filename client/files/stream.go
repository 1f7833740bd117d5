package files

import (
	"errors"
	"io"
	"os"
)

// ended is how a stream ended on either side.
type ended struct{ from, to error }

// stream copies a file's content, with many requests on the way at a time where
// a node is on either side. What could not be written as a whole ends where the
// first gap would be: requests overtake one another.
func stream(to, from file, seen *watch) (e ended) {
	if local, ok := to.(*os.File); ok {
		w := &writer{to: local, watch: seen}
		err := read(from, w)
		if w.err == nil {
			return ended{from: err}
		}
		return ended{to: w.err}
	}
	r := &reader{from: from, watch: seen}
	if _, ok := from.(*os.File); !ok {
		// One file's requests in order into the other's.
		pr, pw := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			pw.CloseWithError(read(from, pw)) // an end, where it is nil
		}()
		defer func() {
			_ = pr.Close() // never fails
			<-done
		}()
		r.from = pr
	}
	_, err := to.ReadFrom(r)
	if err == nil || r.err != nil {
		e = ended{from: r.err}
	} else {
		e = ended{to: err}
	}
	if err != nil {
		if whole, err := to.Seek(0, io.SeekCurrent); err == nil {
			_ = to.Truncate(whole) // the error is told already
		}
	}
	return e
}

// errGaps: a node gave less of one part than was asked for, and then had more in
// the next, which was on the way already. A file that grows is one.
var errGaps = errors.New("the file changed while it was read, and its copy is not whole")

// read writes all of a file to w. The parts that the package asks a node for at
// the same time are written one behind the other, also around a gap; where it
// asks for one after the other, it gets where it has written to.
func read(from file, w io.Writer) error {
	p := &parts{to: w}
	n, err := from.WriteTo(p)
	if err != nil || !p.gap {
		return err
	}
	if at, err := from.Seek(0, io.SeekCurrent); err != nil || at != n {
		return errGaps
	}
	return nil
}

// parts notes whether anything came behind a part that was not whole.
type parts struct {
	to         io.Writer
	short, gap bool
}

func (p *parts) Write(b []byte) (int, error) {
	p.gap = p.gap || p.short
	p.short = len(b) < partSize
	return p.to.Write(b)
}

// writer and reader count, and keep the error of their side apart.
type writer struct {
	to    io.Writer
	watch *watch
	err   error
}

func (w *writer) Write(b []byte) (int, error) {
	n, err := w.to.Write(b)
	w.watch.add(n)
	w.err = err
	return n, err
}

type reader struct {
	from  io.Reader
	watch *watch
	err   error
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	r.watch.add(n)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// Size lets sftp choose how many requests to have on the way.
func (r *reader) Size() int64 { return r.watch.size }

// watch tells how far a file is.
type watch struct {
	tell       func(done, size int64)
	done, size int64
}

func (c Copy) watch(from Place, size int64) *watch {
	w := &watch{size: size, tell: func(int64, int64) {}}
	if c.Progress != nil {
		name := from.Tree.base(from.Path)
		w.tell = func(done, size int64) { c.Progress(name, done, size) }
	}
	w.tell(0, size)
	return w
}

func (w *watch) add(n int) {
	w.done += int64(n)
	w.tell(w.done, w.size)
}
