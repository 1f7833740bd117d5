package main

import (
	"github.com/spf13/cobra"

	"devicetrust/cmd/internal/cli"
	"devicetrust/node"
)

func syncCommand(env *cli.Env) *cobra.Command {
	var config node.SyncConfig
	c := &cobra.Command{
		Use:   "sync",
		Short: "Keep a stock sshd current, and end what policy refuses",
		Long: "Follow the cluster for a stock sshd that was joined with install: the state that its helper\n" +
			"decides by, the list of revoked certificates, and the host certificate are kept current, and\n" +
			"connections are ended whose certificate would not be let in any more. It runs in the\n" +
			"foreground, as a service (packaging/systemd/dtnoded-sshd.service).",
		Example: "  dtnoded sshd sync\n  dtnoded sshd sync --sshd-config=/etc/ssh/sshd_config --data-dir=/var/lib/dtnoded",
		Args:    cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&config.SSHDConfig, "sshd-config", "/etc/ssh/sshd_config", "sshd's configuration, as at install")
	f.StringVar(&config.DataDir, "data-dir", "/var/lib/dtnoded", "where install put the identity")
	f.StringVar(&config.AuthLog, "auth-log", "", "file with sshd's log (default the journal where systemd runs, else /var/log/auth.log or /var/log/secure)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		config.Version, config.Log, config.Now = cli.Version, env.Log(), env.Now
		return cli.Setting(node.SyncSSHD(c.Context(), config))
	}
	return c
}
