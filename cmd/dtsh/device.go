package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"devicetrust/api/dtv1"
	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
	"devicetrust/resource"
)

func (a *app) deviceCommand() *cobra.Command {
	c := &cobra.Command{Use: "device", Short: "Enroll this device, see what it reports, and what it lacks", Example: "  dtsh device enroll --current-device\n  dtsh device status"}
	c.AddCommand(a.enrollCommand(), a.assetTagCommand(), a.collectCommand(), a.deviceStatusCommand())
	return c
}

func (a *app) enrollCommand() *cobra.Command {
	var token string
	var current bool
	c := &cobra.Command{
		Use:   "enroll",
		Short: "Enroll this device: prove its TPM to the cluster",
		Long: `Enroll this device in the cluster that you are logged in to, with a token that an
administrator made for it, or, where your roles allow it, registering it on the
way. Logins afterwards are those of a trusted device.`,
		Example: `  dtsh device enroll --token=TOKEN
  dtsh device enroll --current-device`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			if current == (token != "") {
				return cli.Usagef("want either --token=TOKEN or --current-device")
			}
			return a.enroll(c, token)
		},
	}
	c.Flags().StringVar(&token, "token", "", "enrollment token of dtctl devices enroll")
	c.Flags().BoolVar(&current, "current-device", false, "register this device, and enroll it")
	return c
}

func (a *app) enroll(c *cobra.Command, token string) error {
	p, err := a.login()
	if err != nil {
		return err
	}
	home, err := a.home()
	if err != nil {
		return err
	}
	m := a.machine(home)
	a.Progress("Asking the TPM…")
	var device resource.Device
	what := "enrolled"
	if token != "" {
		device, err = m.Enroll(c.Context(), p, token, a.options())
	} else {
		what = "registered and enrolled"
		device, err = m.EnrollCurrent(c.Context(), p, a.options())
	}
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(a.Stdout, "Device \"%s\"/%s %s\n", cli.Safe(device.Spec.AssetTag), osName(device.Spec.OSType), what); err != nil {
		return err
	}
	fmt.Fprintln(a.Stderr, "Log in again to get certificates of a trusted device: dtsh login")
	return nil
}

// osName is how people write a system that the API knows.
func osName(os string) string {
	switch os {
	case "linux":
		return "Linux"
	case "macos":
		return "macOS"
	case "windows":
		return "Windows"
	}
	return cli.Safe(os)
}

func (a *app) assetTagCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "asset-tag",
		Short:             "Print the asset tag that this device would be registered by",
		Example:           "  dtsh device asset-tag",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			m := a.machine(nil)
			tag, err := m.AssetTag(c.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Stdout, tag)
			return err
		},
	}
}

func (a *app) collectCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "collect",
		Short: "Print what this device reports of itself",
		Long: `Print what this device reports of itself at enrollments and logins, under the
names that dtctl get device/TAG shows it under.`,
		Example:           "  dtsh device collect\n  dtsh device collect --format=json",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(c *cobra.Command, _ []string) error {
		m := a.machine(nil)
		data, err := m.Collect(c.Context())
		if err != nil {
			return err
		}
		if *format == cli.Text {
			*format = cli.YAML
		}
		return cli.Write(a.Stdout, *format, collected(data))
	}
	return c
}

func (a *app) deviceStatusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Say what keeps logins on this device from being trusted, and what to do",
		Long: `Look at all that a login of a trusted device needs, from the TPM to the
certificate, and print a line for each: ok, FAIL with what to do about it, or --
for what is only worth knowing or could not be looked at. Nothing is changed.

The exit status is 0 where nothing is at fault, else 1. Without a login only the
machine itself is looked at.`,
		Example:           "  dtsh device status\n  dtsh device status --format=json",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(c *cobra.Command, _ []string) error {
		home, err := a.home()
		if err != nil {
			return err
		}
		p, err := home.Profile(a.namedProxy())
		if err != nil && !errors.Is(err, client.ErrNotLoggedIn) {
			return err
		}
		m := a.machine(home)
		findings := cli.Findings(m.Diagnose(c.Context(), p, a.options()))
		if a.autoEnrollDisabled() {
			noAutoEnroll(findings)
		}
		if err := c.Context().Err(); err != nil {
			return context.Cause(c.Context())
		}
		if *format == cli.Text {
			err = cli.WriteFindings(a.Stdout, findings)
		} else {
			err = cli.Write(a.Stdout, *format, findings)
		}
		if err == nil && slices.ContainsFunc(findings, func(f cli.Finding) bool { return f.State == "fault" }) {
			err = &cli.ExitError{Status: 1}
		}
		return err
	}
	return c
}

// noAutoEnroll corrects what the server cannot know: that this machine does not
// let itself be enrolled.
func noAutoEnroll(findings []cli.Finding) {
	for i, f := range findings {
		if f.Name == "auto_enroll" && f.State == "ok" {
			findings[i] = cli.Finding{
				Name: f.Name, State: "note", Detail: "the next login does not enroll it: DTSH_DEVICE_AUTO_ENROLL_DISABLED is set here",
				Remedy: "Unset it, and log in again: dtsh login",
			}
		}
	}
}

// collected names the fields as the device's resource does.
func collected(d *dtv1.DeviceData) resource.CollectedData {
	return resource.CollectedData{
		CollectTime:           d.GetCollectTime().AsTime().UTC().Truncate(time.Second),
		OSType:                d.GetOsType(),
		AssetTag:              d.GetAssetTag(),
		OSID:                  d.GetOsId(),
		OSVersion:             d.GetOsVersion(),
		OSBuild:               d.GetOsBuild(),
		KernelVersion:         d.GetKernelVersion(),
		Hostname:              d.GetHostname(),
		ModelIdentifier:       d.GetModelIdentifier(),
		SerialNumber:          d.GetSerialNumber(),
		ReportedAssetTag:      d.GetReportedAssetTag(),
		SystemSerialNumber:    d.GetSystemSerialNumber(),
		BaseBoardSerialNumber: d.GetBaseBoardSerialNumber(),
		TPMManufacturer:       d.GetTpmManufacturer(),
		TPMFirmware:           d.GetTpmFirmware(),
		OSUsername:            d.GetOsUsername(),

		JamfBinaryVersion:       d.GetJamfBinaryVersion(),
		MacOSEnrollmentProfiles: d.GetMacosEnrollmentProfiles(),
	}
}
