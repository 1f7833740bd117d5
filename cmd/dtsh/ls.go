package main

import (
	"github.com/spf13/cobra"

	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
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
		_, conn, err := a.connect()
		if err != nil {
			return err
		}
		defer conn.Close()
		nodes, err := conn.Nodes(c.Context(), labels)
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
