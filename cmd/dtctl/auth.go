package main

import (
	"io"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api/dtv1"
	"devicetrust/cmd/internal/cli"
)

func (a *app) auth() *cobra.Command {
	c := &cobra.Command{Use: "auth", Annotations: cli.Later("rotate", "krl"), Short: "Export the cluster's authorities", Example: `  dtctl auth export --type=user`}
	c.AddCommand(a.authExport())
	return c
}

func (a *app) authExport() *cobra.Command {
	types := []string{"user", "host", "tls"}
	c := &cobra.Command{
		Use:   "export --type=user|host|tls",
		Short: "Print the public half of an authority, as other programs want it",
		Long: `Print the public half of an authority:

  user  lines for TrustedUserCAKeys of sshd
  host  lines for known_hosts of ssh
  tls   certificates in PEM`,
		Example: `  dtctl auth export --type=host >> ~/.ssh/known_hosts`,
		Args:    cobra.NoArgs,
	}
	kind := c.Flags().String("type", "", "which authority: user, host or tls")
	require(c, "type")
	complete(c, "type", types...)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if !slices.Contains(types, *kind) {
			return cli.Usagef("unknown type of authority %q: want %s", *kind, strings.Join(types, ", "))
		}
		services, err := a.services()
		if err != nil {
			return err
		}
		resp, err := services.Admin.ExportAuthority(cmd.Context(), connect.NewRequest(
			&dtv1.ExportAuthorityRequest{Type: *kind}))
		if err != nil {
			return err
		}
		_, err = io.WriteString(a.Stdout, strings.TrimRight(resp.Msg.GetText(), "\n")+"\n")
		return err
	}
	return c
}
