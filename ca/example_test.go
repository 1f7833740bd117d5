package ca_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/audit"
	"devicetrust/ca"
	"devicetrust/identity"
	"devicetrust/store"
)

func ExampleCA_IssueUser() {
	if err := issueOne(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output: SSH certificate 1 for alice, as [ubuntu]; X.509 certificate 2
}

func issueOne(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "ca")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // an example's leavings
	db, err := store.Open(ctx, "sqlite:"+filepath.Join(dir, "dt.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // an example
	keeper, err := ca.LoadKeeper(filepath.Join(dir, "key"))
	if err != nil {
		return err
	}
	now := func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }
	log := audit.Open(db, "example.com", keeper.AuditKey(), now)
	authority, err := ca.Open(ctx, db, log, keeper, "example.com", now)
	if err != nil {
		return err
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	sshKey, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return err
	}
	tlsKey, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	certs, err := authority.IssueUser(ctx, ca.UserRequest{
		Identity: identity.Identity{User: "alice", Logins: []string{"ubuntu"}, ValidBefore: now().Add(time.Hour)},
		LoginID:  "5d2ad3a5", SSHKey: sshKey, TLSKey: tlsKey,
	}, func(tx *store.Tx) error {
		return nil // the last look, in the transaction that records
	})
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(certs.TLS)
	if err != nil {
		return err
	}
	fmt.Printf("SSH certificate %d for %s, as %v; X.509 certificate %d\n",
		certs.SSH.Serial, certs.SSH.KeyId, certs.SSH.ValidPrincipals, leaf.SerialNumber)
	return nil
}
