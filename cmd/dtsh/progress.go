package main

import (
	"fmt"
	"io"
	"time"

	"devicetrust/cmd/internal/cli"
)

// progressInterval is how often a line is written again: more cannot be read.
const progressInterval = 200 * time.Millisecond

// progress is one line for each file, written again and again.
type progress struct {
	out io.Writer
	now func() time.Time
	// began and last are of the line that is open.
	began, last time.Time
	open        bool
}

// show says how far the file called name is.
func (p *progress) show(name string, done, size int64) {
	now := p.now()
	if done == 0 {
		p.end()
		p.began = now
	} else if done != size && now.Sub(p.last) < progressInterval {
		return
	}
	p.last, p.open = now, true
	percent := int64(100)
	if size > 0 {
		percent = min(100, int64(float64(done)/float64(size)*100))
	}
	rate := ""
	if took := now.Sub(p.began); took > 0 {
		rate = byteText(int64(float64(done)/took.Seconds())) + "/s"
	}
	fmt.Fprintf(p.out, "\r%-40.40s %3d%% %10s %12s", cli.Safe(name), percent, byteText(done), rate)
}

// end ends the line, where one is open.
func (p *progress) end() {
	if p.open {
		fmt.Fprintln(p.out)
		p.open = false
	}
}

// byteText is a number of bytes as people read it.
func byteText(n int64) string {
	size, unit := float64(n), 0
	for size >= 1024 && unit < 4 {
		size, unit = size/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %ciB", size, "KMGT"[unit-1])
}
