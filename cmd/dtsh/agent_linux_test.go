package main

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestAnAgentsMemoryIsNotReadByOthers(t *testing.T) {
	s, path := newSeat(t), socketPath(t)
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) })
	ended := s.serves(path)
	if got, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || got != 0 {
		t.Errorf("dumpable is %d, %v", got, err)
	}
	want(t, s.dtsh("agent", "--socket="+path, "--kill"), 0, "Agent stopped", "")
	<-ended
}
