package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/client"
)

const (
	defaultDataDir = "/var/lib/dtauthd"
	socketName     = "admin.sock"
)

// services connects to the cluster. Nothing is sent before the first call.
// The socket of a data directory that was named must be there; without one,
// the default socket is taken where it can be, else the person's login.
func (a *app) services() (client.Services, error) {
	if dir := a.namedDataDir(); dir != "" {
		return a.overSocket(filepath.Join(dir, socketName)), nil
	}
	socket := filepath.Join(defaultDataDir, socketName)
	_, err := os.Stat(socket)
	if err == nil {
		return a.overSocket(socket), nil
	}
	services, loginErr := a.asPerson()
	if errors.Is(loginErr, client.ErrNotLoggedIn) {
		return services, nowhere(socket, err)
	}
	return services, loginErr
}

func (a *app) namedDataDir() string {
	if a.dataDir != "" {
		return a.dataDir
	}
	return a.Getenv("DTCTL_DATA_DIR")
}

// asPerson uses the login of dtsh.
func (a *app) asPerson() (client.Services, error) {
	home := a.Getenv("DTSH_HOME")
	if home == "" {
		person := cmp.Or(a.Getenv("HOME"), a.Getenv("USERPROFILE"))
		if person == "" {
			return client.Services{}, client.ErrNotLoggedIn
		}
		home = filepath.Join(person, ".dtsh")
	}
	profile, err := client.LoadProfile(home, a.Getenv("DTSH_PROXY"))
	if err != nil {
		return client.Services{}, err
	}
	profile.Home().Chip = client.NewChip(a.Getenv("DTSH_TPM"))
	a.Log().Debug("connecting", "proxy", profile.Proxy, "user", profile.User)
	// Closed with the process: every command makes a few calls and ends.
	conn, err := client.Dial(profile, client.Options{Now: a.Now, Log: a.Log()})
	if err != nil {
		return client.Services{}, err
	}
	return conn.Services, nil
}

// overSocket speaks to the dtauthd on this machine, whose permissions on the
// socket decide who may.
func (a *app) overSocket(path string) client.Services {
	a.Log().Debug("connecting", "socket", path)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "unix", path)
			if err != nil {
				return nil, socketError(path, err)
			}
			return conn, nil
		},
	}
	return client.NewServices(&http.Client{Transport: transport}, "http://admin", path)
}

// socketError says what is wrong with the socket and what to do.
func socketError(path string, err error) error {
	refuse := func(why, hint string) error {
		return api.Refuse(connect.CodeUnavailable, "cannot reach dtauthd at %s: %s", path, why).WithHint("%s", hint)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return refuse("there is no such socket",
			"Start dtauthd with that data directory, or name the right one with --data-dir.")
	case errors.Is(err, fs.ErrPermission):
		return refuse("permission denied", "Run dtctl as the account that runs dtauthd, for example with sudo.")
	case errors.Is(err, syscall.ECONNREFUSED):
		return refuse("nobody listens", "Start dtauthd.")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return refuse(err.Error(), "Check the path; a socket's has at most 107 bytes.")
}

// nowhere: no data directory was named, the default socket cannot be used
// (err) and nobody is logged in.
func nowhere(socket string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return socketError(socket, err)
	}
	return api.Refuse(connect.CodeUnavailable, "no cluster to administer: there is no %s, and nobody is logged in", socket).
		WithHint("%s", fmt.Sprintf("Run dtctl on the machine of dtauthd (--data-dir names its data directory, where that is not %s), or log in first: dtsh login --proxy=HOST:PORT --user=USER", defaultDataDir))
}
