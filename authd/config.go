// Package authd is the CA's edge: HTTPS and the admin socket, who calls and
// whether they may, and the feed that keeps nodes current. What is asked is
// done by the rooms below it: login, devices, policy, audit, ca.
package authd

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/devices/mdm"
	"devicetrust/identity"
)

// Config is how a dtauthd runs. Its zero value is not usable: DataDir
// and Listen must be set.
type Config struct {
	DataDir string `yaml:"data_dir"`
	// ClusterName is fixed at first start. Empty is the name that was fixed,
	// or the host's where this is the first start.
	ClusterName string   `yaml:"cluster_name"`
	Listen      string   `yaml:"listen"`
	PublicAddr  []string `yaml:"public_addr"`
	// Storage is sqlite:PATH or a postgres:// URL; empty is
	// sqlite:DATA_DIR/dt.db.
	Storage string `yaml:"storage"`
	// KeyFile holds the key that opens the authorities' private keys; empty
	// is DATA_DIR/ca.key. Replicas of one cluster share its content.
	KeyFile    string `yaml:"key_file"`
	TLSCert    string `yaml:"tls_cert"`
	TLSKey     string `yaml:"tls_key"`
	DiagListen string `yaml:"diag_listen"`
	// MDM are the sources that the inventory is synchronized with.
	MDM []mdm.Config `yaml:"mdm"`

	Version string           `yaml:"-"`
	Log     *slog.Logger     `yaml:"-"`
	Now     func() time.Time `yaml:"-"`
}

// check completes c and refuses what cannot run.
func (c *Config) check() error {
	if c.DataDir == "" || c.Listen == "" || c.Log == nil || c.Now == nil {
		return errors.New("authd: data dir, listen address, log and clock must be given")
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return wrong("--tls-cert and --tls-key go together")
	}
	if c.ClusterName != "" {
		if err := identity.CheckCluster(c.ClusterName); err != nil {
			return wrong("--cluster-name: %v", err)
		}
	}
	for flag, address := range map[string]string{"listen": c.Listen, "diag-listen": c.DiagListen} {
		if address == "" || flag == "diag-listen" && address == "off" {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return wrong("--%s=%s: want ADDRESS:PORT", flag, address)
		}
	}
	if c.Storage == "" {
		c.Storage = "sqlite:" + c.DataDir + "/dt.db"
	}
	if c.KeyFile == "" {
		c.KeyFile = c.DataDir + "/ca.key"
	}
	for _, a := range c.PublicAddr {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return wrong("--public-addr=%s: want HOST:PORT", a)
		}
	}
	if err := mdm.Check(c.MDM); err != nil {
		return wrong("%v", err)
	}
	return nil
}

// wrong is a setting that cannot be used.
func wrong(format string, args ...any) error {
	return api.Refuse(connect.CodeInvalidArgument, format, args...).
		WithHint("Change the flag, or the key of that name in the file of --config.")
}

// publicAddresses are what clients use: those configured, or the address that
// is listened on, with the machine's name where that is every address.
func (c *Config) publicAddresses(listening net.Addr) []string {
	if len(c.PublicAddr) > 0 {
		return c.PublicAddr
	}
	host, port, err := net.SplitHostPort(listening.String())
	if err != nil {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			host = "localhost"
		}
	}
	return []string{net.JoinHostPort(host, port)}
}
