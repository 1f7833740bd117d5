package main

import (
	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api/dtv1"
	"devicetrust/cmd/internal/cli"
	"devicetrust/resource"
)

func (a *app) nodes() *cobra.Command {
	c := &cobra.Command{Use: "nodes", Short: "List the servers that have joined", Example: `  dtctl nodes ls`}
	c.AddCommand(a.nodesLs())
	return c
}

func (a *app) nodesLs() *cobra.Command {
	c := &cobra.Command{
		Use:     "ls",
		Short:   "List nodes: those that you may see",
		Example: `  dtctl nodes ls --format=json`,
		Args:    cobra.NoArgs,
	}
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		services, err := a.services()
		if err != nil {
			return err
		}
		resp, err := services.Admin.ListNodes(cmd.Context(), connect.NewRequest(&dtv1.ListNodesRequest{}))
		if err != nil {
			return err
		}
		all, err := parseAnswers(resp.Msg.GetNodes())
		if err != nil {
			return err
		}
		return a.printResources(*format, resource.KindNode, all)
	}
	return c
}
