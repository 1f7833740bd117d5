package main

import (
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api/dtv1"
	"devicetrust/cmd/internal/cli"
)

// progressEvery so many records a person is told how far a run is.
const progressEvery = 5000

func (a *app) mdm() *cobra.Command {
	c := &cobra.Command{Use: "mdm", Short: "Take over devices from Jamf Pro, Intune or a file", Example: `  dtctl mdm sync
  dtctl mdm sync --source=jamf --partial`}
	c.AddCommand(a.mdmSync())
	return c
}

func (a *app) mdmSync() *cobra.Command {
	req := &dtv1.SyncDevicesRequest{}
	c := &cobra.Command{
		Use:   "sync",
		Short: "Synchronize the inventory with device management, now",
		Long: `Synchronize the inventory with the device management systems that dtauthd's
configuration names under mdm; dtauthd does so by itself on their schedule.

A full run takes everything over, and deals with what a source no longer has as
its on_missing says. A partial one takes what changed since the last.`,
		Example: `  dtctl mdm sync
  dtctl mdm sync --source=jamf --partial`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&req.Source, "source", "", "only this source, by its name (default all, one after another)")
	c.Flags().Bool("full", false, "take everything over (default)")
	partial := c.Flags().Bool("partial", false, "take over what changed since the last run; deletes nothing")
	c.MarkFlagsMutuallyExclusive("full", "partial")
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		req.Full = !*partial
		services, err := a.services()
		if err != nil {
			return err
		}
		stream, err := services.Device.SyncDevices(cmd.Context(), connect.NewRequest(req))
		if err != nil {
			return err
		}
		defer func() { _ = stream.Close() }() // it has said all it had
		return a.followSync(*format, stream)
	}
	return c
}

// followSync prints the end of each run as it comes, or in other formats all
// of them; and fails where one has failed.
func (a *app) followSync(format cli.Format, stream *connect.ServerStreamForClient[dtv1.SyncDevicesResponse]) error {
	failed, told := false, int64(0)
	runs := []syncRun{}
	for stream.Receive() {
		m := stream.Msg()
		if !m.GetDone() {
			if told+progressEvery <= m.GetSeen() {
				told = m.GetSeen()
				a.Progress("%s: %d devices so far", m.GetSource(), told)
			}
			continue
		}
		told, failed = 0, failed || m.GetFailure() != ""
		runs = append(runs, newSyncRun(m))
		if format == cli.Text {
			if err := a.printSync(m); err != nil {
				return err
			}
		}
	}
	if format != cli.Text && len(runs) > 0 {
		if err := cli.Write(a.Stdout, format, runs); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	if failed {
		return &cli.ExitError{Status: 1}
	}
	return nil
}

// syncRun is how a run ended, in JSON.
type syncRun struct {
	Source    string   `json:"source"`
	Full      bool     `json:"full"`
	Seen      int64    `json:"seen"`
	Created   int64    `json:"created"`
	Updated   int64    `json:"updated"`
	Unchanged int64    `json:"unchanged"`
	Deleted   int64    `json:"deleted"`
	Skipped   int64    `json:"skipped"`
	Problems  []string `json:"problems,omitempty"`
	Failure   string   `json:"failure,omitempty"`
}

func newSyncRun(m *dtv1.SyncDevicesResponse) syncRun {
	return syncRun{
		m.GetSource(), m.GetFull(), m.GetSeen(), m.GetCreated(), m.GetUpdated(), m.GetUnchanged(),
		m.GetDeleted(), m.GetSkipped(), m.GetProblems(), m.GetFailure(),
	}
}

func (a *app) printSync(m *dtv1.SyncDevicesResponse) error {
	kind := "partial"
	if m.GetFull() {
		kind = "full"
	}
	text := fmt.Sprintf("%s: %s sync: %d seen, %d created, %d updated, %d unchanged, %d deleted, %d skipped", m.GetSource(), kind,
		m.GetSeen(), m.GetCreated(), m.GetUpdated(), m.GetUnchanged(), m.GetDeleted(), m.GetSkipped())
	for _, p := range m.GetProblems() {
		text += "\n  " + p
	}
	if more := m.GetSkipped() - int64(len(m.GetProblems())); more > 0 {
		text += fmt.Sprintf("\n  and %d more", more)
	}
	if err := a.say("%s", text); err != nil {
		return err
	}
	if m.GetFailure() != "" {
		a.PrintError(fmt.Errorf("%s: the %s sync failed: %s", m.GetSource(), kind, m.GetFailure()))
	}
	return nil
}
