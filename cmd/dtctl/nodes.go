package main

import (
	"strconv"

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
		Use:   "ls",
		Short: "List nodes: those that you may see",
		Long: `List nodes: those that you may see. One that is behind decides by a state of the
cluster that is older than the staleness limit of cluster_auth_preference.`,
		Example: `  dtctl nodes ls -v
  dtctl nodes ls --format=json`,
		Args: cobra.NoArgs,
	}
	verbose := c.Flags().BoolP("verbose", "v", false, "also show what enforces there, and by which change of the cluster it decides")
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
		p := &printer{app: a, format: *format, kind: resource.KindNode, wide: *verbose}
		if err := p.page(all); err != nil {
			return err
		}
		return p.end()
	}
	return c
}

// lastSeen is when a node was heard of last, and whether it has not heard of
// us for long.
func (a *app) lastSeen(n *resource.Node) string {
	seen := a.Time(n.Spec.LastHeartbeat)
	if n.Spec.State != nil && n.Spec.State.Behind {
		seen += ", behind"
	}
	return seen
}

// wideNode adds what a node decides by.
func (a *app) wideNode(n *resource.Node) []string {
	row := append(a.row(n), n.Spec.Enforcer)
	st := n.Spec.State
	if st == nil {
		return append(row, "", "")
	}
	return append(row, strconv.FormatInt(st.Sequence, 10), a.Time(st.Confirmed))
}
