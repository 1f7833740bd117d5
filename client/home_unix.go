//go:build unix

package client

import (
	"io/fs"
	"os"
	"syscall"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// checkOwn refuses a file or folder that is somebody else's or grants others
// any of the permissions in forbidden. What root owns is as good as our own:
// root could do anything anyway.
func checkOwn(path string, info fs.FileInfo, forbidden fs.FileMode) error {
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return api.Refuse(connect.CodeFailedPrecondition, "cannot use %q: its permissions %04o let other people in", path, mode).
			WithHint("Run: chmod go-rwx %q", path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() && st.Uid != 0 {
		return api.Refuse(connect.CodeFailedPrecondition, "cannot use %q: it belongs to another account (uid %d)", path, st.Uid).
			WithHint("Set DTSH_HOME to a folder of your own.")
	}
	return nil
}

// othersEnter tells whether a folder of our own grants others anything.
func othersEnter(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid() && info.Mode().Perm()&0o077 != 0
}

// syncFolder makes a rename in dir last through a power cut.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
