package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api/dtv1"
	"devicetrust/cmd/internal/cli"
	"devicetrust/resource"
)

func (a *app) devicesLs() *cobra.Command {
	req := &dtv1.ListDevicesRequest{}
	c := &cobra.Command{
		Use:   "ls",
		Short: "List devices",
		Long:  `List devices by asset tag, all of them or those that fit every flag given.`,
		Example: `  dtctl devices ls -v
  dtctl devices ls --os=macos --enroll-status=not-enrolled
  dtctl devices ls --owner=alice --format=json
  dtctl devices ls --source=jamf --asset-tag-prefix=C00 --limit=20
  dtctl devices ls --attestation=tpm_ekcert_trusted
  dtctl devices ls --not-seen-for=30d
  dtctl devices ls --frozen -v`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&req.OsType, "os", "", "only with this operating system: linux, macos or windows")
	status := c.Flags().String("enroll-status", "", "only with this status: enrolled or not-enrolled")
	c.Flags().StringVar(&req.Owner, "owner", "", "only those of this user")
	c.Flags().StringVar(&req.Source, "source", "", "only those that came from there, as manual or jamf")
	c.Flags().StringVar(&req.AssetTagPrefix, "asset-tag-prefix", "", "only those whose tag begins with it")
	c.Flags().StringVar(&req.Attestation, "attestation", "", "only those that enrolled with it: "+strings.Join(attestations(), ", "))
	unseen := c.Flags().String("not-seen-for", "", "only those that have not logged in for so long (12h, 30d); also those that never did")
	c.Flags().BoolVar(&req.FrozenOnly, "frozen", false, "only those that are frozen")
	limit := c.Flags().Uint("limit", 0, "at most so many; 0 is all")
	verbose := c.Flags().BoolP("verbose", "v", false, "also show source, owner, attestation and when it was last seen")
	format := cli.AddFormat(c, cli.Text)
	complete(c, "os", systems()...)
	complete(c, "enroll-status", "enrolled", "not-enrolled")
	complete(c, "attestation", attestations()...)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkSystem(req.OsType); req.OsType != "" && err != nil {
			return err
		}
		var err error
		if req.EnrollStatus, err = parseEnrollStatus(*status); err != nil {
			return err
		}
		if req.Attestation != "" && !slices.Contains(attestations(), req.Attestation) {
			return cli.Usagef("--attestation=%s: want one of %s", req.Attestation, strings.Join(attestations(), ", "))
		}
		if *unseen != "" {
			since, err := parseSince(*unseen, a.Now())
			if err != nil {
				return cli.Usagef("--not-seen-for=%s: %v", *unseen, err)
			}
			req.NotSeenSince = timestamppb.New(since)
		}
		p := &printer{app: a, format: *format, kind: resource.KindDevice, wide: *verbose}
		more, err := a.listDevices(cmd.Context(), req, *limit, p)
		if err != nil {
			return err
		}
		if err := p.end(); err != nil || !more {
			return err
		}
		_, err = fmt.Fprintf(a.Stderr, "There are more devices: --limit=0 lists all.\n")
		return err
	}
	return c
}

func attestations() []string {
	return []string{"tpm_ekpub", "tpm_ekcert", "tpm_ekcert_trusted", "macos_key"}
}

// parseEnrollStatus takes the words of people and of resources.
func parseEnrollStatus(s string) (string, error) {
	switch strings.NewReplacer("-", "_", " ", "_").Replace(s) {
	case "":
		return "", nil
	case resource.Enrolled:
		return resource.Enrolled, nil
	case resource.NotEnrolled:
		return resource.NotEnrolled, nil
	}
	return "", cli.Usagef("--enroll-status=%s: want enrolled or not-enrolled", s)
}

// devicesPerCall is what the server gives at most.
const devicesPerCall = 1000

