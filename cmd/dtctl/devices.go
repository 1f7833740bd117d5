package main

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api/dtv1"
	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
	"devicetrust/policy"
)

func (a *app) devices() *cobra.Command {
	c := &cobra.Command{Use: "devices", Short: "Register, list, enroll, evaluate, lock and remove devices", Example: `  dtctl devices add --os=linux --asset-tag=PF0A0AAA --enroll
  dtctl devices ls`}
	c.AddCommand(a.devicesAdd(), a.devicesLs(), a.devicesEnroll(), a.devicesRm(), a.devicesLock(),
		a.devicesAccept(), a.devicesEvaluate(), a.devicesExplain())
	return c
}

func (a *app) devicesAdd() *cobra.Command {
	req := &dtv1.AddDeviceRequest{}
	c := &cobra.Command{
		Use:   "add",
		Short: "Register a device",
		Example: `  dtctl devices add --os=macos --asset-tag=C00AA0AAAA0A
  dtctl devices add --os=linux --asset-tag=PF0A0AAA --enroll --enroll-ttl=24h
  dtctl devices add --current-device`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&req.OsType, "os", "", "operating system: linux, macos or windows")
	c.Flags().StringVar(&req.AssetTag, "asset-tag", "", "asset tag, usually the serial number (on the device: dtsh device asset-tag)")
	current := c.Flags().Bool("current-device", false, "register the machine that this runs on")
	c.Flags().BoolVar(&req.Enroll, "enroll", false, "also make a token with which the device can enroll")
	ttl := addTTL(c, "enroll-ttl", "how long that token is good (default 1h)")
	complete(c, "os", systems()...)
	c.MarkFlagsRequiredTogether("os", "asset-tag")
	c.MarkFlagsOneRequired("current-device", "os")
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if *ttl != 0 && !req.Enroll {
			return cli.Usagef("--enroll-ttl without --enroll")
		}
		if *current {
			if err := a.describeCurrent(cmd.Context(), req); err != nil {
				return err
			}
		}
		if err := checkSystem(req.OsType); err != nil {
			return err
		}
		req.EnrollTtl = ttl.wire()
		services, err := a.services()
		if err != nil {
			return err
		}
		resp, err := services.Device.AddDevice(cmd.Context(), connect.NewRequest(req))
		if err != nil {
			return err
		}
		return a.printAdded(*format, req, resp.Msg)
	}
	return c
}

func systems() []string { return []string{"linux", "macos", "windows"} }

func checkSystem(os string) error {
	if !slices.Contains(systems(), os) {
		return cli.Usagef("unknown operating system %q: want linux, macos or windows", os)
	}
	return nil
}

// describeCurrent fills in what this machine calls itself, by the variables
// that dtsh goes by; where that was given too, it must be right.
func (a *app) describeCurrent(ctx context.Context, req *dtv1.AddDeviceRequest) error {
	m := &client.Machine{DMIDir: a.Getenv("DTSH_DMI_DIR"), Chip: client.NewChip(a.Getenv("DTSH_TPM")), Now: a.Now}
	data, err := m.Collect(ctx)
	if err != nil {
		return err
	}
	os, tag := data.GetOsType(), data.GetAssetTag()
	if req.OsType != "" && (req.OsType != os || req.AssetTag != tag) {
		return cli.Usagef("this machine is %s/%s, and not %s/%s", tag, os, req.AssetTag, req.OsType)
	}
	req.OsType, req.AssetTag = os, tag
	return nil
}

func (a *app) printAdded(format cli.Format, req *dtv1.AddDeviceRequest, resp *dtv1.AddDeviceResponse) error {
	if format == cli.Text {
		if err := a.say("Device %s/%s added to the inventory", req.GetAssetTag(), req.GetOsType()); err != nil {
			return err
		}
		if resp.GetToken() == nil {
			return nil
		}
		return a.printEnrollToken(format, resp.GetToken())
	}
	return cli.Write(a.Stdout, format, struct {
		Device       json.RawMessage `json:"device"`
		*enrollToken                 // only with --enroll
	}{resp.GetDevice(), tokenOf(resp.GetToken())})
}

// deviceFlags adds the two ways to name a device, of which one is needed.
func deviceFlags(c *cobra.Command) *dtv1.DeviceRef {
	ref := optionalDevice(c)
	c.MarkFlagsOneRequired("asset-tag", "device-id")
	return ref
}

func given(ref *dtv1.DeviceRef) string { return cmp.Or(ref.GetAssetTag(), ref.GetDeviceId()) }

func (a *app) devicesEnroll() *cobra.Command {
	c := &cobra.Command{
		Use:     "enroll",
		Short:   "Make a token with which a registered device can enroll",
		Example: `  dtctl devices enroll --asset-tag=C00AA0AAAA0A --ttl=24h`,
		Args:    cobra.NoArgs,
	}
	ref := deviceFlags(c)
	ttl := addTTL(c, "ttl", "how long the token is good (default 1h)")
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		services, err := a.services()
		if err != nil {
			return err
		}
		resp, err := services.Device.CreateEnrollToken(cmd.Context(), connect.NewRequest(
			&dtv1.CreateEnrollTokenRequest{Device: ref, Ttl: ttl.wire()}))
		if err != nil {
			return err
		}
		return a.printEnrollToken(*format, resp.Msg)
	}
	return c
}

// enrollToken is an enrollment token as JSON.
type enrollToken struct {
	Token    string     `json:"token"`
	AssetTag string     `json:"asset_tag"`
	DeviceID string     `json:"device_id"`
	Expires  *time.Time `json:"expires"`
}

func tokenOf(t *dtv1.EnrollToken) *enrollToken {
	if t == nil {
		return nil
	}
	return &enrollToken{t.GetToken(), t.GetAssetTag(), t.GetDeviceId(), utc(t.GetExpires())}
}

func (a *app) printEnrollToken(format cli.Format, t *dtv1.EnrollToken) error {
	if format != cli.Text {
		return cli.Write(a.Stdout, format, tokenOf(t))
	}
	return a.say("Run the command below on device %q to enroll it:\n%s", t.GetAssetTag(),
		commandLine("dtsh", "device", "enroll", "--token="+t.GetToken()))
}

func (a *app) devicesRm() *cobra.Command {
	c := &cobra.Command{
		Use:   "rm",
		Short: "Remove a device; access with it ends at once",
		Example: `  dtctl devices rm --asset-tag=C00AA0AAAA0A
  dtctl devices rm --device-id=c9cbb327-68a8-497e-b820-6a4b2bf58269`,
		Args: cobra.NoArgs,
	}
	ref := deviceFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		services, err := a.services()
		if err != nil {
			return err
		}
		_, err = services.Device.RemoveDevice(cmd.Context(), connect.NewRequest(&dtv1.RemoveDeviceRequest{Device: ref}))
		if err != nil {
			return err
		}
		return a.say("Device %q removed", given(ref))
	}
	return c
}

func (a *app) devicesLock() *cobra.Command {
	c := &cobra.Command{
		Use:     "lock",
		Short:   "Keep a device out, for a time or until the lock is removed",
		Example: `  dtctl devices lock --asset-tag=C00AA0AAAA0A --message="lost on a train" --ttl=72h`,
		Args:    cobra.NoArgs,
	}
	ref := deviceFlags(c)
	terms := lockFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.createLock(cmd.Context(), policy.LockTarget{Device: given(ref)}, terms)
	}
	return c
}
