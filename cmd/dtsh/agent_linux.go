package main

import "golang.org/x/sys/unix"

// hideMemory keeps other programs of the person from reading ours with ptrace(2)
// or from a core file, as ssh-agent does: keys of ssh-add are in it.
func hideMemory() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // fails on no kernel there is
}
