package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"devicetrust/cmd/internal/cli"
)

func (a *app) configCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "config",
		Short: "Print an ssh_config with which plain ssh reaches the servers",
		Long: `Print an ssh_config(5) fragment for the servers that you may see. With it, ssh,
scp, sftp, rsync, git and ansible reach them with the certificate of your login,
and believe only servers that the cluster has certified.`,
		Example: `  dtsh config > ~/.ssh/dtsh.conf    # and once: Include dtsh.conf in ~/.ssh/config
  dtsh config > dtsh.conf && ssh -F dtsh.conf root@server-1`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			p, conn, err := a.connect()
			if err != nil {
				return err
			}
			defer conn.Close()
			nodes, err := conn.Nodes(c.Context(), nil)
			if err != nil {
				return err
			}
			text, skipped, err := p.SSHConfig(nodes, "")
			if err != nil {
				return err
			}
			for _, s := range skipped {
				fmt.Fprintf(a.Stderr, "WARNING: %s\n", cli.Safe(s.Error()))
			}
			_, err = fmt.Fprint(a.Stdout, text)
			return err
		},
	}
}
