package main

import (
	"context"

	"github.com/spf13/cobra"

	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
	"devicetrust/resource"
)

func (a *app) lsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:               "ls [LABEL=VALUE…]",
		Short:             "List the servers that you may see",
		Example:           "  dtsh ls\n  dtsh ls env=production role=web\n  dtsh ls --format=json",
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(c *cobra.Command, args []string) error {
		labels, err := client.ParseLabels(args)
		if err != nil {
			return cli.Usagef("%v", err)
		}
		nodes, err := again(c.Context(), a, func() ([]resource.Node, error) { return a.nodes(c.Context(), labels) })
		if err != nil {
			return err
		}
		if *format != cli.Text {
			return cli.Write(a.Stdout, *format, nodes)
		}
		var rows [][]string
		for _, n := range nodes {
			rows = append(rows, []string{n.Spec.Hostname, n.Spec.Addr, client.LabelText(n.Metadata.Labels)})
		}
		return cli.Table(a.Stdout, []string{"Node Name", "Address", "Labels"}, rows)
	}
	return c
}

func (a *app) nodes(ctx context.Context, labels map[string]string) ([]resource.Node, error) {
	_, conn, err := a.connect()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.Nodes(ctx, labels)
}
