// dtnoded is the SSH server that enforces: it lets in whom policy lets in,
// with the device that policy asks for.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"devicetrust/cmd/internal/cli"
	"devicetrust/node"
)

func main() {
	if status, asked := answerSshd(os.Args[1:]); asked {
		os.Exit(status)
	}
	if status, was := node.RunHelper(time.Now); was {
		os.Exit(status)
	}
	cli.Main(newRoot)
}

func newRoot(env *cli.Env) *cobra.Command {
	root := &cobra.Command{
		Use:   "dtnoded",
		Short: "SSH server that asks for trusted devices",
		Long:  "dtnoded joins a cluster and serves SSH. It decides by itself, by the roles, locks and\nrevocations that the cluster sends, and goes on doing so while the cluster is away.",
		Example: `  dtnoded start --auth-server=auth.example.com:3080 --token=TOKEN --ca-pin=sha256:…
  dtnoded start`,
	}
	root.AddCommand(startCommand(env), sshdCommand(env))
	return root
}

// settings are the flags and, with _ for -, the keys of the file.
type settings struct {
	AuthServer        string            `yaml:"auth_server"`
	Token             string            `yaml:"token"`
	CAPin             []string          `yaml:"ca_pin"`
	DataDir           string            `yaml:"data_dir"`
	Listen            string            `yaml:"listen"`
	PublicAddr        []string          `yaml:"public_addr"`
	NodeName          string            `yaml:"nodename"`
	Labels            map[string]string `yaml:"labels"`
	ProxyProtocolFrom []string          `yaml:"proxy_protocol_from"`
	DiagListen        string            `yaml:"diag_listen"`
	ShutdownGrace     time.Duration     `yaml:"shutdown_grace"`
	DrainTimeout      time.Duration     `yaml:"drain_timeout"`

	// SSH has no flags: it is rarely wanted.
	SSH node.SSHConfig `yaml:"ssh"`
}

func startCommand(env *cli.Env) *cobra.Command {
	var flags settings
	var file string
	c := &cobra.Command{
		Use:   "start",
		Short: "Join the cluster, the first time, and serve",
		Long:  "Join the cluster, the first time, and serve. `dtctl tokens add --type=node` prints the\nline for the first start; afterwards the node has an identity of its own.",
		Example: `  dtnoded start --auth-server=auth.example.com:3080 --token=TOKEN --ca-pin=sha256:…
  dtnoded start --config=/etc/dtnoded.yaml
  dtnoded start --listen=0.0.0.0:22 --nodename=db1 --labels=env=prod,team=db`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "YAML file with these settings (keys as the flags, with _ for -) and the section ssh: (docs/operating.md); flags win over it")
	f.StringVar(&flags.AuthServer, "auth-server", "", "HOST:PORT of dtauthd; remembered after the first start")
	f.StringVar(&flags.Token, "token", "", "join token, for the first start; a file's name after @ keeps it off the command line")
	f.StringSliceVar(&flags.CAPin, "ca-pin", nil, "sha256:HEX of the cluster's CA, for the first start")
	f.StringVar(&flags.DataDir, "data-dir", "/var/lib/dtnoded", "where keys and state are kept; created 0700")
	f.StringVar(&flags.Listen, "listen", "0.0.0.0:3022", "address of SSH")
	f.StringSliceVar(&flags.PublicAddr, "public-addr", nil, "HOST:PORT that clients use; may be given several times (default the address listened on)")
	f.StringVar(&flags.NodeName, "nodename", "", "what people call the node (default the host's name)")
	f.StringToStringVar(&flags.Labels, "labels", nil, "labels of the node: k=v,…")
	f.StringSliceVar(&flags.ProxyProtocolFrom, "proxy-protocol-from", nil, "IP or CIDR,… of proxies whose connections begin with a PROXY header (default none)")
	f.StringVar(&flags.DiagListen, "diag-listen", "off", "address of /healthz, /readyz and /metrics; off turns it off")
	f.DurationVar(&flags.ShutdownGrace, "shutdown-grace", 5*time.Second, "how long sessions may go on after SIGTERM")
	f.DurationVar(&flags.DrainTimeout, "drain-timeout", 24*time.Hour, "how long sessions may go on after SIGHUP, which starts a successor")
	c.RunE = func(c *cobra.Command, _ []string) error {
		s, err := configure(c, flags, file)
		if err != nil {
			return err
		}
		config, err := s.config()
		if err != nil {
			return err
		}
		config.Version, config.Log, config.Now = cli.Version, env.Log(), env.Now
		if config.Inherited, err = node.Inherit(); err != nil {
			return err
		}
		reload := make(chan os.Signal, 1)
		signal.Notify(reload, syscall.SIGHUP)
		defer signal.Stop(reload)
		config.Reload, config.Command = reload, commandLine()
		return cli.Setting(node.Run(c.Context(), config))
	}
	return c
}

