package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
)

func (a *app) passwdCommand() *cobra.Command {
	var invite string
	var stdin bool
	c := &cobra.Command{
		Use:   "passwd",
		Short: "Change your password, or set the first one with an invite",
		Example: `  dtsh passwd
  dtsh passwd --invite=TOKEN --proxy=dt.example.com --ca-pin=sha256:9f86d0…`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			if invite != "" {
				return a.acceptInvite(c.Context(), invite, stdin)
			}
			return a.changePassword(c.Context(), stdin)
		},
	}
	c.Flags().StringVar(&invite, "invite", "", "set the first password with this invite")
	c.Flags().BoolVar(&stdin, "password-stdin", false, "read the old and the new password from two lines of stdin; with --invite, the new one only")
	return c
}

func (a *app) changePassword(ctx context.Context, stdin bool) error {
	p, conn, err := a.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	old, err := a.password(ctx, "Enter your current password: ", stdin)
	if err != nil {
		return err
	}
	replacement, err := a.newPassword(ctx, stdin)
	if err != nil {
		return err
	}
	if err := conn.ChangePassword(ctx, old, replacement); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Stdout, "Password of %s changed.\n", p.User)
	return err
}

func (a *app) newPassword(ctx context.Context, stdin bool) (string, error) {
	const prompt = "Enter a new password: "
	return checked(func() (string, error) {
		if stdin {
			return a.ReadPasswordStdin(ctx, prompt)
		}
		return a.ReadNewPassword(ctx, prompt)
	})
}

func (a *app) acceptInvite(ctx context.Context, invite string, stdin bool) error {
	home, err := a.home()
	if err != nil {
		return err
	}
	p, err := a.chooseProfile(ctx, home)
	if err != nil {
		return err
	}
	trust, err := client.NewTrust(a.pins, a.caFile, p.Trust)
	if err != nil {
		return err
	}
	password, err := a.newPassword(ctx, stdin)
	if err != nil {
		return err
	}
	conn, err := client.DialAnonymous(p.Proxy, trust, a.options())
	if err != nil {
		return err
	}
	defer conn.Close()
	user, err := conn.AcceptInvite(ctx, invite, password)
	if err != nil {
		return err
	}
	// The invite is spent: what follows must not look like a failure of it.
	p.Trust = conn.Believed(trust)
	if err := p.KeepTrust(); err != nil {
		a.PrintError(err)
	}
	if _, err := fmt.Fprintf(a.Stdout, "Password of %s set.\n", cli.Safe(user)); err != nil {
		return err
	}
	fmt.Fprintf(a.Stderr, "Log in with: dtsh login --proxy=%s --user=%s\n", p.Proxy, cli.Safe(user))
	return nil
}
