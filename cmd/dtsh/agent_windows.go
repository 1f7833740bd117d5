package main

import (
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"
)

// detach takes cmd away from the console.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.DETACHED_PROCESS | windows.CREATE_NEW_PROCESS_GROUP}
}

// letGo has nothing to do: a write into a pipe without a reader fails, and that
// is all.
func letGo() {}
