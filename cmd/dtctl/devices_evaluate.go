package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api/dtv1"
	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
	"devicetrust/policy"
	"devicetrust/resource"
)

func (a *app) devicesEvaluate() *cobra.Command {
	c := &cobra.Command{
		Use:   "evaluate [DEVICE]",
		Short: "Say which enrolled devices the policy would not let in",
		Long: `Verify the evidence that is kept of enrolled devices again, and hold it against
the cluster's preference: endorsement key certificates against
ekcert_allowed_cas, PCRs against pcr_policy, and whether a device is frozen.
With --preference, against that of a file, which need not be in force.

Nothing is changed, unless --lock is given, which locks each device that fails
and is not locked already for as long.
The exit status is 1 where one fails; with --lock, 0 once all those are locked.`,
		Example: `  dtctl devices evaluate
  dtctl devices evaluate PF0A0AAA
  dtctl devices evaluate --preference=next.yaml --format=json
  dtctl devices evaluate --lock --message="TPM of an unknown manufacturer"`,
		Args: cobra.MaximumNArgs(1),
	}
	ref := optionalDevice(c)
	preference := c.Flags().String("preference", "", "file with a cluster_auth_preference to hold the devices against")
	lock := c.Flags().Bool("lock", false, "lock each device that fails")
	terms := lockFlags(c)
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		for _, flag := range []string{"message", "ttl", "expires"} {
			if !*lock && cmd.Flags().Changed(flag) {
				return cli.Usagef("--%s without --lock", flag)
			}
		}
		req := &dtv1.EvaluateDevicesRequest{}
		if err := a.readPreference(req, *preference); err != nil {
			return err
		}
		services, err := a.services()
		if err != nil {
			return err
		}
		if req.Device, err = a.deviceNamed(cmd.Context(), services, ref, args); err != nil {
			return err
		}
		all, err := evaluate(cmd.Context(), services, req)
		if err != nil {
			return err
		}
		if *lock {
			return a.lockFailing(cmd.Context(), *format, all, terms)
		}
		if err := a.printEvaluations(*format, all); err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(e evaluation) bool { return !e.Passes }) {
			return &cli.ExitError{Status: 1}
		}
		return nil
	}
	return c
}

// optionalDevice adds the two ways to name a device, of which at most one is
// used; deviceNamed takes the third, an argument. An empty one is refused: the
// variable of a script that was not set does not mean all devices.
func optionalDevice(c *cobra.Command) *dtv1.DeviceRef {
	ref := &dtv1.DeviceRef{}
	c.Flags().StringVar(&ref.AssetTag, "asset-tag", "", "asset tag of the device")
	c.Flags().StringVar(&ref.DeviceId, "device-id", "", "ID of the device (see: dtctl devices ls)")
	c.MarkFlagsMutuallyExclusive("asset-tag", "device-id")
	c.PreRunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range []string{"asset-tag", "device-id"} {
			if f := cmd.Flags().Lookup(name); f.Changed && f.Value.String() == "" {
				return cli.Usagef("--%s is empty", name)
			}
		}
		return nil
	}
	return ref
}

var errWhichDevice = cli.Usagef("which device? Want its ID or asset tag")

// deviceNamed is nil where no device was named.
func (a *app) deviceNamed(ctx context.Context, services client.Services, ref *dtv1.DeviceRef, args []string) (*dtv1.DeviceRef, error) {
	flagged := given(ref) != ""
	switch {
	case len(args) == 0 && !flagged:
		return nil, nil
	case len(args) == 0:
		return ref, nil
	case flagged:
		return nil, cli.Usagef("name the device once")
	}
	d, err := fetch(ctx, services, reference{resource.KindDevice, args[0]})
	if err != nil {
		return nil, err
	}
	return &dtv1.DeviceRef{DeviceId: d.Head().Metadata.Name}, nil
}

// readPreference has the server read it: dtctl may be of another version.
func (a *app) readPreference(req *dtv1.EvaluateDevicesRequest, name string) error {
	if name == "" {
		return nil
	}
	text, err := a.readFile(name)
	if err != nil {
		return err
	}
	all, err := resource.ParseYAML(text)
	if err != nil {
		return cannot("use", name, err)
	}
	if len(all) != 1 || all[0].Head().Kind != resource.KindPreference {
		return cannot("use", name, fmt.Errorf("want one %s", resource.KindPreference))
	}
	req.Preference, err = resource.MarshalJSON(all[0])
	return err
}

