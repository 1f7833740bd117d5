package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api/dtv1"
	"devicetrust/cmd/internal/cli"
)

func (a *app) status() *cobra.Command {
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show the cluster: name, version, pins of its authority, counts",
		Example: `  dtctl status --format=json`,
		Args:    cobra.NoArgs,
	}
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		services, err := a.services()
		if err != nil {
			return err
		}
		resp, err := services.Admin.Status(cmd.Context(), connect.NewRequest(&dtv1.StatusRequest{}))
		if err != nil {
			return err
		}
		return a.printStatus(*format, resp.Msg)
	}
	return c
}

func (a *app) printStatus(format cli.Format, s *dtv1.StatusResponse) error {
	if format != cli.Text {
		return cli.Write(a.Stdout, format, struct {
			Cluster         string           `json:"cluster"`
			Version         string           `json:"version"`
			CAPins          []string         `json:"ca_pins"`
			Counts          map[string]int64 `json:"counts"`
			PublicAddresses []string         `json:"public_addresses"`
			DeviceTrustMode string           `json:"device_trust_mode"`
		}{s.GetCluster(), s.GetVersion(), s.GetCaPins(), s.GetCounts(), s.GetPublicAddresses(), s.GetDeviceTrustMode()})
	}
	lines := []string{
		line("Cluster", s.GetCluster()),
		line("Version", s.GetVersion()),
		line("Addresses", strings.Join(s.GetPublicAddresses(), ", ")),
		line("Device trust", s.GetDeviceTrustMode()),
	}
	for _, pin := range s.GetCaPins() {
		lines = append(lines, line("CA pin", pin))
	}
	for _, name := range slices.Sorted(maps.Keys(s.GetCounts())) {
		lines = append(lines, line(title(name), fmt.Sprint(s.GetCounts()[name])))
	}
	return a.say("%s", strings.Join(lines, "\n"))
}

func line(name, value string) string { return fmt.Sprintf("%-17s %s", name+":", cli.Safe(value)) }

// title makes devices_enrolled "Devices enrolled".
func title(name string) string {
	words := strings.ReplaceAll(name, "_", " ")
	if words == "" {
		return ""
	}
	return strings.ToUpper(words[:1]) + words[1:]
}
