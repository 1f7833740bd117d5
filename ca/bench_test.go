package ca

import (
	"crypto/rand"
	"testing"
	"time"

	"devicetrust/store"
	"devicetrust/store/storetest"
)

// BenchmarkIssueSSH is the issuing of an SSH user certificate in memory: the
// identity is checked and encoded, then signed. Recording and reading back
// are not in it (BenchmarkIssueUser has everything). The limit is 1.5 times
// BenchmarkSignBare.
func BenchmarkIssueSSH(b *testing.B) {
	w := newWorld(b, storetest.Open(b))
	p, err := w.ca.prepareUser(w.request(b))
	if err != nil {
		b.Fatal(err)
	}
	serial := uint64(0)
	for b.Loop() {
		serial++
		cert, err := p.encodeSSH(serial)
		if err != nil {
			b.Fatal(err)
		}
		if err := signSSH(cert, p.authority); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSignBare signs the same certificate, encoded beforehand, with the
// same Ed25519 authority.
func BenchmarkSignBare(b *testing.B) {
	w := newWorld(b, storetest.Open(b))
	p, err := w.ca.prepareUser(w.request(b))
	if err != nil {
		b.Fatal(err)
	}
	cert, err := p.encodeSSH(1)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := cert.SignCert(rand.Reader, p.authority); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIssueUser is the whole order on SQLite: both certificates, with
// the transaction, the audit record and the reading back.
func BenchmarkIssueUser(b *testing.B) {
	w := newWorld(b, storetest.Open(b))
	req := w.request(b)
	for b.Loop() {
		if _, err := w.ca.IssueUser(b.Context(), req, allow); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRevokedForSSHD reads 200,000 certificates that can be used, of which
// every other one is revoked, with as many X.509 ones between them.
func BenchmarkRevokedForSSHD(b *testing.B) {
	w := newWorld(b, storetest.Open(b))
	var rows [][]any
	until := store.Micros(w.clock.now().Add(time.Hour))
	for serial := int64(1); serial <= 400_000; serial += 2 {
		rows = append(rows,
			[]any{serial, certUserSSH, "alice", "login-1", "", []byte{}, until, until, serial / 2 % 2},
			[]any{serial + 1, certUserTLS, "alice", "login-1", "", []byte{}, until, until, serial / 2 % 2})
	}
	w.write(b, func(tx *store.Tx) error {
		return tx.InsertAll(`certificates (serial, kind, subject, login_id, device_id, key_digest, issued_at, valid_before, revoked_at)`, rows, "")
	})
	for b.Loop() {
		w.read(b, func(tx *store.Tx) error {
			ranges, err := RevokedForSSHD(tx, w.clock.now(), nobody)
			if len(ranges) != 100_000 {
				b.Fatalf("%d ranges", len(ranges))
			}
			return err
		})
	}
}
