package sshd

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// sshd writes how somebody authenticated to a file that is that person's own
// (session.c, prepare_auth_info_file), and its name to SSH_USER_AUTH.
const (
	authInfoDir    = "/tmp"
	authInfoPrefix = "sshauth."
	authInfoName   = "SSH_USER_AUTH"
)

// shown is what a file of sshd's shows, or a line of its log.
type shown struct {
	// certificates, not verified.
	certificates []*ssh.Certificate
	// other: something else than a certificate, too.
	other bool
}

// parseAuthInfo reads one method a line (sshd_config(5), ExposeAuthInfo): its
// name and, of publickey, the key as in authorized_keys. What it does not
// understand shows nothing.
func parseAuthInfo(text []byte) (s shown) {
	if len(text) > maxAuthInfo {
		return shown{}
	}
	for line := range bytes.Lines(text) {
		if len(s.certificates) == maxProofs {
			break
		}
		f := strings.Fields(string(line))
		switch {
		case len(f) == 0:
		case f[0] != "publickey":
			s.other = true
		case len(f) == 3:
			wire, err := base64.StdEncoding.DecodeString(f[2])
			if err != nil {
				continue
			}
			key, err := ssh.ParsePublicKey(wire)
			if err != nil || key.Type() != f[1] {
				continue
			}
			if cert, ok := key.(*ssh.Certificate); ok {
				s.certificates = append(s.certificates, cert)
			} else {
				s.other = true
			}
		}
	}
	return s
}

// isAuthInfo tells whether path is one that sshd would give its file.
func isAuthInfo(path string) bool {
	return filepath.Dir(path) == authInfoDir && strings.HasPrefix(filepath.Base(path), authInfoPrefix)
}

// readAuthInfo reads the file, which has to be owner's own. Whoever that is may
// have put anything in its place.
func readAuthInfo(path string, owner uint32) ([]byte, unix.Stat_t, error) {
	if !isAuthInfo(path) {
		return nil, unix.Stat_t{}, fmt.Errorf("%.128q is not a file of sshd's", path)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, unix.Stat_t{}, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	return readOwned(f, owner)
}

func readOwned(f *os.File, owner uint32) ([]byte, unix.Stat_t, error) {
	var info unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &info); err != nil {
		return nil, info, err
	}
	if info.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, info, errors.New("it is no regular file")
	}
	if info.Uid != owner {
		return nil, info, fmt.Errorf("it belongs to user %d and not to %d", info.Uid, owner)
	}
	if info.Size > maxAuthInfo {
		return nil, info, fmt.Errorf("it has more than %d bytes", maxAuthInfo)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxAuthInfo))
	return text, info, err
}