// commandLine is how this program was started, with the file that was meant:
// another version may be there by the time it is wanted.
func commandLine() []string {
	program, err := exec.LookPath(os.Args[0])
	if err == nil {
		program, err = filepath.Abs(program)
	}
	if err != nil { // whoever started it gave it another name
		if program, err = os.Executable(); err != nil {
			return nil
		}
	}
	return append([]string{program}, os.Args[1:]...)
}

// config turns the words into what they mean.
func (s settings) config() (node.Config, error) {
	out := node.Config{
		AuthServer: s.AuthServer, DataDir: s.DataDir, Listen: s.Listen, PublicAddrs: s.PublicAddr,
		Name: s.NodeName, Labels: s.Labels, DiagListen: s.DiagListen, SSH: s.SSH,
		ShutdownGrace: s.ShutdownGrace, DrainTimeout: s.DrainTimeout,
	}
	if s.ShutdownGrace < 0 {
		return out, cli.Usagef("--shutdown-grace: %v is less than nothing", s.ShutdownGrace)
	}
	if s.DrainTimeout < 0 {
		return out, cli.Usagef("--drain-timeout: %v is less than nothing", s.DrainTimeout)
	}
	for _, text := range s.CAPin {
		pin, err := node.ParsePin(text)
		if err != nil {
			return out, cli.Usagef("--ca-pin: %v", err)
		}
		out.CAPins = append(out.CAPins, pin)
	}
	var err error
	if out.ProxyProtocolFrom, err = node.ParseNetworks(s.ProxyProtocolFrom); err != nil {
		return out, cli.Usagef("--proxy-protocol-from: %v", err)
	}
	out.Token, err = readToken(s.Token)
	return out, err
}

// readToken gives the token, or what is in the file that @ names.
func readToken(token string) (string, error) {
	name, isFile := strings.CutPrefix(token, "@")
	if !isFile {
		return token, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("the token cannot be read: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, 4096))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("the token cannot be read: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// configure lays the flags that were given over the file, and the file over
// the flags' defaults.
func configure(c *cobra.Command, flags settings, file string) (settings, error) {
	if file == "" {
		return flags, nil
	}
	s := flags
	s.CAPin, s.PublicAddr, s.Labels, s.ProxyProtocolFrom = nil, nil, nil, nil
	if err := cli.ReadYAML(file, &s); err != nil {
		return s, err
	}
	for name, take := range map[string]func(){
		"auth-server":         func() { s.AuthServer = flags.AuthServer },
		"token":               func() { s.Token = flags.Token },
		"ca-pin":              func() { s.CAPin = flags.CAPin },
		"data-dir":            func() { s.DataDir = flags.DataDir },
		"listen":              func() { s.Listen = flags.Listen },
		"public-addr":         func() { s.PublicAddr = flags.PublicAddr },
		"nodename":            func() { s.NodeName = flags.NodeName },
		"labels":              func() { s.Labels = flags.Labels },
		"shutdown-grace":      func() { s.ShutdownGrace = flags.ShutdownGrace },
		"drain-timeout":       func() { s.DrainTimeout = flags.DrainTimeout },
		"proxy-protocol-from": func() { s.ProxyProtocolFrom = flags.ProxyProtocolFrom },
		"diag-listen":         func() { s.DiagListen = flags.DiagListen },
	} {
		if c.Flags().Changed(name) {
			take()
		}
	}
	return s, nil
}
