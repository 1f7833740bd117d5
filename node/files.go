package node

import (
	"os"
	"syscall"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// checkOwn refuses what somebody other than root and ourselves may have made
// or may change: whose keys and policy these are serves as whom they like. It
// may be a folder of the system's, or tell of an attack: nothing is mended.
func checkOwn(path string, info os.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return api.Refuse(connect.CodeFailedPrecondition, "it is not known whom %s belongs to", path)
	}
	if uid := os.Geteuid(); stat.Uid != 0 && int(stat.Uid) != uid {
		return api.Refuse(connect.CodeFailedPrecondition, "%s belongs to uid %d, and not to root or to uid %d, which dtnoded runs as", path, stat.Uid, uid).
			WithHint("Find out who made it. Where it is this node's after all: chown -R %d; else give another folder with --data-dir.", uid)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return api.Refuse(connect.CodeFailedPrecondition, "others may write to %s (mode %04o)", path, mode).
			WithHint("Make folders 0700 and files 0600, or give another folder with --data-dir.")
	}
	return nil
}
