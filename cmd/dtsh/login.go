package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
	"devicetrust/resource"
)

func (a *app) loginCommand() *cobra.Command {
	var passwordStdin, addKeys bool
	key := keyFlag(client.KeyAuto)
	c := &cobra.Command{
		Use:   "login",
		Short: "Log in to a cluster, with this device where it is enrolled",
		Long: `Log in to a cluster. What is not given is asked for. Where this device is
enrolled in the cluster, its TPM proves that you are at it, and the login's
certificates say so; the login's private keys are then in the TPM, and good for
nothing on another machine (--key=software leaves them in files). Where it is
registered only, and the cluster enrolls registered devices by itself, the login
enrolls it. Logging in while logged in replaces the login; what runs on the
earlier one goes on until you log out.`,
		Example: `  dtsh login --proxy=dt.example.com --user=alice
  dtsh login --proxy=dt.example.com --user=alice --ca-pin=sha256:9f86d0…
  dtsh login --password-stdin < password`,
		Annotations:       cli.Later("--otp"),
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			if !addKeys {
				return a.runLogin(c.Context(), passwordStdin, client.KeyChoice(key))
			}
			return a.loginToAgent(c.Context(), passwordStdin, client.KeyChoice(key))
		},
	}
	c.Flags().BoolVar(&passwordStdin, "password-stdin", false, "read the password from the first line of stdin")
	c.Flags().BoolVar(&a.noAgent, "no-agent", false, "start no agent for a key in the TPM (DTSH_AGENT=off does so for all logins)")
	c.Flags().Var(&key, "key", "where the login's private keys are: tpm (or no login), software (files), or auto: in the TPM where this device proves itself with it")
	c.Flags().BoolVar(&addKeys, "add-keys-to-agent", false, "add the key to the ssh-agent of SSH_AUTH_SOCK until it expires; it must be software")
	return c
}

// loginToAgent is a login whose key the person's own agent gets. What keeps it
// from that is found out before, as far as it can be.
func (a *app) loginToAgent(ctx context.Context, passwordStdin bool, key client.KeyChoice) error {
	socket := a.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return cli.Usagef("there is no agent to add keys to: SSH_AUTH_SOCK is not set")
	}
	if key == client.KeyTPM {
		return cli.Usagef("a key in the TPM cannot be added to an agent: want --key=software with --add-keys-to-agent")
	}
	if err := a.runLogin(ctx, passwordStdin, key); err != nil {
		return err
	}
	p, err := a.login()
	if err != nil {
		return err
	}
	return p.AddToAgent(ctx, socket, a.options())
}

// keyFlag is a client.KeyChoice.
type keyFlag client.KeyChoice

func (f *keyFlag) String() string { return string(*f) }
func (f *keyFlag) Type() string   { return "auto|tpm|software" }
func (f *keyFlag) Set(s string) error {
	switch client.KeyChoice(s) {
	case client.KeyAuto, client.KeyTPM, client.KeySoftware:
		*f = keyFlag(s)
		return nil
	}
	return cli.Usagef("want auto, tpm or software")
}

func (a *app) runLogin(ctx context.Context, passwordStdin bool, key client.KeyChoice) error {
	home, err := a.home()
	if err != nil {
		return err
	}
	p, err := a.chooseProfile(ctx, home)
	if err != nil {
		return err
	}
	user, err := a.chooseUser(ctx, p)
	if err != nil {
		return err
	}
	if err := client.CheckUser(user); err != nil {
		return err // before a password is asked for in vain
	}
	trust, err := client.NewTrust(a.pins, a.caFile, p.Trust)
	if err != nil {
		return err
	}
	password, err := a.password(ctx, fmt.Sprintf("Enter password for dt user %s: ", cli.Safe(user)), passwordStdin)
	if err != nil {
		return err
	}
	m := a.machine(home)
	ask := client.Ask{User: user, Password: password, TTL: time.Duration(a.ttl), Trust: trust, Key: key, Prove: m.Prove}
	if !a.autoEnrollDisabled() {
		ask.Enroll = a.autoEnroller(m)
	}
	_, err = p.Login(ctx, ask, a.options())
	if err != nil {
		return err
	}
	s, err := p.Status()
	if err != nil {
		return err
	}
	if err := a.printStatus(s); err != nil {
		return err
	}
	a.tellDevice(s.Device, p.Device)
	if s.Key.Kind == "tpm" {
		a.offerAgent(ctx, home)
	}
	a.refreshConfig(ctx, p)
	return nil
}