// evaluation is an EvaluateDevicesResponse as JSON.
type evaluation struct {
	DeviceID      string   `json:"device_id"`
	AssetTag      string   `json:"asset_tag"`
	OSType        string   `json:"os_type"`
	Owner         string   `json:"owner"`
	Passes        bool     `json:"passes"`
	EvidenceLevel string   `json:"evidence_level"`
	Reasons       []string `json:"reasons"`
	Lock          string   `json:"lock,omitempty"` // only with --lock
}

// evaluate gives all answers, by asset tag and operating system.
func evaluate(ctx context.Context, services client.Services, req *dtv1.EvaluateDevicesRequest) ([]evaluation, error) {
	stream, err := services.Device.EvaluateDevices(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, client.Explain("the cluster", err)
	}
	all := []evaluation{} // an empty list in JSON, not null
	for stream.Receive() {
		m := stream.Msg()
		all = append(all, evaluation{
			DeviceID: m.GetDeviceId(), AssetTag: m.GetAssetTag(), OSType: m.GetOsType(), Owner: m.GetOwner(),
			Passes: m.GetPasses(), EvidenceLevel: m.GetEvidenceLevel(), Reasons: append([]string{}, m.GetReasons()...),
		})
	}
	if err := stream.Err(); err != nil {
		return nil, client.Explain("the cluster", err)
	}
	slices.SortFunc(all, func(x, y evaluation) int {
		return cmp.Or(cmp.Compare(x.AssetTag, y.AssetTag), cmp.Compare(x.OSType, y.OSType))
	})
	return all, stream.Close()
}

func (a *app) printEvaluations(format cli.Format, all []evaluation) error {
	if format != cli.Text {
		return cli.Write(a.Stdout, format, all)
	}
	if len(all) == 0 {
		return a.say("No enrolled devices found")
	}
	var rows [][]string
	for _, e := range all {
		result := "fail"
		if e.Passes {
			result = "pass"
		}
		rows = append(rows, []string{e.AssetTag, osName(e.OSType), e.DeviceID, e.Owner, result, e.EvidenceLevel, strings.Join(e.Reasons, "; ")})
	}
	return cli.Table(a.Stdout, []string{"Asset Tag", "OS", "Device ID", "Owner", "Result", "Evidence", "Reason"}, rows)
}

// lockFailing locks those that fail one by one, and prints all: the locks stand
// in what programs read, and below what people do. Where one fails, those
// before it stay locked, and are named.
func (a *app) lockFailing(ctx context.Context, format cli.Format, all []evaluation, terms *lockTerms) error {
	end, err := terms.end(a.Now())
	if err != nil {
		return err
	}
	locked, err := a.lockedUntil(ctx, end)
	if err != nil {
		return err
	}
	if format == cli.Text {
		if err := a.printEvaluations(format, all); err != nil {
			return err
		}
	}
	for i := range all {
		if e := &all[i]; !e.Passes {
			if err = a.lockOne(ctx, format, e, locked[e.DeviceID], terms); err != nil {
				break
			}
		}
	}
	if format != cli.Text {
		err = errors.Join(a.printEvaluations(format, all), err)
	}
	return err
}

// lockOne locks a device, unless it has the lock there already.
func (a *app) lockOne(ctx context.Context, format cli.Format, e *evaluation, there string, terms *lockTerms) (err error) {
	said := fmt.Sprintf("%s/%s is locked already, by the lock with name %q.", e.AssetTag, e.OSType, there)
	e.Lock = there
	if there == "" {
		if e.Lock, err = a.makeLock(ctx, policy.LockTarget{Device: e.DeviceID}, terms); err != nil {
			return err
		}
		said = fmt.Sprintf("Created a lock with name %q.", e.Lock)
	}
	if format != cli.Text {
		return nil
	}
	return a.say("%s", said)
}

// lockedUntil gives the names of locks that are on one device and nothing else,
// by its ID, and end no sooner than end, which is zero for never.
func (a *app) lockedUntil(ctx context.Context, end time.Time) (map[string]string, error) {
	locks, err := a.fetchAll(ctx, resource.KindLock)
	if err != nil {
		return nil, err
	}
	locked := map[string]string{}
	for _, r := range locks {
		l, ok := r.(*resource.Lock)
		if !ok || l.Spec.Target != (policy.LockTarget{Device: l.Spec.Target.Device}) {
			continue
		}
		if e := l.Spec.Expires; e.IsZero() || !end.IsZero() && !e.Before(end) {
			locked[l.Spec.Target.Device] = l.Metadata.Name
		}
	}
	return locked, nil
}
