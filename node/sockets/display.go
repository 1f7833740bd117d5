package sockets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// xauth is where Debian's sshd looks for it (XAuthLocation, sshd_config(5)).
const xauth = "/usr/bin/xauth"

// listenDisplay takes the first display that nobody else has, on loopback only
// (X11UseLocalhost, sshd_config(5)), and gives its number.
func listenDisplay(ctx context.Context, d Display) ([]net.Listener, uint16, error) {
	if _, err := exec.LookPath(xauth); err != nil {
		return nil, 0, errors.New("there is no " + xauth + " on the node")
	}
	for n := uint16(firstDisplay); n < firstDisplay+displays; n++ {
		all, _, err := listenOn(ctx, loopback(), displayPort+n)
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err == nil {
			err = authorize(ctx, d, n)
		}
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			return nil, 0, err
		}
		return all, n, nil
	}
	return nil, 0, errors.New("all displays are taken")
}

// authorize tells the account's X programs the cookie. It goes by xauth's
// standard input: everybody can read command lines. Programs look under
// "unix:N" for a display of this machine, "localhost:N" too (session.c,
// do_rc_files).
func authorize(ctx context.Context, d Display, number uint16) error {
	ctx, cancel := context.WithTimeout(ctx, xauthTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, xauth, "-q", "-")
	cmd.Env = []string{"HOME=" + d.Home, "PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.WaitDelay = xauthTimeout
	name := fmt.Sprintf("unix:%d.%d", number, d.Screen)
	cmd.Stdin = strings.NewReader(fmt.Sprintf("remove %s\nadd %s %s %s\n", name, name, d.Protocol, d.Cookie))
	err := cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("no answer within %s; can the home be written to?", xauthTimeout)
	}
	if err != nil {
		return fmt.Errorf("xauth does not take the display: %w", err)
	}
	return nil
}
