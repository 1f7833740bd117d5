package main

import (
	"io"
	"os"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/cmd/internal/cli"
)

func (a *app) auth() *cobra.Command {
	c := &cobra.Command{Use: "auth", Annotations: cli.Later("rotate"), Short: "Export the cluster's authorities, and what they revoked", Example: `  dtctl auth export --type=user`}
	c.AddCommand(a.authExport(), a.authKRL())
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

func (a *app) authKRL() *cobra.Command {
	c := &cobra.Command{
		Use:   "krl [--signature=FILE]",
		Short: "Print the list of revoked certificates, as sshd's RevokedKeys wants it",
		Long: `Print the list of revoked certificates, in the binary form that RevokedKeys of
sshd and ssh-keygen -Q read. The signature is the user authority's, as
ssh-keygen -Y verify reads it, for the namespace krl@devicetrust.

Put it where sshd reads it with mv, and only when it is whole: a file that is
missing or broken keeps everybody out, and an empty one lets everybody in.`,
		Example: `  dtctl auth krl --signature=krl.sig > krl.new
  ssh-keygen -Q -l -f krl.new`,
		Args: cobra.NoArgs,
	}
	signature := c.Flags().String("signature", "", "write the signature to this file")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		services, err := a.services()
		if err != nil {
			return err
		}
		resp, err := services.Admin.ExportKRL(cmd.Context(), connect.NewRequest(&dtv1.ExportKRLRequest{}))
		if err != nil {
			return err
		}
		if len(resp.Msg.GetKrl()) == 0 || resp.Msg.GetSignature() == "" {
			return api.Refuse(connect.CodeInternal, "the server gave no revocation list, or no signature")
		}
		if *signature != "" {
			if err := os.WriteFile(*signature, []byte(resp.Msg.GetSignature()), 0o644); err != nil { //nolint:gosec // it is for everybody
				return err
			}
		}
		_, err = a.Stdout.Write(resp.Msg.GetKrl())
		return err
	}
	return c
}
