package node

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// loginFiles are this machine's files about logins, root's all; "" is none.
// A zero value tells nobody of anything.
type loginFiles struct {
	motd                []string // shown in this order
	lastlog, utmp, wtmp string   // written only where they are, in this layout
	layout              layout
	environment         string
	nologin             []string
}

// systemLoginFiles are those of Debian (paths.h, pam_motd(8), nologin(5)). Who
// is not root writes none of them.
func systemLoginFiles(root bool) loginFiles {
	files := loginFiles{
		motd:        []string{"/run/motd.dynamic", "/etc/motd"},
		environment: "/etc/environment",
		nologin:     []string{"/run/nologin", "/etc/nologin"},
	}
	if root {
		files.layout = layoutOf(runtime.GOARCH)
		files.lastlog, files.utmp, files.wtmp = "/var/log/lastlog", "/var/run/utmp", "/var/log/wtmp"
	}
	return files
}

// openRegular opens a file that is one: what waits for somebody else (a FIFO)
// would hold up a login.
func openRegular(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file but %s", path, info.Mode())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// readSmall gives the text of a file of at most so many bytes; where there is
// none the error is fs.ErrNotExist.
func readSmall(path string, most int64) (string, error) {
	f, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	if int64(len(text)) > most {
		return "", fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return string(text), nil
}

// absent tells whether err is that there is no such file, or was none asked
// for.
func absent(path string, err error) bool { return path == "" || errors.Is(err, fs.ErrNotExist) }