// listDevices gives p the devices page by page, limit of them or, where that
// is 0, all. It tells whether there are more.
func (a *app) listDevices(ctx context.Context, req *dtv1.ListDevicesRequest, limit uint, p *printer) (more bool, err error) {
	services, err := a.services()
	if err != nil {
		return false, err
	}
	for {
		req.PageSize = devicesPerCall
		if limit > 0 {
			req.PageSize = int32(min(limit-uint(p.count), devicesPerCall))
		}
		resp, err := services.Device.ListDevices(ctx, connect.NewRequest(req))
		if err != nil {
			return false, err
		}
		page, err := parseAnswers(resp.Msg.GetDevices())
		if err != nil {
			return false, err
		}
		if err := p.page(page); err != nil {
			return false, err
		}
		req.PageToken = resp.Msg.GetNextPageToken()
		if full := limit > 0 && uint(p.count) >= limit; full || req.PageToken == "" {
			return req.PageToken != "", nil
		}
	}
}

// printer prints resources of one kind as they come: an array, YAML documents
// that create takes, or in the end a table.
type printer struct {
	*app
	format cli.Format
	kind   string
	// wide adds what devices ls -v and nodes ls -v show.
	wide  bool
	count int
	rows  [][]string
}

func (p *printer) page(all []resource.Resource) error {
	for _, r := range all {
		if err := p.print(r); err != nil {
			return err
		}
		p.count++
	}
	return nil
}

func (p *printer) print(r resource.Resource) (err error) {
	switch p.format {
	case cli.JSON:
		return p.element(r)
	case cli.YAML:
		return p.document(r)
	case cli.Text:
	}
	row := p.row(r)
	if p.wide {
		if row, err = p.wideRow(r); err != nil {
			return err
		}
	}
	p.rows = append(p.rows, row)
	return nil
}

// document is r in a stream of them.
func (p *printer) document(r resource.Resource) error {
	text, err := resource.MarshalYAML(r)
	if err != nil {
		return err
	}
	if p.count > 0 {
		text = append([]byte("---\n"), text...)
	}
	_, err = p.Stdout.Write(text)
	return err
}

// element is r in an array, as cli.Write would print it.
func (p *printer) element(r resource.Resource) error {
	doc, err := resource.MarshalJSON(r)
	if err != nil {
		return err
	}
	text := bytes.NewBufferString(",\n  ")
	if p.count == 0 {
		text = bytes.NewBufferString("[\n  ")
	}
	if err := json.Indent(text, doc, "  ", "  "); err != nil {
		return err
	}
	_, err = p.Stdout.Write(text.Bytes())
	return err
}

func (p *printer) end() error {
	switch {
	case p.format == cli.JSON && p.count == 0:
		return cli.Write(p.Stdout, p.format, []any{})
	case p.format == cli.JSON:
		_, err := io.WriteString(p.Stdout, "\n]\n")
		return err
	case p.format == cli.YAML:
		return nil // without resources, a stream without documents
	case p.count == 0:
		return p.say("No %s found", plural(p.kind))
	}
	titles := headers(p.kind)
	if p.wide {
		titles = append(titles, wideHeaders(p.kind)...)
	}
	return cli.Table(p.Stdout, titles, p.rows)
}

func wideHeaders(kind string) []string {
	if kind == resource.KindNode {
		return []string{"Enforcer", "Change", "Confirmed"}
	}
	return []string{"Source", "Owner", "Attestation", "Last Seen"}
}

// wideRow of a device that is frozen says so where it says that it is enrolled.
func (p *printer) wideRow(r resource.Resource) ([]string, error) {
	if n, ok := r.(*resource.Node); ok && p.kind == resource.KindNode {
		return p.wideNode(n), nil
	}
	d, ok := r.(*resource.Device)
	if !ok || p.kind != resource.KindDevice {
		return nil, fmt.Errorf("the server sent a %s among the %s", r.Head().Kind, plural(p.kind))
	}
	var source, attestation string
	if s := d.Spec.Source; s != nil {
		source = s.Name
	}
	if c := d.Spec.Credential; c != nil {
		attestation = c.DeviceAttestationType
	}
	row := append(p.row(r), source, d.Spec.Owner, attestation, p.Time(d.Spec.LastSeenTime))
	if d.Spec.Frozen != nil {
		row[2] += ", frozen"
	}
	return row, nil
}
