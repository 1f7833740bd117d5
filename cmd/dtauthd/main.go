// dtauthd is the login CA: it keeps users, devices, roles and the audit
// record, and issues short certificates.
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"devicetrust/authd"
	"devicetrust/cmd/internal/cli"
)

func main() { cli.Main(newRoot) }

func newRoot(env *cli.Env) *cobra.Command {
	root := &cobra.Command{
		Use:     "dtauthd",
		Short:   "Login CA and device inventory",
		Long:    "dtauthd issues short SSH certificates, and adds the device to them only after the\ndevice has proved itself with its TPM.",
		Example: `  dtauthd start --cluster-name=example.com --public-addr=auth.example.com:3080`,
	}
	root.AddCommand(startCommand(env))
	return root
}

func startCommand(env *cli.Env) *cobra.Command {
	var flags authd.Config
	var file string
	c := &cobra.Command{
		Use:   "start",
		Short: "Serve the API, the web and the admin socket",
		Example: `  dtauthd start --cluster-name=example.com --public-addr=auth.example.com:3080
  dtauthd start --config=/etc/dtauthd.yaml
  dtauthd start --storage=postgres://dt@db.example.com/dt --listen=0.0.0.0:3080`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "YAML file with these settings (keys as the flags, with _ for -); flags win over it")
	f.StringVar(&flags.DataDir, "data-dir", "/var/lib/dtauthd", "where state is kept; created 0700")
	f.StringVar(&flags.ClusterName, "cluster-name", "", "name of the cluster, fixed at first start (default the host's name)")
	f.StringVar(&flags.Listen, "listen", "0.0.0.0:3080", "address of HTTPS")
	f.StringSliceVar(&flags.PublicAddr, "public-addr", nil, "host:port that clients use; may be given several times (default the address listened on)")
	f.StringVar(&flags.Storage, "storage", "", "sqlite:PATH or postgres://…; a password belongs in the config file (default sqlite:DATA_DIR/dt.db)")
	f.StringVar(&flags.KeyFile, "key-file", "", "the key that opens the authorities' keys; replicas share its content (default DATA_DIR/ca.key)")
	f.StringVar(&flags.TLSCert, "tls-cert", "", "PEM certificate chain that people's machines already trust (default the cluster's own CA)")
	f.StringVar(&flags.TLSKey, "tls-key", "", "PEM private key of --tls-cert")
	f.StringVar(&flags.DiagListen, "diag-listen", "127.0.0.1:3081", "address of /healthz, /readyz and /metrics; off turns it off")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := configure(c, flags, file)
		if err != nil {
			return err
		}
		cfg.Version, cfg.Log, cfg.Now = cli.Version, env.Log(), env.Now
		reload := make(chan os.Signal, 1)
		signal.Notify(reload, syscall.SIGHUP)
		defer signal.Stop(reload)
		return cli.Setting(authd.Run(c.Context(), cfg, reload, func(_ net.Addr, pins []string) {
			for _, pin := range pins {
				fmt.Fprintf(env.Stdout, "CA pin: %s\n", pin)
			}
		}))
	}
	return c
}

// configure lays the flags that were given over the file, and the file over
// the flags' defaults.
func configure(c *cobra.Command, flags authd.Config, file string) (authd.Config, error) {
	cfg := flags
	if file != "" {
		if err := cli.ReadYAML(file, &cfg); err != nil {
			return cfg, err
		}
		for name, field := range map[string]struct{ to, from *string }{
			"data-dir": {&cfg.DataDir, &flags.DataDir}, "cluster-name": {&cfg.ClusterName, &flags.ClusterName},
			"listen": {&cfg.Listen, &flags.Listen}, "storage": {&cfg.Storage, &flags.Storage},
			"key-file": {&cfg.KeyFile, &flags.KeyFile}, "tls-cert": {&cfg.TLSCert, &flags.TLSCert},
			"tls-key": {&cfg.TLSKey, &flags.TLSKey}, "diag-listen": {&cfg.DiagListen, &flags.DiagListen},
		} {
			if c.Flags().Changed(name) {
				*field.to = *field.from
			}
		}
		if c.Flags().Changed("public-addr") {
			cfg.PublicAddr = flags.PublicAddr
		}
	}
	return cfg, nil
}
