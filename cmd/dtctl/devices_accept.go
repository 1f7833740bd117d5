package main

import (
	"encoding/json"
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api/dtv1"
	"devicetrust/cmd/internal/cli"
	"devicetrust/resource"
)

func (a *app) devicesAccept() *cobra.Command {
	c := &cobra.Command{
		Use:   "accept [DEVICE]",
		Short: "Take what a device last showed as what it should show",
		Long: `Take the PCRs and counters that a device last showed, also in a login that was
refused, as what it should show from now on, and let it in again where it was
frozen: after an update of its firmware or boot loader, or after its TPM was
cleared. What is different from before is printed, and recorded.

Accept only what you know the reason of: a device that shows something else may
be another machine, or run something else.`,
		Example: `  dtctl devices accept PF0A0AAA
  dtctl devices accept --device-id=c9cbb327-68a8-497e-b820-6a4b2bf58269`,
		Args: cobra.MaximumNArgs(1),
	}
	ref := optionalDevice(c)
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		services, err := a.services()
		if err != nil {
			return err
		}
		named, err := a.deviceNamed(cmd.Context(), services, ref, args)
		if err != nil {
			return err
		}
		if named == nil {
			return errWhichDevice
		}
		resp, err := services.Device.AcceptDevice(cmd.Context(), connect.NewRequest(&dtv1.AcceptDeviceRequest{Device: named}))
		if err != nil {
			return err
		}
		return a.printAccepted(*format, resp.Msg)
	}
	return c
}

func (a *app) printAccepted(format cli.Format, resp *dtv1.AcceptDeviceResponse) error {
	r, err := parseAnswer(resp.GetDevice())
	if err != nil {
		return err
	}
	if format != cli.Text {
		return cli.Write(a.Stdout, format, struct {
			Device  json.RawMessage `json:"device"`
			Changes []string        `json:"changes"`
		}{resp.GetDevice(), append([]string{}, resp.GetChanges()...)})
	}
	for _, change := range resp.GetChanges() {
		if err := a.say("%s", cli.Safe(change)); err != nil {
			return err
		}
	}
	tag := r.Head().Metadata.Name
	if d, ok := r.(*resource.Device); ok {
		tag = d.Spec.AssetTag
	}
	if len(resp.GetChanges()) == 0 {
		fmt.Fprintln(a.Stderr, "It has shown nothing that is different from before: a device shows at a login, also at one that is refused.")
	}
	return a.say("Device %q accepted", tag)
}
