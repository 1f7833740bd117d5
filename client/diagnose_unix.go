//go:build unix

package client

import (
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"
)

// accessOf finds out who may open the device; the zero value where that cannot
// be told, or is not what keeps this account out.
func accessOf(device string) access {
	info, err := os.Stat(device)
	if err != nil {
		return access{}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return access{}
	}
	me, err := user.Current()
	if err != nil {
		return access{}
	}
	a := access{device: device, account: me.Username}
	_, err = user.LookupGroup("tss")
	a.tss = err == nil
	const groupReadsAndWrites = 0o060
	if st.Gid == 0 || info.Mode().Perm()&groupReadsAndWrites != groupReadsAndWrites {
		return a // nobody is put into root's group
	}
	if active, err := os.Getgroups(); err != nil || slices.Contains(active, int(st.Gid)) {
		return access{}
	}
	gid := strconv.FormatUint(uint64(st.Gid), 10)
	a.group = gid
	if g, err := user.LookupGroupId(gid); err == nil {
		a.group = g.Name
	}
	groups, err := me.GroupIds()
	a.member = err == nil && slices.Contains(groups, gid)
	return a
}
