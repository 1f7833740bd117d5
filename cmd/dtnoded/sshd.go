package main

import (
	"github.com/spf13/cobra"

	"devicetrust/cmd/internal/cli"
)

// sshdCommand holds what makes a stock sshd enforce.
func sshdCommand(env *cli.Env) *cobra.Command {
	c := &cobra.Command{
		Use:   "sshd",
		Short: "The same enforcement on a stock OpenSSH server",
		Long: "An OpenSSH server that is not ours lets in whom the cluster's roles, locks and revocations let\n" +
			"in, and asks for trusted devices where they do.",
		Example: `  dtnoded sshd install --auth-server=auth.example.com:3080 --token=@FILE --ca-pin=sha256:…
  dtnoded sshd uninstall`,
	}
	c.AddCommand(sshdInstallCommand(env), sshdUninstallCommand(env), auditCommand(env), syncCommand(env), principalsCommand(env))
	return c
}
