package main

import (
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api/dtv1"
	"devicetrust/cmd/internal/cli"
	"devicetrust/resource"
)

func (a *app) tokens() *cobra.Command {
	c := &cobra.Command{Use: "tokens", Short: "Make, list and remove tokens with which nodes join", Example: `  dtctl tokens add --type=node
  dtctl tokens ls`}
	c.AddCommand(a.tokensAdd(), a.tokensLs(), a.tokensRm())
	return c
}

func (a *app) tokensAdd() *cobra.Command {
	req := &dtv1.AddTokenRequest{}
	c := &cobra.Command{
		Use:     "add",
		Short:   "Make a token with which a node joins once",
		Example: `  dtctl tokens add --type=node --ttl=30m --labels=env=prod,team=web`,
		Args:    cobra.NoArgs,
	}
	c.Flags().StringVar(&req.Type, "type", "node", "what joins: node")
	c.Flags().StringToStringVar(&req.Labels, "labels", nil, "labels that the node will have, as k=v,…")
	ttl := addTTL(c, "ttl", "how long the token is good (default 30m)")
	complete(c, "type", "node")
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if req.Type != "node" {
			return cli.Usagef("unknown type of token %q: want node", req.Type)
		}
		req.Ttl = ttl.wire()
		services, err := a.services()
		if err != nil {
			return err
		}
		resp, err := services.Admin.AddToken(cmd.Context(), connect.NewRequest(req))
		if err != nil {
			return err
		}
		return a.printJoinToken(*format, resp.Msg)
	}
	return c
}

func (a *app) printJoinToken(format cli.Format, t *dtv1.JoinToken) error {
	if format != cli.Text {
		return cli.Write(a.Stdout, format, struct {
			Token      string     `json:"token"`
			Type       string     `json:"type"`
			Expires    *time.Time `json:"expires"`
			CAPins     []string   `json:"ca_pins"`
			AuthServer string     `json:"auth_server"`
			Name       string     `json:"name"`
		}{t.GetToken(), t.GetType(), utc(t.GetExpires()), t.GetCaPins(), t.GetAuthServer(), t.GetName()})
	}
	words := []string{"dtnoded", "start", "--auth-server=" + t.GetAuthServer(), "--token=" + t.GetToken()}
	return a.say("Run the command below on the server that is to join, until %s:\n%s",
		a.Time(t.GetExpires().AsTime()), commandLine(append(words, pins(t.GetCaPins())...)...))
}

func (a *app) tokensLs() *cobra.Command {
	c := &cobra.Command{
		Use:     "ls",
		Short:   "List tokens, without their secrets",
		Example: `  dtctl tokens ls`,
		Args:    cobra.NoArgs,
	}
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.list(cmd.Context(), resource.KindToken, *format)
	}
	return c
}

func (a *app) tokensRm() *cobra.Command {
	return &cobra.Command{
		Use:     "rm TOKEN",
		Short:   "Remove a token, named as in tokens ls",
		Example: `  dtctl tokens rm 7c1d2e3f`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref := reference{resource.KindToken, args[0]}
			if err := a.delete(cmd.Context(), ref); err != nil {
				return err
			}
			return a.say("%s has been deleted", ref)
		},
	}
}
