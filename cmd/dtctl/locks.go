package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
	"devicetrust/policy"
	"devicetrust/resource"
)

func (a *app) lock() *cobra.Command {
	var target policy.LockTarget
	c := &cobra.Command{
		Use:   "lock",
		Short: "Keep out a user, role, login, device or node, for a time or until the lock is removed",
		Long: `Keep out whatever matches: with several of --user, --role, --login, --device
and --node, only what matches all of them. Sessions that match end.

'dtctl get locks' lists the locks, 'dtctl rm lock/NAME' removes one.`,
		Example: `  dtctl lock --user=alice --message="left the company"
  dtctl lock --login=root --node=web-1 --ttl=2h`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&target.User, "user", "", "name of the user")
	c.Flags().StringVar(&target.Role, "role", "", "name of the role: everybody who has it")
	c.Flags().StringVar(&target.Login, "login", "", "account on servers")
	c.Flags().StringVar(&target.Device, "device", "", "ID or asset tag of the device")
	c.Flags().StringVar(&target.Node, "node", "", "ID or name of the node")
	c.MarkFlagsOneRequired("user", "role", "login", "device", "node")
	terms := lockFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.createLock(cmd.Context(), target, terms)
	}
	return c
}

// lockTerms are why and how long.
type lockTerms struct {
	message string
	ttl     *ttl
	expires moment
}

func lockFlags(c *cobra.Command) *lockTerms {
	t := &lockTerms{}
	c.Flags().StringVar(&t.message, "message", "", "what to tell those who are kept out")
	t.ttl = addTTL(c, "ttl", "how long; without it and --expires, until the lock is removed")
	c.Flags().Var(&t.expires, "expires", "until when, as 2026-01-31T18:00:00Z")
	c.MarkFlagsMutuallyExclusive("ttl", "expires")
	return t
}

// end is zero where there is none.
func (t *lockTerms) end(now time.Time) (time.Time, error) {
	end := t.expires.UTC()
	if *t.ttl != 0 {
		end = now.Add(t.ttl.duration()).UTC()
	}
	if !end.IsZero() && !end.After(now) {
		return end, cli.Usagef("--expires is in the past")
	}
	return end, nil
}

// createLock makes a lock and says its name.
func (a *app) createLock(ctx context.Context, target policy.LockTarget, terms *lockTerms) error {
	name, err := a.makeLock(ctx, target, terms)
	if err != nil {
		return err
	}
	return a.say("Created a lock with name %q.", name)
}

// makeLock makes a lock and gives its name. A device is looked up first: a lock
// on one that does not exist would keep nobody out, and its writer would not
// know.
func (a *app) makeLock(ctx context.Context, target policy.LockTarget, terms *lockTerms) (string, error) {
	if target == (policy.LockTarget{}) {
		return "", cli.Usagef("the lock is on nobody: a flag that says on whom is empty")
	}
	if strings.ContainsAny(terms.message, "\n\r") {
		return "", cli.Usagef("--message: want one line")
	}
	end, err := terms.end(a.Now())
	if err != nil {
		return "", err
	}
	lock := &resource.Lock{
		Header: resource.NewHeader(resource.KindLock, uuid.NewString()),
		Spec:   resource.LockSpec{Target: target, Message: terms.message, Expires: end},
	}
	services, err := a.services()
	if err != nil {
		return "", err
	}
	if target.Device != "" {
		device, err := fetch(ctx, services, reference{resource.KindDevice, target.Device})
		if err != nil {
			return "", err
		}
		lock.Spec.Target.Device = device.Head().Metadata.Name
	}
	a.warnOfStrangers(ctx, services, target)
	doc, err := resource.MarshalJSON(lock)
	if err != nil {
		return "", err
	}
	resp, err := services.Resource.CreateResource(ctx, connect.NewRequest(
		&dtv1.CreateResourceRequest{Kind: resource.KindLock, Resource: doc}))
	if err != nil {
		return "", err
	}
	return resp.Msg.GetName(), nil
}

// warnOfStrangers says which names of target are nobody's: such a lock holds
// for who comes later, and a slip of the pen would keep nobody out unseen. Who
// may not look is told nothing.
func (a *app) warnOfStrangers(ctx context.Context, services client.Services, target policy.LockTarget) {
	for _, ref := range []reference{
		{resource.KindUser, target.User}, {resource.KindRole, target.Role}, {resource.KindNode, target.Node},
	} {
		if ref.name == "" {
			continue
		}
		_, err := fetch(ctx, services, ref)
		if r, ok := errors.AsType[*api.Refusal](err); ok && r.Code == connect.CodeNotFound {
			fmt.Fprintf(a.Stderr, "WARNING: there is no %s: the lock is for one that comes.\n", cli.Safe(ref.String()))
		}
	}
}
