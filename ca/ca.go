// Package ca holds the cluster's keys and issues all of its certificates: SSH
// for users and hosts, X.509 for the API. Issuing has one order, which
// docs/issuing.md gives by number: prepare, record, commit, sign once.
package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/store"
)

// CA signs. It does not change after Open and may be used by many goroutines;
// it does not print.
type CA struct {
	db      *store.DB
	log     *audit.Log
	cluster string
	now     func() time.Time

	user, host ssh.Signer
	tls        crypto.Signer
	root       *x509.Certificate

	// write is db.Write; tests stand in for it to lose the answer to a commit.
	write func(context.Context, func(*store.Tx) error) error
}

// StoredCluster is the name that the first start fixed; empty where there was
// none yet.
func StoredCluster(tx *store.Tx) (string, error) {
	var name []byte
	err := tx.QueryRow(`SELECT value FROM settings WHERE name = $1`, settingCluster).Scan(&name)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("ca: %w", err)
	}
	return string(name), nil
}

// Open loads the cluster's authorities, or makes them where db is new. It
// fixes the cluster's name: another one later is an error, as is a keeper
// that does not open the stored keys.
func Open(ctx context.Context, db *store.DB, log *audit.Log, keeper *Keeper, cluster string, now func() time.Time) (*CA, error) {
	if err := identity.CheckCluster(cluster); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	c := &CA{db: db, log: log, cluster: cluster, now: now, write: db.Write}
	err := db.Write(ctx, func(tx *store.Tx) error {
		if err := c.create(tx, keeper); err != nil {
			return err
		}
		return c.load(tx, keeper)
	})
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return c, nil
}

const settingCluster = "cluster_name"

// create makes the authorities where the store has neither them nor a name.
// All writers are serialised, so of several dtauthd at once one creates.
func (c *CA) create(tx *store.Tx, keeper *Keeper) error {
	switch name, err := StoredCluster(tx); {
	case err != nil:
		return err
	case name != "" && name != c.cluster:
		return api.Refuse(connect.CodeFailedPrecondition, "this store belongs to cluster %q and not to %q: a cluster's name cannot be changed", name, c.cluster).
			WithHint("Leave --cluster-name out, or give that name; a new cluster needs a --data-dir and a --storage of its own")
	case name != "":
		return nil
	}
	now := c.now()
	if _, err := c.log.Record(tx, event.Event{Type: event.ClusterStart, Success: true, Kind: "cluster", Name: c.cluster}); err != nil {
		return err
	}
	if _, err := tx.Exec(`INSERT INTO settings (name, value) VALUES ($1, $2)`, settingCluster, []byte(c.cluster)); err != nil {
		return err
	}
	for _, k := range kinds {
		a, err := newAuthority(k, c.cluster, now)
		if err != nil {
			return err
		}
		if err := a.insert(tx, keeper, now); err != nil {
			return err
		}
	}
	return nil
}

// load wants exactly one authority of each kind.
func (c *CA) load(tx *store.Tx, keeper *Keeper) error {
	rows, err := loadAuthorities(tx, keeper)
	if err != nil {
		return err
	}
	have := make(map[kind]authority)
	for _, a := range rows {
		if _, twice := have[a.kind]; twice {
			return fmt.Errorf("the store has two %s authorities, which this version does not know to use", a.kind)
		}
		have[a.kind] = a
	}
	for _, k := range kinds {
		if _, ok := have[k]; !ok {
			return fmt.Errorf("the store has lost its %s authority: put back a copy of the database", k)
		}
	}
	if len(have) != len(kinds) {
		return errors.New("the store has an authority of a kind that this version does not know")
	}
	return c.take(have[kindUser], have[kindHost], have[kindTLS])
}

func (c *CA) take(user, host, tls authority) (err error) {
	if c.user, err = ssh.NewSignerFromSigner(user.signer); err != nil {
		return err
	}
	if c.host, err = ssh.NewSignerFromSigner(host.signer); err != nil {
		return err
	}
	c.tls = tls.signer
	c.root, err = tls.root()
	return err
}

// Cluster is the cluster's name.
func (c *CA) Cluster() string { return c.cluster }

// UserAuthorities are the keys whose user certificates are believed.
func (c *CA) UserAuthorities() []ssh.PublicKey { return []ssh.PublicKey{c.user.PublicKey()} }

// HostAuthorities are the keys whose host certificates are believed.
func (c *CA) HostAuthorities() []ssh.PublicKey { return []ssh.PublicKey{c.host.PublicKey()} }

// TLSAuthorities are the X.509 roots.
func (c *CA) TLSAuthorities() []*x509.Certificate { return []*x509.Certificate{c.root} }

// Pin is the CA pin that people and nodes compare: identity.PinOf the root.
func (c *CA) Pin() string { return identity.PinOf(c.root) }

// Export gives the public half of an authority as text: "user" as lines for
// sshd's TrustedUserCAKeys, "host" as lines for known_hosts, "tls" as PEM.
func (c *CA) Export(what string) (string, error) {
	switch kind(what) {
	case kindUser:
		return c.keyLine("", c.user), nil
	case kindHost:
		return c.keyLine("@cert-authority * ", c.host), nil
	case kindTLS:
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.root.Raw})), nil
	}
	return "", api.Refuse(connect.CodeInvalidArgument, "there is no authority of type %.32q", what).WithHint("The types are user, host and tls")
}

func (c *CA) keyLine(before string, s ssh.Signer) string {
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey())))
	return before + line + " dt@" + c.cluster + "\n"
}

// VerifyTLSClient is identity.VerifyX509 with this cluster's root and name.
// It does not look at what was revoked.
func (c *CA) VerifyTLSClient(cert *x509.Certificate) (identity.Caller, error) {
	caller, err := identity.VerifyX509(cert, c.TLSAuthorities(), c.now())
	if err != nil {
		return identity.Caller{}, err
	}
	if caller.Cluster() != c.cluster {
		return identity.Caller{}, &identity.Refused{Reason: identity.ReasonAuthority, Detail: fmt.Sprintf("it is of cluster %q and not of %q", caller.Cluster(), c.cluster)}
	}
	return caller, nil
}

// Format prints the cluster's name, whatever the verb: CA holds private keys.
func (c *CA) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, c.shown()) }

// LogValue is what a log shows.
func (c *CA) LogValue() slog.Value { return slog.StringValue(c.shown()) }

// MarshalText is what encoders of other kinds show.
func (c *CA) MarshalText() ([]byte, error) { return []byte(c.shown()), nil }

func (c *CA) shown() string { return "ca.CA(" + c.cluster + ")" }

var (
	_ fmt.Formatter  = (*CA)(nil)
	_ slog.LogValuer = (*CA)(nil)
)
