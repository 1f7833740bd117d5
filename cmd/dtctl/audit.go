package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
)

func (a *app) audit() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Read and verify the audit record", Example: `  dtctl audit ls --since=24h --failed
  dtctl audit verify`}
	c.AddCommand(a.auditLs(), a.auditVerify())
	return c
}

func (a *app) auditLs() *cobra.Command {
	req := &dtv1.ListAuditRequest{}
	c := &cobra.Command{
		Use:   "ls",
		Short: "List audit records, oldest first",
		Example: `  dtctl audit ls --since=24h --failed
  dtctl audit ls --type=device.enroll --user=alice --format=json
  dtctl audit ls --type=sftp --since=1h`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&req.Type, "type", "", "only this event, by its name (device.enroll) or title (Device Enrolled)")
	c.Flags().StringVar(&req.User, "user", "", "only what this user did")
	since := c.Flags().String("since", "", "only what is younger: a duration (30m, 24h, 7d) or a time (2026-01-31T18:00:00Z)")
	c.Flags().BoolVar(&req.Failed, "failed", false, "only what failed or was refused")
	limit := c.Flags().Uint("limit", 1000, "at most so many, the newest; 0 is all")
	verbose := c.Flags().BoolP("verbose", "v", false, "show the reasons of all, not only of what failed and of sessions: what was decided by, and what changed")
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		req.Type = string(event.Named(req.GetType()))
		if *since != "" {
			from, err := parseSince(*since, a.Now())
			if err != nil {
				return cli.Usagef("--since=%s: %v", *since, err)
			}
			req.Since = timestamppb.New(from)
		}
		services, err := a.services()
		if err != nil {
			return err
		}
		events, more, err := newestEvents(cmd.Context(), services, req, *limit)
		if err != nil {
			return err
		}
		if more && !cmd.Flags().Changed("limit") {
			fmt.Fprintf(a.Stderr, "Only the newest %d records are listed: --limit=0 lists all.\n", *limit)
		}
		return a.printEvents(*format, events, *verbose)
	}
	return c
}

// newestEvents gives the newest limit records (0: all) that req chooses,
// oldest first, page by page; more tells whether there may be older ones.
func newestEvents(ctx context.Context, services client.Services, req *dtv1.ListAuditRequest, limit uint) (events [][]byte, more bool, err error) {
	var pages [][][]byte
	for left := limit; ; {
		req.Limit = int32(min(left, math.MaxInt32))
		resp, err := services.Admin.ListAudit(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, false, err
		}
		page := resp.Msg.GetEvents()
		pages = append(pages, page)
		req.Before = resp.Msg.GetBefore()
		left -= min(left, uint(len(page)))
		if req.Before == 0 || len(page) == 0 || limit != 0 && left == 0 {
			slices.Reverse(pages)
			return slices.Concat(pages...), req.Before != 0, nil
		}
	}
}

// parseSince reads a time, or how long before now.
func parseSince(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return time.Time{}, errors.New("want a duration such as 24h or 7d, or a time such as 2026-01-31T18:00:00Z")
	}
	return now.Add(-d), nil
}

func (a *app) printEvents(format cli.Format, docs [][]byte, verbose bool) error {
	if format != cli.Text {
		all := make([]json.RawMessage, 0, len(docs))
		for _, d := range docs {
			all = append(all, d)
		}
		return cli.Write(a.Stdout, format, all)
	}
	if len(docs) == 0 {
		return a.say("No events found")
	}
	rows := make([][]string, 0, len(docs))
	for _, d := range docs {
		var e event.Event
		if err := json.Unmarshal(d, &e); err != nil {
			return fmt.Errorf("cannot read an event that the server sent: %w", err)
		}
		result := "failure"
		if e.Success {
			result = "success"
		}
		about := details(e)
		// What failed is what somebody looks for, and in a session's record
		// there is a reason only where something is missing.
		if (verbose || !e.Success || event.FromNode(e.Type)) && len(e.Reasons) > 0 {
			about = strings.TrimSpace(about + " (" + strings.Join(e.Reasons, "; ") + ")")
		}
		rows = append(rows, []string{a.Time(e.Time), string(e.Type), e.User, result, about})
	}
	return cli.Table(a.Stdout, []string{"Time", "Event", "User", "Result", "Details"}, rows)
}

// details is what a person looks for first; JSON has all of it.
func details(e event.Event) string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+"="+value)
		}
	}
	device := e.Device
	if device == nil {
		device = e.TrustedDevice
	}
	if device != nil && device.AssetTag != "" {
		add("device", device.AssetTag)
	} else if device != nil {
		add("device", device.DeviceID)
	}
	add("login", e.Login)
	add("node", e.NodeName)
	add(cmp.Or(e.Kind, "name"), e.Name)
	add("from", e.RemoteAddr)
	add("action", e.Action)
	add("path", e.Path)
	add("to", cmp.Or(e.TargetPath, e.Addr))
	add("command", e.Command)
	if e.ExitStatus != nil {
		add("exit", strconv.Itoa(*e.ExitStatus))
	}
	if e.BytesIn != nil {
		add("in", strconv.FormatInt(*e.BytesIn, 10))
	}
	if e.Bytes != nil {
		add("out", strconv.FormatInt(*e.Bytes, 10))
	}
	if e.Message != "" {
		parts = append(parts, e.Message)
	}
	return strings.Join(parts, " ")
}

func (a *app) auditVerify() *cobra.Command {
	c := &cobra.Command{
		Use:     "verify",
		Short:   "Prove that no audit record was removed or changed",
		Example: `  dtctl audit verify`,
		Args:    cobra.NoArgs,
	}
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		services, err := a.services()
		if err != nil {
			return err
		}
		resp, err := services.Admin.VerifyAudit(cmd.Context(), connect.NewRequest(&dtv1.VerifyAuditRequest{}))
		if err != nil {
			return err
		}
		return a.printVerification(*format, resp.Msg)
	}
	return c
}

func (a *app) printVerification(format cli.Format, v *dtv1.VerifyAuditResponse) error {
	if format != cli.Text {
		err := cli.Write(a.Stdout, format, struct {
			Intact  bool   `json:"intact"`
			Records uint64 `json:"records"`
			Problem string `json:"problem,omitempty"`
		}{v.GetIntact(), v.GetRecords(), v.GetProblem()})
		if err != nil {
			return err
		}
	}
	if !v.GetIntact() {
		return &auditBroken{v.GetProblem()}
	}
	if format != cli.Text {
		return nil
	}
	return a.say("The audit record is intact: %d records, none removed or changed", v.GetRecords())
}

// auditBroken: the chain of records does not hold.
type auditBroken struct{ problem string }

var _ cli.Hinter = (*auditBroken)(nil)

func (e *auditBroken) Error() string {
	return "the audit record has been tampered with: " + cmp.Or(e.problem, "the server does not say where")
}

func (e *auditBroken) Hint() string {
	return "Keep the database as it is and compare it with a backup: whoever could write to it may have changed more."
}
