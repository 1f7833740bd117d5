package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"devicetrust/client"
	"devicetrust/client/agent"
	"devicetrust/cmd/internal/cli"
)

func (a *app) configCommand() *cobra.Command {
	var write, remove bool
	var file string
	c := &cobra.Command{
		Use:   "config",
		Short: "Print an ssh_config with which plain ssh reaches the servers",
		Long: `Print an ssh_config(5) fragment for the servers that you may see. With it, ssh,
scp, sftp, rsync, git and ansible reach them with the certificate of your login,
and believe only servers that the cluster has certified.

With --write it goes into DTSH_HOME, and one line at the top of ~/.ssh/config
includes it. From then on each dtsh login writes it again; do so yourself when
servers come or go. --remove takes exactly that out again.`,
		Example: `  dtsh config --write      # once; then: ssh root@server-1
  dtsh config --remove
  dtsh config > dtsh.conf && ssh -F dtsh.conf root@server-1`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("ssh-config") && (file == "" || !write && !remove) {
				return cli.Usagef("--ssh-config=FILE is for --write and --remove")
			}
			switch {
			case remove:
				return a.removeConfig(c.Context(), file)
			case write:
				return a.writeConfig(c.Context(), file)
			}
			p, conn, err := a.connect()
			if err != nil {
				return err
			}
			defer conn.Close()
			text, _, err := a.sshConfig(c.Context(), p, conn)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(a.Stdout, text)
			return err
		},
	}
	c.Flags().BoolVar(&write, "write", false, "include it in ~/.ssh/config")
	c.Flags().BoolVar(&remove, "remove", false, "take out of ~/.ssh/config what --write put there")
	c.Flags().StringVar(&file, "ssh-config", "", "another file than ~/.ssh/config")
	c.MarkFlagsMutuallyExclusive("write", "remove")
	return c
}

// sshConfig is what ssh needs for the login of p, and for how many servers.
func (a *app) sshConfig(ctx context.Context, p *client.Profile, conn *client.Conn) (text string, servers int, err error) {
	nodes, err := conn.Nodes(ctx, nil)
	if err != nil {
		return "", 0, err
	}
	socket, err := a.configSocket(ctx, p)
	if err != nil {
		return "", 0, err
	}
	text, skipped, err := p.SSHConfig(nodes, socket)
	for _, s := range skipped {
		fmt.Fprintf(a.Stderr, "WARNING: %s\n", cli.Safe(s.Error()))
	}
	return text, len(nodes) - len(skipped), err
}

// configSocket is the socket of the agent that ssh is to ask, which runs after
// this; empty where the login's key is in a file.
func (a *app) configSocket(ctx context.Context, p *client.Profile) (string, error) {
	creds, err := p.Credentials()
	if err != nil || !creds.InTPM() {
		return "", err
	}
	home, err := a.home()
	if err != nil {
		return "", err
	}
	// ssh does not ask whose socket it is that it brings keys to.
	socket := a.agentSocket(home)
	if err := agent.CheckPlace(socket); err != nil {
		return "", err
	}
	a.offerAgent(ctx, home)
	return socket, nil
}

func (a *app) writeConfig(ctx context.Context, file string) error {
	file, err := configFile(file)
	if err != nil {
		return err
	}
	p, conn, err := a.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	text, servers, err := a.sshConfig(ctx, p, conn)
	if err != nil {
		return err
	}
	changed, err := p.InstallSSHConfig(ctx, file, text)
	if err != nil {
		return err
	}
	said := "includes"
	if changed {
		said = "now includes"
	}
	fmt.Fprintf(a.Stdout, "%s %s what ssh needs for %s of %s.\n", cli.Safe(file), said, counted(servers, "server"), cli.Safe(p.Cluster))
	return nil
}

// removeConfig works logged out, too.
func (a *app) removeConfig(ctx context.Context, file string) error {
	file, err := configFile(file)
	if err != nil {
		return err
	}
	home, err := a.home()
	if err != nil {
		return err
	}
	p, err := home.Profile(a.namedProxy())
	if err != nil {
		return err
	}
	changed, err := p.RemoveSSHConfig(ctx, file)
	if err != nil {
		return err
	}
	if !changed {
		fmt.Fprintf(a.Stdout, "%s includes nothing of %s.\n", cli.Safe(file), p.Proxy)
		return nil
	}
	fmt.Fprintf(a.Stdout, "%s no longer includes the servers of %s.\n", cli.Safe(file), p.Proxy)
	return nil
}

// refreshConfig writes again what dtsh config --write wrote, for a new login:
// its key may be elsewhere, and the servers others. It does not fail the login.
func (a *app) refreshConfig(ctx context.Context, p *client.Profile) {
	if !p.SSHConfigInstalled() {
		return
	}
	err := func() error {
		conn, err := client.Dial(p, a.options())
		if err != nil {
			return err
		}
		defer conn.Close()
		text, _, err := a.sshConfig(ctx, p, conn)
		if err != nil {
			return err
		}
		return p.RefreshSSHConfig(ctx, text)
	}()
	if err != nil {
		message, hint := cli.Explain(err)
		fmt.Fprintf(a.Stderr, "WARNING: what ssh needs was not written again: %s\n", message)
		if hint != "" {
			fmt.Fprintln(a.Stderr, hint)
		}
	}
}

// configFile is the ssh_config to write, absolute.
func configFile(named string) (string, error) {
	if named != "" {
		return filepath.Abs(named)
	}
	return client.SSHConfigPath()
}
