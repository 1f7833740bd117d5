package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"devicetrust/cmd/internal/cli"
	"devicetrust/node/sshd"
)

// defaultSSHDConfig is what sshd reads where it is not told (sshd(8)).
const defaultSSHDConfig = "/etc/ssh/sshd_config"

func auditCommand(env *cli.Env) *cobra.Command {
	config := sshd.AuditConfig{Proc: "/proc", DefaultConfig: defaultSSHDConfig, Now: env.Now}
	c := &cobra.Command{
		Use:   "audit",
		Short: "Name every way around that sshd's configuration leaves open",
		Long: "Ask sshd what it would do with connections of each kind that its configuration tells apart, and\n" +
			"look at what it believes, who may write that, and what runs. A finding is open where somebody\n" +
			"gets in, or does something, that the cluster's policy has not decided, and a note where it only\n" +
			"weakens revocation or the record, or keeps people out. docs/operating.md lists the codes.\n\n" +
			"Nothing is changed. The exit status is 1 where a way around is open.",
		Example: `  dtnoded sshd audit
  dtnoded sshd audit --format=json
  dtnoded sshd audit --sshd=/opt/openssh/sbin/sshd --sshd-config=/opt/openssh/etc/sshd_config`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&config.SSHDConfig, "sshd-config", defaultSSHDConfig, "sshd's configuration")
	f.StringVar(&config.SSHD, "sshd", "/usr/sbin/sshd", "sshd's program")
	f.StringVar(&config.DataDir, "data-dir", "/var/lib/dtnoded", "where the side-car keeps its identity")
	format := cli.AddFormat(c, cli.Text)
	c.RunE = func(c *cobra.Command, _ []string) error {
		for name, value := range map[string]string{"sshd-config": config.SSHDConfig, "sshd": config.SSHD, "data-dir": config.DataDir} {
			if value == "" {
				return cli.Usagef("--%s is empty", name)
			}
		}
		var err error
		if config.Program, err = os.Executable(); err != nil {
			return err
		}
		found, err := sshd.Audit(c.Context(), config)
		if err != nil {
			return err
		}
		if err := printFindings(env.Stdout, *format, found); err != nil {
			return err
		}
		if open(found) > 0 {
			return &cli.ExitError{Status: 1}
		}
		return nil
	}
	return c
}

func open(found []sshd.Finding) (n int) {
	for _, f := range found {
		if f.Severity != sshd.SeverityNote { // of one that nobody knows, the worse is taken
			n++
		}
	}
	return n
}

func printFindings(w io.Writer, format cli.Format, found []sshd.Finding) error {
	if format != cli.Text {
		if found == nil {
			found = []sshd.Finding{} // "[]", not null
		}
		return cli.Write(w, format, found)
	}
	var b strings.Builder
	for _, f := range found {
		b.WriteString(findingText(f) + "\n")
	}
	b.WriteString(verdict(open(found)) + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// findingText is what is wrong, where, for whom, and what to do.
func findingText(f sshd.Finding) string {
	mark := "OPEN"
	if f.Severity == sshd.SeverityNote {
		mark = "note"
	}
	lines := []string{mark + " " + f.Code + ": " + f.Problem}
	at := f.File
	if f.Line > 0 {
		at = fmt.Sprintf("%s:%d", f.File, f.Line)
	}
	if at != "" {
		lines = append(lines, "at "+at)
	}
	if len(f.For) > 0 {
		lines = append(lines, "for "+strings.Join(f.For, "; "))
	}
	is := f.Setting + " is " + f.Value
	if f.Want != "" {
		is += ", want " + f.Want
	}
	lines = append(lines, is, f.Remedy)
	var b strings.Builder
	for i, line := range lines {
		if i > 0 {
			b.WriteString("     ")
		}
		b.WriteString(cli.Safe(line) + "\n")
	}
	return b.String()
}

func verdict(n int) string {
	switch n {
	case 0:
		return "No way around was found"
	case 1:
		return "1 way around is open"
	}
	return fmt.Sprintf("%d ways around are open", n)
}
