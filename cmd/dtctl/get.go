package main

import (
	"context"

	"github.com/spf13/cobra"

	"devicetrust/cmd/internal/cli"
	"devicetrust/resource"
)

func (a *app) get() *cobra.Command {
	c := &cobra.Command{
		Use:   "get KIND[/NAME]",
		Short: "Print resources, in the form that create takes",
		Long: `Print one resource, or all of a kind: user, role, device,
cluster_auth_preference, lock, token, node, cert_authority, singular or plural.
A device is named by its ID or its asset tag.

YAML comes as one document per resource, JSON as an array, also for a single
resource.`,
		Example: `  dtctl get role/access
  dtctl get users --format=json
  dtctl get device/C00AA0AAAA0A
  dtctl get cluster_auth_preference`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeKinds,
	}
	format := cli.AddFormat(c, cli.YAML)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ref, err := parseReference(args[0])
		if err != nil {
			return err
		}
		if ref.name == "" {
			return a.list(cmd.Context(), ref.kind, *format)
		}
		return a.printOne(cmd.Context(), ref, *format)
	}
	return c
}

func (a *app) printOne(ctx context.Context, ref reference, format cli.Format) error {
	services, err := a.services()
	if err != nil {
		return err
	}
	r, err := fetch(ctx, services, ref)
	if err != nil {
		return err
	}
	return a.printResources(format, ref.kind, []resource.Resource{r})
}

func (a *app) rm() *cobra.Command {
	return &cobra.Command{
		Use:   "rm KIND/NAME",
		Short: "Remove a resource; access that it gave ends at once",
		Example: `  dtctl rm role/contractor
  dtctl rm lock/01b09b2a-6f08-4c2c-9a3d-7a8f3a8e0f55`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeKinds,
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := parseOne(args[0])
			if err != nil {
				return err
			}
			if err := a.delete(cmd.Context(), ref); err != nil {
				return err
			}
			if ref.kind == resource.KindPreference {
				return a.say("%s has been reset to its defaults", ref)
			}
			return a.say("%s has been deleted", ref)
		},
	}
}
