package ca

import (
	"crypto/rand"
	"testing"

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
