//go:build unix

package client

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// checkConfigOwner refuses what other people may write: ssh does so, too
// (read_config_file_depth). What is another account's could not stay its own.
func checkConfigOwner(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return api.Refuse(connect.CodeFailedPrecondition, "cannot use %q: its permissions %04o let other people write", path, mode).
			WithHint("Run: chmod go-w %q", path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return configUnusable("use", path, fmt.Sprintf("it belongs to another account (uid %d)", st.Uid))
	}
	return nil
}

// keepOwner gives f the owner and the group in info.
func keepOwner(f *os.File, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}
