package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api"
	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
)

// app is the program: its world, and the flags that all commands share.
type app struct {
	*cli.Env
	proxy  proxyFlag
	user   string
	ttl    ttlFlag
	pins   pinsFlag
	caFile string
	// noAgent keeps an agent from being started.
	noAgent bool
	// batch: nobody is to be asked for anything.
	batch bool
	// theChip is tpm's.
	theChip *client.Chip
}

func newRoot(env *cli.Env) *cobra.Command {
	env.LogLevel = slog.LevelWarn
	a := &app{Env: env}
	root := &cobra.Command{
		Use:         "dtsh",
		Annotations: cli.Later("mfa"),
		Short:       "Log in, enroll this device, reach servers",
		Long: `dtsh logs you in to a cluster, proves with this machine's TPM which device you
are at, and reaches the cluster's servers.

Environment (DTSH_PROXY and DTSH_USER stand for --proxy and --user):
  DTSH_HOME            profiles and keys (default ~/.dtsh)
  DTSH_TPM             the TPM (default /dev/tpmrm0, on Windows the system's), or
                       unix:PATH or tcp:HOST:PORT of a TPM 2.0 command socket
  DTSH_TPM_EVENT_LOG   the firmware's event log, or off (default the system's,
                       and none for a command socket)
  DTSH_DMI_DIR         the machine's DMI tables (default /sys/class/dmi/id)
  DTSH_AGENT=off       keeps logins and dtsh config from starting an agent
  DTSH_DEVICE_AUTO_ENROLL_DISABLED=1
                       keeps logins from enrolling this device, as does whatever
                       is no truth value`,
		Example: `  dtsh login --proxy=dt.example.com --user=alice
  dtsh device enroll --current-device
  dtsh ls
  dtsh ssh root@server-1`,
	}
	flags := root.PersistentFlags()
	flags.Var(&a.proxy, "proxy", "address of the cluster's dtauthd (DTSH_PROXY)")
	flags.StringVar(&a.user, "user", "", "your name in the cluster (DTSH_USER)")
	flags.Var(&a.ttl, "ttl", "how long the login shall last at most, such as 8h")
	flags.Var(&a.pins, "ca-pin", "believe the cluster whose CA has this pin; an administrator sees it with: dtctl status")
	flags.StringVar(&a.caFile, "ca-file", "", "believe the cluster whose CA is in this PEM file")
	root.AddCommand(
		a.loginCommand(), a.logoutCommand(), a.statusCommand(),
		a.lsCommand(), a.sshCommand(), a.scpCommand(), a.proxyCommand(), a.configCommand(), a.agentCommand(),
		a.deviceCommand(), a.passwdCommand(),
	)
	return root
}

// proxyFlag is HOST:PORT.
type proxyFlag string

func (f *proxyFlag) String() string { return string(*f) }
func (f *proxyFlag) Type() string   { return "HOST[:PORT]" }
func (f *proxyFlag) Set(s string) error {
	proxy, err := client.ParseProxy(s)
	*f = proxyFlag(proxy)
	return err
}

// pinsFlag may be given more than once.
type pinsFlag []client.Pin

func (f *pinsFlag) String() string { return "" }
func (f *pinsFlag) Type() string   { return "sha256:HEX" }
func (f *pinsFlag) Set(s string) error {
	pin, err := client.ParsePin(s)
	*f = append(*f, pin)
	return err
}

// ttlFlag is a time that something lasts.
type ttlFlag time.Duration

func (f *ttlFlag) String() string {
	if *f == 0 {
		return ""
	}
	return time.Duration(*f).String()
}
func (f *ttlFlag) Type() string { return "DURATION" }
func (f *ttlFlag) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return cli.Usagef("want a time such as 8h or 30m")
	}
	*f = ttlFlag(d)
	return nil
}

// home is where profiles and keys are.
func (a *app) home() (*client.Home, error) {
	dir := a.Getenv("DTSH_HOME")
	if dir == "" && a.Getenv("HOME") != "" {
		dir = filepath.Join(a.Getenv("HOME"), ".dtsh")
	}
	if dir == "" && a.Getenv("USERPROFILE") != "" { // Windows
		dir = filepath.Join(a.Getenv("USERPROFILE"), ".dtsh")
	}
	home, err := client.OpenHome(dir)
	if err != nil {
		return nil, err
	}
	home.Chip = a.tpm()
	return home, nil
}

// namedProxy is the address that the person named; empty where they did not.
func (a *app) namedProxy() string {
	if a.proxy != "" {
		return string(a.proxy)
	}
	return a.Getenv("DTSH_PROXY")
}

// login is the profile that the person is logged in with.
func (a *app) login() (*client.Profile, error) {
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	p, err := home.Profile(a.namedProxy())
	if err != nil {
		return nil, err
	}
	if p.User == "" {
		return nil, client.ErrNotLoggedIn
	}
	if a.user != "" && a.user != p.User {
		return nil, api.Refuse(connect.CodeUnauthenticated, "the login is of %s, and not of %s", p.User, a.user).
			WithHint("Log in with: dtsh login --user=%s", a.user)
	}
	return p, nil
}

// connect gives an API connection as the person who is logged in, to whom the
// flags believe where they say so.
func (a *app) connect() (*client.Profile, *client.Conn, error) {
	p, err := a.login()
	if err != nil {
		return nil, nil, err
	}
	as := *p
	if as.Trust, err = client.NewTrust(a.pins, a.caFile, p.Trust); err != nil {
		return nil, nil, err
	}
	conn, err := client.Dial(&as, a.options())
	return p, conn, err
}

func (a *app) options() client.Options { return client.Options{Now: a.Now, Log: a.Log()} }

// tpm is this machine's, the same for all who ask.
func (a *app) tpm() *client.Chip {
	if a.theChip == nil {
		a.theChip = client.NewChip(a.Getenv("DTSH_TPM"))
		a.theChip.Waiting = func() { fmt.Fprintln(a.Stderr, "Waiting for the TPM…") }
	}
	return a.theChip
}

// machine is this machine.
func (a *app) machine(home *client.Home) *client.Machine {
	return &client.Machine{
		Home: home, DMIDir: a.Getenv("DTSH_DMI_DIR"),
		Chip: a.tpm(), EventLog: a.Getenv("DTSH_TPM_EVENT_LOG"), Now: a.Now,
	}
}
