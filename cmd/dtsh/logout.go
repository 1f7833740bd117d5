package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
)

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "End all logins: revoke the certificates and remove them with their keys",
		Long: `End all logins. The certificates are revoked at their clusters where those can
be reached, and removed with their keys in any case. The device stays enrolled.`,
		Example:           "  dtsh logout",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			home, err := a.home()
			if err != nil {
				return err
			}
			logins, _ := home.Logins() // LogoutAll says what cannot be read
			problems, err := home.LogoutAll(c.Context(), a.options())
			a.leaveAgent(c.Context(), logins)
			for _, p := range problems {
				message, _ := cli.Explain(p)
				fmt.Fprintf(a.Stderr, "WARNING: a login could not be ended at its cluster: %s\nIts keys are removed here; its certificates expire by themselves.\n", cli.Safe(message))
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Stdout, "All users logged out.")
			return err
		},
	}
}

// leaveAgent takes the keys of logins out of the person's own agent, where
// login put them there. They expire there in any case, and are worth nothing
// after a logout.
func (a *app) leaveAgent(ctx context.Context, logins []*client.Profile) {
	socket := a.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return
	}
	// The person may have given up on the server by now.
	if err := client.RemoveFromAgent(context.WithoutCancel(ctx), socket, logins); err != nil {
		a.Log().Debug("keys were not taken out of the agent", "error", err)
	}
}
