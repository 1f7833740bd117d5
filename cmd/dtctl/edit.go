package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"runtime"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/client"
	"devicetrust/resource"
)

func (a *app) edit() *cobra.Command {
	return &cobra.Command{
		Use:   "edit KIND/NAME",
		Short: "Change a resource in an editor",
		Long: `Open a resource in $VISUAL or $EDITOR (vi where neither is set) and replace
it with what was saved. A change that somebody else made meanwhile is not
overwritten, and no text is lost: where it cannot be used, it stays in a file.`,
		Example: `  dtctl edit cluster_auth_preference
  dtctl edit users/alice
  EDITOR="code --wait" dtctl edit role/access`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeKinds,
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := parseOne(args[0])
			if err != nil {
				return err
			}
			services, err := a.services()
			if err != nil {
				return err
			}
			return a.editOne(cmd.Context(), services, ref)
		},
	}
}

func (a *app) editOne(ctx context.Context, services client.Services, ref reference) error {
	switch ref.kind {
	case resource.KindNode, resource.KindToken, resource.KindCertAuthority:
		return fmt.Errorf("a %s cannot be edited: it is what the cluster made it", ref.kind)
	}
	before, err := fetch(ctx, services, ref)
	if err != nil {
		return err
	}
	ref = referTo(before) // a device's asset tag becomes its ID
	original, err := resource.MarshalYAML(before)
	if err != nil {
		return err
	}
	draft, err := newDraft(ref, original)
	if err != nil {
		return err
	}
	defer draft.close()
	for {
		text, err := a.editDraft(draft)
		if err != nil {
			return err
		}
		if bytes.Equal(text, original) {
			return a.say("%s has not been changed", ref)
		}
		err = replace(ctx, services, before, text)
		if err == nil {
			return a.say("%s has been updated", ref)
		}
		if !mendable(err) || !a.again(ctx, err) {
			return draft.keep(ref, err)
		}
	}
}

// editDraft opens the editor and gives the text that it left. Where the
// editor fails, a text that was changed is kept all the same.
func (a *app) editDraft(d *draft) ([]byte, error) {
	failed := a.openEditor(d.path)
	text, err := a.readFile(d.path)
	if failed == nil && err == nil {
		return text, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, cmp.Or(failed, fmt.Errorf("%s has not been changed: the editor left no file", d.ref))
	}
	if err == nil && bytes.Equal(text, d.original) {
		return nil, failed
	}
	return nil, d.keep(d.ref, cmp.Or(failed, err))
}

// replace sends text in place of before, the version that the person saw.
func replace(ctx context.Context, services client.Services, before resource.Resource, text []byte) error {
	after, err := parseEdited(before, text)
	if err != nil {
		return err
	}
	after.Head().Metadata.Revision = ""
	doc, err := resource.MarshalJSON(after)
	if err != nil {
		return err
	}
	_, err = services.Resource.UpdateResource(ctx, connect.NewRequest(&dtv1.UpdateResourceRequest{
		Kind: before.Head().Kind, Resource: doc, Revision: before.Head().Metadata.Revision,
	}))
	return err
}

func parseEdited(before resource.Resource, text []byte) (resource.Resource, error) {
	all, err := resource.ParseYAML(text)
	if err != nil {
		return nil, &mistake{err}
	}
	if len(all) != 1 {
		return nil, &mistake{fmt.Errorf("want one document, got %d", len(all))}
	}
	if got, want := referTo(all[0]), referTo(before); got != want {
		return nil, &mistake{fmt.Errorf("want %s, got %s: a resource keeps its kind and name", want, got)}
	}
	return all[0], nil
}

// mistake is in the text and found here.
type mistake struct{ error }

func (m *mistake) Unwrap() error { return m.error }

// mendable: another look at the text could help.
func mendable(err error) bool {
	if _, ok := errors.AsType[*mistake](err); ok {
		return true
	}
	r, ok := errors.AsType[*api.Refusal](err)
	return ok && r.Code == connect.CodeInvalidArgument
}

// again shows err and asks whether to open the editor once more. Scripts are
// not asked.
func (a *app) again(ctx context.Context, err error) bool {
	if !a.Interactive() {
		return false
	}
	a.PrintError(err)
	answer, err := a.ReadLine(ctx, "Edit again? [Y/n] ")
	if err != nil {
		return false
	}
	return answer == "" || strings.HasPrefix(strings.ToLower(answer), "y")
}

// openEditor waits for the person's editor, which has the terminal. It is not
// ended by our own interruption: Ctrl-C may mean something inside.
func (a *app) openEditor(path string) error {
	name := cmp.Or(a.Getenv("VISUAL"), a.Getenv("EDITOR"), "vi")
	// The variables hold a shell's words, as `code --wait`.
	c := exec.CommandContext(context.Background(), "/bin/sh", "-c", name+` "$1"`, "sh", path)
	if runtime.GOOS == "windows" {
		words := append(strings.Fields(cmp.Or(a.Getenv("VISUAL"), a.Getenv("EDITOR"), "notepad")), path)
		c = exec.CommandContext(context.Background(), words[0], words[1:]...)
	}
	c.Stdin, c.Stdout, c.Stderr = a.Stdin, a.Stdout, a.Stderr
	if err := c.Run(); err != nil {
		return api.Refuse(connect.CodeUnknown, "the editor %q failed: %v", name, err).
			WithHint("VISUAL or EDITOR names the editor to use, as: EDITOR=nano dtctl edit …")
	}
	return nil
}
