package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"devicetrust/cmd/internal/cli"
)

// app is what all commands share.
type app struct {
	*cli.Env
	// dataDir is --data-dir, empty where it was not given.
	dataDir string
}

func newRoot(env *cli.Env) *cobra.Command {
	env.LogLevel = slog.LevelWarn
	a := &app{Env: env}
	root := &cobra.Command{
		Use:   "dtctl",
		Short: "Administer a cluster: users, roles, devices, tokens, locks, audit",
		Long: `dtctl administers a cluster.

On the machine of dtauthd it talks to dtauthd's own socket, and whoever may
open that administers the cluster. Elsewhere it acts for the person who is
logged in with dtsh, with that person's rights.`,
		Example: `  dtctl users add alice --roles=access --logins=root,ubuntu
  dtctl devices add --os=linux --asset-tag=C00AA0AAAA0A --enroll
  dtctl edit cluster_auth_preference
  dtctl explain --user=alice --login=root --node=web-1`,
	}
	root.PersistentFlags().StringVar(&a.dataDir, "data-dir", "",
		"data directory of the dtauthd on this machine (environment DTCTL_DATA_DIR; default "+defaultDataDir+" where it exists)")
	root.AddCommand(
		a.users(), a.devices(), a.lock(),
		a.get(), a.create(), a.edit(), a.rm(),
		a.mdm(), a.tokens(), a.nodes(), a.auth(),
		a.audit(), a.explain(), a.status(),
	)
	return root
}