// autoEnrollDisabled reads DTSH_DEVICE_AUTO_ENROLL_DISABLED. Whoever writes
// something else than a truth value there does not want to be enrolled.
func (a *app) autoEnrollDisabled() bool {
	text := a.Getenv("DTSH_DEVICE_AUTO_ENROLL_DISABLED")
	if text == "" {
		return false
	}
	disabled, err := strconv.ParseBool(text)
	return disabled || err != nil
}

// autoEnroller says that it enrolled the device: the person did not ask for
// it.
func (a *app) autoEnroller(m *client.Machine) client.Enroller {
	return func(ctx context.Context, p *client.Profile, conn *client.Conn) (resource.Device, error) {
		d, err := m.AutoEnroll(ctx, p, conn)
		if err == nil {
			fmt.Fprintf(a.Stderr, "Device \"%s\"/%s enrolled\n", cli.Safe(d.Spec.AssetTag), osName(d.Spec.OSType))
		}
		return d, err
	}
}

// tellDevice says how the device ceremony ended.
func (a *app) tellDevice(d client.DeviceStatus, outcome client.DeviceOutcome) {
	if d.Trusted {
		fmt.Fprintf(a.Stderr, "Device %q authenticated.\n", d.AssetTag)
		for _, w := range outcome.Warnings {
			fmt.Fprintf(a.Stderr, "WARNING: %s\n", cli.Safe(w))
		}
		return
	}
	fmt.Fprintf(a.Stderr, "Device not authenticated: %s\n", cli.Safe(d.Reason))
	if outcome.Hint != "" {
		fmt.Fprintln(a.Stderr, cli.Safe(outcome.Hint))
	}
}

// chooseProfile takes the cluster that was named, else the current one, else
// asks.
func (a *app) chooseProfile(ctx context.Context, home *client.Home) (*client.Profile, error) {
	p, err := home.Profile(a.namedProxy())
	if !errors.Is(err, client.ErrNotLoggedIn) {
		return p, err
	}
	if !a.Interactive() {
		return nil, cli.Usagef("no cluster is named: want --proxy=HOST:PORT")
	}
	proxy, err := a.ReadLine(ctx, "Address of the cluster (HOST:PORT): ")
	if err != nil {
		return nil, err
	}
	return home.Profile(proxy)
}

// chooseUser takes the name that was given, else that of the login there is,
// else asks.
func (a *app) chooseUser(ctx context.Context, p *client.Profile) (string, error) {
	for _, user := range []string{a.user, a.Getenv("DTSH_USER"), p.User} {
		if user != "" {
			return user, nil
		}
	}
	if !a.Interactive() {
		return "", cli.Usagef("no user is named: want --user=USER")
	}
	return a.ReadLine(ctx, "User: ")
}

// password asks on the terminal, or reads a line of stdin where the person
// said so.
func (a *app) password(ctx context.Context, prompt string, fromStdin bool) (string, error) {
	return checked(func() (string, error) {
		if fromStdin {
			return a.ReadPasswordStdin(ctx, prompt)
		}
		return a.ReadPassword(ctx, prompt)
	})
}

func checked(read func() (string, error)) (string, error) {
	password, err := read()
	if err != nil {
		return "", err
	}
	return password, client.CheckPassword(password)
}
