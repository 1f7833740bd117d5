package cli

import (
	"context"

	"golang.org/x/sys/windows"
)

// modes of a console.
type modes uint32

func readModes(fd int) (modes, error) {
	var m uint32
	err := windows.GetConsoleMode(windows.Handle(fd), &m)
	return modes(m), err
}

func setModes(fd int, m modes) error {
	return windows.SetConsoleMode(windows.Handle(fd), uint32(m))
}

func (m modes) withoutEcho() modes {
	return m&^windows.ENABLE_ECHO_INPUT | windows.ENABLE_LINE_INPUT | windows.ENABLE_PROCESSED_INPUT
}

// watch has nothing to do: consoles suspend nobody, and what ends a process
// ends ctx.
func (question) watch(context.CancelCauseFunc) (stop func()) { return func() {} }
