package main

import (
	"context"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api/dtv1"
	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
	"devicetrust/resource"
)

// reference names a resource. The name is empty for all of a kind.
type reference struct{ kind, name string }

// parseReference reads KIND or KIND/NAME, singular or plural. There is one
// cluster_auth_preference, which needs no name.
func parseReference(s string) (reference, error) {
	kind, name, named := strings.Cut(s, "/")
	known, ok := resource.NormalizeKind(kind)
	if !ok {
		return reference{}, cli.Usagef("unknown kind of resource %q: want one of %s", kind, strings.Join(resource.Kinds(), ", "))
	}
	if named && name == "" {
		return reference{}, cli.Usagef("%q has no name after the slash", s)
	}
	if known == resource.KindPreference && !named {
		name = resource.PreferenceName
	}
	return reference{known, name}, nil
}

// parseOne is parseReference for what needs a name.
func parseOne(s string) (reference, error) {
	ref, err := parseReference(s)
	if err == nil && ref.name == "" {
		return ref, cli.Usagef("which %s? want %s/NAME", ref.kind, ref.kind)
	}
	return ref, err
}

// String is how messages call it.
func (r reference) String() string {
	if r.kind == resource.KindPreference {
		return "cluster auth preference"
	}
	return fmt.Sprintf("%s %q", r.kind, r.name)
}

func referTo(r resource.Resource) reference {
	return reference{r.Head().Kind, r.Head().Metadata.Name}
}

func completeKinds(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return resource.Kinds(), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func fetch(ctx context.Context, services client.Services, ref reference) (resource.Resource, error) {
	resp, err := services.Resource.GetResource(ctx, connect.NewRequest(
		&dtv1.GetResourceRequest{Kind: ref.kind, Name: ref.name}))
	if err != nil {
		return nil, err
	}
	return parseAnswer(resp.Msg.GetResource())
}

// parseAnswer reads a resource that the server sent.
func parseAnswer(doc []byte) (resource.Resource, error) {
	r, err := resource.ParseJSON(doc)
	if err != nil {
		return nil, fmt.Errorf("cannot read what the server sent (is it of another version?): %w", err)
	}
	return r, nil
}

func parseAnswers(docs [][]byte) ([]resource.Resource, error) {
	all := make([]resource.Resource, 0, len(docs))
	for _, doc := range docs {
		r, err := parseAnswer(doc)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func (a *app) fetchAll(ctx context.Context, kind string) ([]resource.Resource, error) {
	services, err := a.services()
	if err != nil {
		return nil, err
	}
	resp, err := services.Resource.ListResources(ctx, connect.NewRequest(&dtv1.ListResourcesRequest{Kind: kind}))
	if err != nil {
		return nil, err
	}
	return parseAnswers(resp.Msg.GetResources())
}

// list is the ls of a kind.
func (a *app) list(ctx context.Context, kind string, format cli.Format) error {
	if kind == resource.KindDevice { // of which there may be very many
		p := &printer{app: a, format: format, kind: kind}
		if _, err := a.listDevices(ctx, &dtv1.ListDevicesRequest{}, 0, p); err != nil {
			return err
		}
		return p.end()
	}
	all, err := a.fetchAll(ctx, kind)
	if err != nil {
		return err
	}
	return a.printResources(format, kind, all)
}

// printResources prints all, which are of one kind: a table, an array, or
// YAML documents that create takes.
func (a *app) printResources(format cli.Format, kind string, all []resource.Resource) error {
	p := &printer{app: a, format: format, kind: kind}
	if err := p.page(all); err != nil {
		return err
	}
	return p.end()
}

func (a *app) delete(ctx context.Context, ref reference) error {
	services, err := a.services()
	if err != nil {
		return err
	}
	_, err = services.Resource.DeleteResource(ctx, connect.NewRequest(
		&dtv1.DeleteResourceRequest{Kind: ref.kind, Name: ref.name}))
	return err
}
