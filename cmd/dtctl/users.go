package main

import (
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api/dtv1"
	"devicetrust/cmd/internal/cli"
	"devicetrust/resource"
)

func (a *app) users() *cobra.Command {
	c := &cobra.Command{Use: "users", Short: "Add, list, remove and reset people", Example: `  dtctl users add alice --roles=access,editor --logins=root,ubuntu
  dtctl users ls`}
	c.AddCommand(a.usersAdd(), a.usersLs(), a.usersRm(), a.usersReset())
	return c
}

func (a *app) usersAdd() *cobra.Command {
	req := &dtv1.AddUserRequest{}
	c := &cobra.Command{
		Use:   "add NAME --roles=ROLE,…",
		Short: "Add a person, who is invited to choose a password",
		Example: `  dtctl users add alice --roles=access,editor --logins=root,ubuntu
  dtctl users add bob --roles=access --password-stdin < password.txt`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringSliceVar(&req.Roles, "roles", nil, "roles, separated by commas")
	c.Flags().StringSliceVar(&req.Logins, "logins", nil, "accounts on servers, separated by commas: what {{internal.logins}} in a role stands for")
	fromStdin := c.Flags().Bool("password-stdin", false, "take the password from the first line of stdin instead of inviting")
	ttl := addTTL(c, "ttl", "how long the invite is good (default 1h)")
	c.MarkFlagsMutuallyExclusive("password-stdin", "ttl")
	require(c, "roles")
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req.Name, req.Ttl = args[0], ttl.wire()
		if *fromStdin {
			password, err := a.ReadPasswordStdin(cmd.Context(), "Enter a password for "+cli.Safe(args[0])+": ")
			if err != nil {
				return fmt.Errorf("no password: %w", err)
			}
			req.Password = &password
		}
		services, err := a.services()
		if err != nil {
			return err
		}
		resp, err := services.Admin.AddUser(cmd.Context(), connect.NewRequest(req))
		if err != nil {
			return err
		}
		return a.printInvite(*format, resp.Msg, "has been created")
	}
	return c
}

func (a *app) usersReset() *cobra.Command {
	c := &cobra.Command{
		Use:     "reset NAME",
		Short:   "Void a person's password and logins, and invite anew",
		Example: `  dtctl users reset alice --ttl=24h`,
		Args:    cobra.ExactArgs(1),
	}
	ttl := addTTL(c, "ttl", "how long the invite is good (default 1h)")
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		services, err := a.services()
		if err != nil {
			return err
		}
		resp, err := services.Admin.ResetUser(cmd.Context(), connect.NewRequest(
			&dtv1.ResetUserRequest{Name: args[0], Ttl: ttl.wire()}))
		if err != nil {
			return err
		}
		return a.printInvite(*format, resp.Msg, "has been reset")
	}
	return c
}

// invite is an invite as JSON; only user is there where a password was given.
type invite struct {
	User    string     `json:"user"`
	Token   string     `json:"invite_token,omitempty"`
	URL     string     `json:"invite_url,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	Proxy   string     `json:"proxy,omitempty"`
	CAPins  []string   `json:"ca_pins,omitempty"`
}

func (a *app) printInvite(format cli.Format, i *dtv1.Invite, happened string) error {
	if format != cli.Text {
		return cli.Write(a.Stdout, format, invite{
			User: i.GetUser(), Token: i.GetToken(), URL: i.GetUrl(), Expires: utc(i.GetExpires()),
			Proxy: i.GetProxy(), CAPins: i.GetCaPins(),
		})
	}
	if i.GetToken() == "" {
		return a.say("User %q %s.", i.GetUser(), happened)
	}
	words := append([]string{"dtsh", "passwd", "--invite=" + i.GetToken(), "--proxy=" + i.GetProxy()}, pins(i.GetCaPins())...)
	words = append(words, "--user="+i.GetUser())
	return a.say(`User %q %s and needs a password.
Send this link to its owner, who can choose one until %s:
%s

Or, on a terminal:
%s`, i.GetUser(), happened, a.Time(i.GetExpires().AsTime()), i.GetUrl(), commandLine(words...))
}

func (a *app) usersLs() *cobra.Command {
	c := &cobra.Command{
		Use:     "ls",
		Short:   "List people",
		Example: `  dtctl users ls --format=json`,
		Args:    cobra.NoArgs,
	}
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.list(cmd.Context(), resource.KindUser, *format)
	}
	return c
}

func (a *app) usersRm() *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME",
		Short:   "Remove a person; what they are logged in to ends at once",
		Example: `  dtctl users rm alice`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.delete(cmd.Context(), reference{resource.KindUser, args[0]}); err != nil {
				return err
			}
			return a.say("User %q has been deleted", args[0])
		},
	}
}

// pins are the flags by which a program knows the cluster's authorities.
func pins(all []string) []string {
	flags := make([]string, 0, len(all))
	for _, pin := range all {
		flags = append(flags, "--ca-pin="+pin)
	}
	return flags
}

// commandLine joins words to a line that a POSIX shell splits into the same
// words again.
func commandLine(words ...string) string {
	quoted := make([]string, 0, len(words))
	for _, w := range words {
		if w == "" || strings.ContainsFunc(w, needsQuotes) {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		quoted = append(quoted, w)
	}
	return strings.Join(quoted, " ")
}

func needsQuotes(r rune) bool {
	return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=:.,/@+", r)
}
