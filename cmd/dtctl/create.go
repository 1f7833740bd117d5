package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
	"devicetrust/resource"
)

// maxDocument bounds what create and edit read: all that can be understood. A
// file named by mistake is refused before it is held in memory.
const maxDocument = resource.MaxText

func (a *app) create() *cobra.Command {
	c := &cobra.Command{
		Use:   "create [-f] FILE|-",
		Short: "Create resources from a file or from stdin",
		Long: `Create the resources in a file (- is stdin), YAML or JSON, one or more
documents. All are read before the first is created, so that a slip in the
text of one changes nothing; what the cluster refuses then is left out, and
said. What exists is refused, or with --force replaced.

Several devices in one file are registered together, after the rest of it: all
of them, at most 50,000, or none.`,
		Example: `  dtctl create roles.yaml
  dtctl get role/access | sed s/access/contractor/ | dtctl create -
  dtctl create -f cluster_auth_preference.yaml
  dtctl create fleet.yaml`,
		Args: cobra.ExactArgs(1),
	}
	force := c.Flags().BoolP("force", "f", false, "replace what exists")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		docs, err := a.readDocuments(args[0])
		if err != nil {
			return err
		}
		services, err := a.services()
		if err != nil {
			return err
		}
		return a.createAll(cmd.Context(), services, args[0], docs, *force)
	}
	return c
}

// createAll goes on after a document that is refused.
func (a *app) createAll(ctx context.Context, services client.Services, file string, docs []document, force bool) error {
	acts := []func() error{}
	fleet, rest := split(docs)
	for _, d := range rest {
		acts = append(acts, func() error { return a.createOne(ctx, services, d, force) })
	}
	if len(fleet) > 0 {
		if len(rest) > 0 {
			file += ", of its devices" // which are counted without the rest
		}
		acts = append(acts, func() error {
			err := a.createDevices(ctx, services, fleet, force)
			if err != nil {
				err = fmt.Errorf("%s: %w", file, err)
			}
			return err
		})
	}
	failed := false
	for _, act := range acts {
		if err := act(); err != nil {
			if ctx.Err() != nil {
				return err
			}
			a.PrintError(err)
			failed = true
		}
	}
	if failed {
		return &cli.ExitError{Status: 1}
	}
	return nil
}

// document is a resource and where it stands, as "roles.yaml:12".
type document struct {
	resource.Resource
	place string
}

func (a *app) readDocuments(name string) ([]document, error) {
	data, err := a.readFile(name)
	if err != nil {
		return nil, err
	}
	if name == "-" {
		name = "stdin"
	}
	all, err := resource.ParseYAML(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	docs := make([]document, 0, len(all))
	for i, r := range all {
		docs = append(docs, document{r, fmt.Sprintf("%s, document %d", name, i+1)})
	}
	if lines := firstLines(data); len(lines) == len(docs) {
		for i, line := range lines {
			docs[i].place = fmt.Sprintf("%s:%d", name, line)
		}
	}
	return docs, nil
}

func (a *app) readFile(name string) ([]byte, error) {
	in := a.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, cannot("read", name, err)
		}
		defer func() { _ = f.Close() }() // read only
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxDocument+1))
	if err != nil {
		return nil, cannot("read", name, err)
	}
	if len(data) > maxDocument {
		return nil, fmt.Errorf("cannot read %s: it has more than %d bytes", name, maxDocument)
	}
	return data, nil
}

// cannot drops the name of the system call and the path from err: both are
// in the sentence.
func cannot(verb, path string, err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("cannot %s %s: %w", verb, path, err)
}

// firstLines are the lines on which the documents of data begin.
func firstLines(data []byte) []int {
	var lines []int
	for dec := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var n yaml.Node
		if err := dec.Decode(&n); err != nil {
			return lines
		}
		if len(n.Content) > 0 && n.Content[0].Tag != "!!null" {
			lines = append(lines, n.Content[0].Line)
		}
	}
}

func (a *app) createOne(ctx context.Context, services client.Services, d document, force bool) error {
	changed, err := send(ctx, services, d.Resource, force)
	if err != nil {
		if d.Head().Metadata.Name == "" || strings.Contains(err.Error(), referTo(d).String()) {
			return fmt.Errorf("%s: %w", d.place, err)
		}
		return fmt.Errorf("%s: %s: %w", d.place, referTo(d), err)
	}
	ref := reference{d.Head().Kind, changed.GetName()}
	if changed.GetCreated() {
		return a.say("%s has been created", ref)
	}
	return a.say("%s has been updated", ref)
}

// send creates r, or with force replaces it whatever its revision. A
// document that get printed carries a revision, which means nothing here.
func send(ctx context.Context, services client.Services, r resource.Resource, force bool) (*dtv1.ResourceChanged, error) {
	r.Head().Metadata.Revision = ""
	doc, err := resource.MarshalJSON(r)
	if err != nil {
		return nil, err
	}
	kind := r.Head().Kind
	if force {
		resp, err := services.Resource.UpdateResource(ctx, connect.NewRequest(
			&dtv1.UpdateResourceRequest{Kind: kind, Resource: doc}))
		if err != nil {
			return nil, err
		}
		return resp.Msg, nil
	}
	resp, err := services.Resource.CreateResource(ctx, connect.NewRequest(
		&dtv1.CreateResourceRequest{Kind: kind, Resource: doc}))
	if r, ok := errors.AsType[*api.Refusal](err); ok && r.Code == connect.CodeAlreadyExists {
		return nil, r.WithHint("Replace it with: dtctl create -f FILE")
	}
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}
