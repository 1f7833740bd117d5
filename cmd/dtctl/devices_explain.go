package main

import (
	"bytes"
	"encoding/json"
	"errors"
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

func (a *app) devicesExplain() *cobra.Command {
	c := &cobra.Command{
		Use:   "explain [DEVICE] --user=USER",
		Short: "Say whether somebody's next login would enroll a device, and why not",
		Long: `Ask whether auto-enrollment would enroll a device, named by its asset tag or ID,
at the next login of a user, and print each of its conditions. Nothing is
changed.

Its profile is held against what the device last reported, or, with
--collected, against a report of the device: what dtsh device collect
--format=json prints there. The exit status is 0 whatever the answer.`,
		Example: `  dtctl devices explain C00AA0AAAA0A --user=alice
  dtctl devices explain C00AA0AAAA0A --user=alice --collected=report.json`,
		Args: cobra.MaximumNArgs(1),
	}
	ref, req := optionalDevice(c), &dtv1.ExplainAutoEnrollRequest{}
	c.Flags().StringVar(&req.User, "user", "", "name of the user who logs in")
	collected := c.Flags().String("collected", "", "file with what the device reports; - is standard input")
	require(c, "user")
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if *collected != "" {
			var err error
			if req.Reported, err = a.readReport(*collected); err != nil {
				return err
			}
		}
		services, err := a.services()
		if err != nil {
			return err
		}
		if req.Device, err = a.deviceNamed(cmd.Context(), services, ref, args); err != nil {
			return err
		}
		if req.Device == nil {
			return errWhichDevice
		}
		resp, err := services.Device.ExplainAutoEnroll(cmd.Context(), connect.NewRequest(req))
		if err != nil {
			return err
		}
		return a.printAutoEnroll(*format, given(ref)+strings.Join(args, ""), req.GetUser(), resp.Msg)
	}
	return c
}

// readReport reads what dtsh device collect --format=json printed.
func (a *app) readReport(name string) (*dtv1.DeviceData, error) {
	text, err := a.readFile(name)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	var r resource.CollectedData
	if err := dec.Decode(&r); err != nil {
		return nil, cannot("use", name, errors.New("it is not what dtsh device collect --format=json prints"))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, cannot("use", name, errors.New("want one report"))
	}
	return &dtv1.DeviceData{
		OsType: r.OSType, AssetTag: r.AssetTag, CollectTime: timestamppb.New(r.CollectTime),
		OsId: r.OSID, OsVersion: r.OSVersion, OsBuild: r.OSBuild, KernelVersion: r.KernelVersion,
		Hostname: r.Hostname, ModelIdentifier: r.ModelIdentifier, SerialNumber: r.SerialNumber,
		ReportedAssetTag: r.ReportedAssetTag, SystemSerialNumber: r.SystemSerialNumber, BaseBoardSerialNumber: r.BaseBoardSerialNumber,
		TpmManufacturer: r.TPMManufacturer, TpmFirmware: r.TPMFirmware, OsUsername: r.OSUsername,
		JamfBinaryVersion: r.JamfBinaryVersion, MacosEnrollmentProfiles: r.MacOSEnrollmentProfiles,
	}, nil
}

func (a *app) printAutoEnroll(format cli.Format, device, user string, e *dtv1.ExplainAutoEnrollResponse) error {
	findings := cli.Findings(e.GetFindings())
	if format != cli.Text {
		return cli.Write(a.Stdout, format, struct {
			WouldEnroll bool          `json:"would_enroll"`
			Findings    []cli.Finding `json:"findings"`
		}{e.GetWouldEnroll(), findings})
	}
	would := "might" // what was not compared, nobody knows
	switch {
	case e.GetWouldEnroll():
		would = "would"
	case slices.ContainsFunc(findings, func(f cli.Finding) bool { return f.State == "fault" }):
		would = "would not"
	}
	if err := a.say("%s %s be enrolled by %s's next login", device, would, user); err != nil {
		return err
	}
	return cli.WriteFindings(a.Stdout, findings)
}
