package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"devicetrust/cmd/internal/cli"
	"devicetrust/node"
	"devicetrust/node/sshd"
)

// stockFlags say which sshd is meant.
type stockFlags struct {
	config, program string
	noReload        bool
}

func (s *stockFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.config, "sshd-config", "/etc/ssh/sshd_config", "sshd's configuration; ours goes into the folder sshd_config.d beside it")
	f.StringVar(&s.program, "sshd", "/usr/sbin/sshd", "sshd's program")
	f.BoolVar(&s.noReload, "no-reload", false, "leave the running sshd as it is")
}

func (s stockFlags) installation() (sshd.Installation, error) {
	line := commandLine()
	if line == nil {
		return sshd.Installation{}, fmt.Errorf("the path of this program is not known")
	}
	return sshd.Installation{Server: sshd.Server{Program: s.program, Config: s.config}, Noded: line[0], NoReload: s.noReload}, nil
}

func sshdInstallCommand(env *cli.Env) *cobra.Command {
	var flags settings
	var stock stockFlags
	c := &cobra.Command{
		Use:   "install",
		Short: "Join a stock sshd to the cluster",
		Long: "Join a stock sshd to the cluster: from then on it lets in whom the cluster's policy lets in,\n" +
			"by a certificate, and nobody else: keys in authorized_keys and passwords open nothing. Its\n" +
			"own configuration is not touched; ours is one file beside it. Where anything fails all is\n" +
			"as it was. Keep a session of root's open until a login by certificate was tried.",
		Example: `  dtnoded sshd install --auth-server=auth.example.com:3080 --token=@FILE --ca-pin=sha256:…
  dtnoded sshd install --no-reload`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&flags.AuthServer, "auth-server", "", "HOST:PORT of dtauthd; remembered after the join")
	f.StringVar(&flags.Token, "token", "", "join token, for the first time; a file's name after @ keeps it off the command line")
	f.StringSliceVar(&flags.CAPin, "ca-pin", nil, "sha256:HEX of the cluster's CA, for the first time")
	f.StringVar(&flags.DataDir, "data-dir", "/var/lib/dtnoded", "where keys and records are kept; created 0700")
	f.StringSliceVar(&flags.PublicAddr, "public-addr", nil, "HOST:PORT that clients use; may be given several times (default where sshd listens)")
	f.StringVar(&flags.NodeName, "nodename", "", "what people call the server (default the host's name)")
	f.StringToStringVar(&flags.Labels, "labels", nil, "labels of the server: k=v,…")
	stock.add(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		config, err := flags.config()
		if err != nil {
			return err
		}
		installation, err := stock.installation()
		if err != nil {
			return err
		}
		done, err := node.InstallSSHD(c.Context(), node.CompanionConfig{
			AuthServer: config.AuthServer, Token: config.Token, CAPins: config.CAPins, DataDir: config.DataDir,
			PublicAddrs: config.PublicAddrs, Name: config.Name, Labels: config.Labels,
			Version: cli.Version, Log: env.Log(), Now: env.Now, SSHD: installation,
		})
		if err != nil {
			return cli.Setting(err)
		}
		installation.DataDir = config.DataDir
		printInstalled(env.Stdout, done, installation)
		return nil
	}
	return c
}

// printInstalled says what was done, and what is left to do.
func printInstalled(w io.Writer, done node.Installed, i sshd.Installation) {
	if done.Again {
		fmt.Fprintf(w, "This sshd is %q of cluster %q already; all is as it should be now.\n", done.Name, done.Cluster)
	} else {
		fmt.Fprintf(w, "This sshd is %q of cluster %q now, reached at %s.\n", done.Name, done.Cluster, strings.Join(done.Addresses, ", "))
	}
	if done.Reloaded {
		fmt.Fprintf(w, "%s is in force.\n", done.DropIn)
	} else {
		fmt.Fprintf(w, "%s is in force when sshd has reloaded its configuration.\n", done.DropIn)
	}
	if done.Service != "" {
		fmt.Fprintf(w, "%s keeps %s current.\n", done.Service, done.Dir)
	} else {
		fmt.Fprintf(w, "To keep %s current, run as a service: %s\n", done.Dir, i.SyncCommand())
	}
	fmt.Fprintf(w, "\nKeys in authorized_keys and passwords open nothing any more. Keep a session of root's\n"+
		"open until you have logged in with a certificate, and see what else is left open:\n"+
		"  dtnoded sshd audit --sshd-config=%[1]s --data-dir=%[2]s\n"+
		"To take it back: dtnoded sshd uninstall --sshd-config=%[1]s --data-dir=%[2]s\n", i.Server.Config, i.DataDir)
}

func sshdUninstallCommand(env *cli.Env) *cobra.Command {
	var stock stockFlags
	var dataDir string
	var purge bool
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Give a stock sshd back what it had before install",
		Long: "Give a stock sshd back what it had before install: what was made is removed, and sshd reads\n" +
			"its own configuration again. Where anything fails, all stays installed.",
		Example: "  dtnoded sshd uninstall\n  dtnoded sshd uninstall --purge",
		Args:    cobra.NoArgs,
	}
	c.Flags().StringVar(&dataDir, "data-dir", "/var/lib/dtnoded", "where install keeps keys and records")
	c.Flags().BoolVar(&purge, "purge", false, "remove the data directory too; without it the server can be installed again without a token")
	stock.add(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		installation, err := stock.installation()
		if err != nil {
			return err
		}
		done, err := node.UninstallSSHD(c.Context(), installation, dataDir, purge)
		if err != nil {
			return err
		}
		printUninstalled(env.Stdout, done)
		return nil
	}
	return c
}

func printUninstalled(w io.Writer, done sshd.Uninstalled) {
	if done.Nothing {
		fmt.Fprintln(w, "Nothing is installed.")
		return
	}
	fmt.Fprintln(w, "sshd has its own configuration again.")
	switch {
	case done.Kept != "" && !done.Reloaded:
		fmt.Fprintf(w, "Reload sshd, which reads %s until then, and remove that with: dtnoded sshd uninstall\n", done.Kept)
	case done.Kept != "":
		fmt.Fprintf(w, "%s stays: there is something in it that dtnoded has not made.\n", done.Kept)
	}
	if done.Node != nil {
		fmt.Fprintf(w, "To take the server off the cluster's list: dtctl rm node/%s\n", done.Node.ID)
	}
}
