package main

import (
	"fmt"

	"github.com/spf13/cobra"

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
			problems, err := home.LogoutAll(c.Context(), a.options())
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
