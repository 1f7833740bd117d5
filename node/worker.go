package node

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"devicetrust/node/filetransfer"
)

// transferFiles is the work of a file transfer's child. What goes wrong is one
// line for the person.
func transferFiles(now func() time.Time) (status int) {
	defer func() {
		if fault := recover(); fault != nil {
			fmt.Fprintln(os.Stderr, "file transfer has ended by a fault of the node's")
			status = 1
		}
	}()
	if err := seclude(); err != nil {
		fmt.Fprintf(os.Stderr, "no file transfer: %v\n", err)
		return 1
	}
	home, err := unix.Getwd()
	if err != nil {
		home = "/"
	}
	if err := filetransfer.Serve(os.Stdin, os.Stdout, home, now); err != nil {
		fmt.Fprintf(os.Stderr, "file transfer has ended: %v\n", err)
		return 1
	}
	return 0
}

// seclude keeps the account's other processes from tracing this one
// (ptrace(2), also where it has taken no other ids), and it from files that
// came with its start: it runs no other program that would not get them.
func seclude() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	const files = "/proc/self/fd"
	entries, err := os.ReadDir(files)
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= unix.Stderr {
			continue
		}
		// Those are Go's own; that of the folder is closed already.
		if to, err := os.Readlink(files + "/" + e.Name()); err == nil && !strings.HasPrefix(to, "anon_inode:[event") {
			unix.Close(fd)
		}
	}
	return nil
}
