package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api"
	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
)

func (a *app) statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:               "status",
		Short:             "Show how you are logged in",
		Example:           "  dtsh status\n  dtsh status --format=json",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(*cobra.Command, []string) error { return a.runStatus(*format) }
	return c
}

func (a *app) runStatus(format cli.Format) error {
	p, err := a.login()
	if errors.Is(err, client.ErrNotLoggedIn) {
		// In text it is the status that was asked for; a reader of JSON wants
		// JSON or nothing.
		out := a.Stdout
		if format != cli.Text {
			out = a.Stderr
		}
		fmt.Fprintln(out, "Not logged in.")
		return &cli.ExitError{Status: 1}
	}
	if err != nil {
		return err
	}
	s, err := p.Status()
	if err != nil {
		return err
	}
	if format == cli.Text {
		err = a.printStatus(s)
	} else {
		err = cli.Write(a.Stdout, format, s)
	}
	if err != nil {
		return err
	}
	if !a.Now().Before(s.ValidUntil) {
		return api.Refuse(connect.CodeUnauthenticated, "the login of %s expired at %s", s.Username, a.Time(s.ValidUntil)).
			WithHint("Log in again with: dtsh login")
	}
	return nil
}

// keyText says where the private key is.
func keyText(k client.KeyStatus) string {
	if k.Kind == "tpm" {
		return "in this machine's TPM"
	}
	return "software (" + k.Path + ")"
}

// hidden extensions hold JSON that the block shows already.
var hidden = []string{"teleport-roles", "teleport-traits"}

// printStatus prints the block that users of Teleport know.
func (a *app) printStatus(s client.Status) error {
	until := s.ValidUntil.In(a.Location).Format("2006-01-02 15:04:05 -0700 MST")
	left := "EXPIRED"
	if d := s.ValidUntil.Sub(a.Now()); d > 0 {
		left = "valid for " + d.Round(time.Minute).String()
	}
	shown := slices.DeleteFunc(slices.Clone(s.Extensions), func(e string) bool { return slices.Contains(hidden, e) })
	var b strings.Builder
	for i, line := range [][2]string{
		{"Profile URL:", s.ProfileURL},
		{"Logged in as:", s.Username},
		{"Cluster:", s.Cluster},
		{"Roles:", strings.Join(s.Roles, ", ")},
		{"Logins:", strings.Join(s.Logins, ", ")},
		{"Kubernetes:", "disabled"},
		{"Valid until:", fmt.Sprintf("%s [%s]", until, left)},
		{"Extensions:", strings.Join(shown, ", ")},
		{"Key:", keyText(s.Key)},
	} {
		mark := "  "
		if i == 0 {
			mark = "> "
		}
		fmt.Fprintln(&b, strings.TrimRight(fmt.Sprintf("%s%-13s %s", mark, line[0], cli.Safe(line[1])), " "))
	}
	_, err := fmt.Fprint(a.Stdout, b.String())
	return err
}
