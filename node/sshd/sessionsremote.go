package sshd

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// authInfos are the files of owner's that have the name of sshd's. Others may make
// as many as they like, and crowd none of owner's out.
func authInfos(owner uint32) (found []string) {
	dir, err := os.Open(authInfoDir)
	if err != nil {
		return nil
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			path := filepath.Join(authInfoDir, name)
			var info unix.Stat_t
			if !strings.HasPrefix(name, authInfoPrefix) || unix.Lstat(path, &info) != nil || info.Uid != owner {
				continue
			}
			if found = append(found, path); len(found) == maxAuthInfos {
				return found
			}
		}
		if err != nil {
			return found
		}
	}
}

// remote is the other end of the TCP connection that the process has; the zero
// value where it has none, or that cannot be told. sshd has it from before
// anybody is in, so it is the one with the lowest number.
func (p proc) remote(pid int) netip.AddrPort {
	inodes := map[string]int{}
	for fd := range maxSocketFD {
		link, err := os.Readlink(p.path(pid, filepath.Join("fd", strconv.Itoa(fd))))
		if err != nil {
			continue
		}
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			inodes[strings.TrimSuffix(inode, "]")] = fd
		}
	}
	best, at := maxSocketFD, netip.AddrPort{}
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		text, err := procFile(p.path(pid, table), maxSockets)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(text) {
			f := bytes.Fields(line)
			if len(f) < 10 {
				continue
			}
			// sl local_address rem_address st … inode (proc_net(5))
			fd, ours := inodes[string(f[9])]
			if !ours || fd >= best {
				continue
			}
			if a, ok := parseSocketAddr(string(f[2])); ok {
				best, at = fd, a
			}
		}
	}
	return at
}

// parseSocketAddr reads an address of /proc/net/tcp: words of 32 bits as the
// machine has them, in hexadecimal.
func parseSocketAddr(text string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(text, ":")
	raw, err1 := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err1 != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), ok && n != 0
}
