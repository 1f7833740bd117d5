package node

import (
	"os"
	"sync"
	"time"
)

// drain reads what a command writes. While the command lives it waits as long
// as it takes; once it has ended, what is in the pipe is still read, and only
// a silence that lasts ends the reading: a child that the command left behind
// may hold the pipe for ever, and sshd would wait for it.
type drain struct {
	file    *os.File
	silence time.Duration

	mu      sync.Mutex
	ended   bool
	reading uint64 // odd: inside a Read
	timer   *time.Timer
}

func newDrain(f *os.File, silence time.Duration) *drain {
	return &drain{file: f, silence: silence}
}

func (d *drain) Read(b []byte) (int, error) {
	d.mu.Lock()
	d.reading++
	if d.ended {
		d.armLocked()
	}
	d.mu.Unlock()

	n, err := d.file.Read(b)

	// The time that the peer takes to accept what was read is no silence.
	d.mu.Lock()
	d.reading++
	if d.timer != nil {
		d.timer.Stop()
		_ = d.file.SetReadDeadline(time.Time{})
	}
	d.mu.Unlock()
	return n, err
}

// processEnded starts the waiting for silence.
func (d *drain) processEnded() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	if d.reading%2 == 1 {
		d.armLocked()
	}
}

func (d *drain) armLocked() {
	this := d.reading
	d.timer = time.AfterFunc(d.silence, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.reading == this {
			_ = d.file.SetReadDeadline(time.Unix(1, 0)) // long past: the Read ends
		}
	})
}
