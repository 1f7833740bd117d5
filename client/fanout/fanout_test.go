package fanout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestNoMoreThanThatManyRunAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most, all atomic.Int64
		Each(t.Context(), 50, 7, func(int) {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Second) // of the bubble's clock
			now.Add(-1)
			all.Add(1)
		})
		if most.Load() != 7 || all.Load() != 50 {
			t.Errorf("%d at a time, %d in all", most.Load(), all.Load())
		}
	})
	// Zero denies nothing here, but is not without bound either.
	n := 0
	Each(t.Context(), 3, 0, func(int) { n++ })
	if n != 3 {
		t.Errorf("%d ran", n)
	}
}

func TestNobodyBeginsAfterTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	Each(ctx, 10, 1, func(int) {
		n++
		cancel()
	})
	if n != 1 {
		t.Errorf("%d ran", n)
	}
}

func TestEachLineBeginsWithThePrefix(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, tt := range []struct{ in, raw, shown string }{
		{"", "", ""},
		{"one\ntwo", "p: one\np: two\n", "p: one\np: two\n"},
		{"\n\n", "p: \np: \n", "p: \np: \n"},
		{"a\r\nb\rq: c\r\r\n", "p: a\np: b\np: q: c\np: \n", "p: a\np: b\np: q: c\np: \n"},
		{"a\x1b[1A\x1b[1Gq: b\tc\n", "p: a\x1b[1A\x1b[1Gq: b\tc\n", "p: a\\u001b[1A\\u001b[1Gq: b\tc\n"},
		{"a\x9b1Ab\u0085\u2028\u202e\v\fü\n", "p: a\x9b1Ab\u0085\u2028\u202e\v\fü\n", "p: a\\x9b1Ab\\u0085\\u2028\\u202e\\u000b\\u000cü\n"},
		{long + "y\n", "p: " + long + "\np: y\n", "p: " + long + "\np: y\n"},
	} {
		for visible, want := range map[bool]string{false: tt.raw, true: tt.shown} {
			for _, part := range []int{1, 3, maxLine} {
				var out bytes.Buffer
				w := new(Screen).Lines(&out, "p: ", visible)
				for rest := []byte(tt.in); len(rest) > 0; rest = rest[min(part, len(rest)):] {
					if n, err := w.Write(rest[:min(part, len(rest))]); err != nil || n != min(part, len(rest)) {
						t.Fatal(n, err)
					}
				}
				if err := w.Close(); err != nil || out.String() != want {
					t.Errorf("%.40q in parts of %d: %.60q, %v; want %.60q", tt.in, part, out.String(), err, want)
				}
			}
		}
	}
}

// whole refuses a write that is not one line.
type whole struct {
	t    *testing.T
	busy atomic.Bool
}

func (w *whole) Write(b []byte) (int, error) {
	if !w.busy.CompareAndSwap(false, true) {
		w.t.Error("two lines at a time")
	}
	runtime.Gosched()
	defer w.busy.Store(false)
	if bytes.Count(b, []byte("\n")) != 1 || b[len(b)-1] != '\n' || bytes.Count(b, []byte(": ")) != 1 {
		w.t.Errorf("%q is not a line", b)
	}
	return len(b), nil
}

func TestLinesOfManyNodesAreWhole(t *testing.T) {
	var screen Screen
	var all sync.WaitGroup
	out := &whole{t: t}
	for i := range 8 {
		w := screen.Lines(out, fmt.Sprint(i, ": "), false)
		for range 2 { // stdout and stderr may be one stream
			all.Go(func() {
				for range 200 {
					fmt.Fprint(w, "some ", "text\n")
				}
			})
		}
	}
	all.Wait()
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestOutputThatCannotBeWrittenIsTold(t *testing.T) {
	w := new(Screen).Lines(full{}, "p: ", false)
	if n, err := w.Write([]byte("ab\n")); n == 3 || err == nil {
		t.Error(n, err)
	}
}
