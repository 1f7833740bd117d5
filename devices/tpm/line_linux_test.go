package tpm

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// crowded is a socket at path that nobody serves yet, with as many waiting for
// it as it lets wait.
func crowded(t *testing.T, path string) net.Listener {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := net.Dial("unix", path)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestWhoFindsTheQueueOfASoftwareTPMFullWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tpm")
	l := crowded(t, path)

	ctx, cancel := context.WithTimeout(t.Context(), 2*queueInterval)
	defer cancel()
	_, err := Open(ctx, "unix:"+path)
	isForAPerson(t, err, "it does not answer", "Another program may be using the TPM")

	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	opened, err := openLine(t.Context(), "unix:"+path)
	if err != nil {
		t.Fatal(err)
	}
	opened.Close()
}
