package sshd

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/identity"
)

// Past is what is known of a connection, for a side-car that is started again.
type Past struct {
	ID string `json:"id"`
	// Boot, PID and Start are root's process of the connection: together they
	// are of no other.
	Boot      string         `json:"boot"`
	PID       int            `json:"pid"`
	Start     uint64         `json:"start"`
	Login     string         `json:"login"`
	Remote    netip.AddrPort `json:"remote"`
	Seen      time.Time      `json:"seen"`
	Otherwise bool           `json:"otherwise,omitempty"`
	Orphan    bool           `json:"orphan,omitempty"`
	// Certificates are verified again; Lines are what sshd's log told.
	Certificates []PastCertificate `json:"certificates,omitempty"`
	Lines        []PastLine        `json:"lines,omitempty"`
}

// PastCertificate is one as it was shown.
type PastCertificate struct {
	Wire []byte `json:"wire"`
	// Sure: the person cannot have made it. Counted: it was one of the cluster's.
	Sure    bool `json:"sure,omitempty"`
	Counted bool `json:"counted,omitempty"`
}

// PastLine is what the log told of a certificate.
type PastLine struct {
	User      string `json:"user"`
	Serial    uint64 `json:"serial"`
	Authority string `json:"authority"` // its fingerprint
}

// Past gives what is known of c. What the person may have made, and does not
// count, is left out.
func (w *Watch) Past(c *Connection) Past {
	p := Past{
		ID: c.ID, Boot: w.boot, PID: c.top.PID, Start: c.top.Start, Login: c.Login, Remote: c.Remote, Seen: c.Seen.UTC(),
		Otherwise: c.Otherwise, Orphan: c.Orphan, Lines: slices.Clone(c.lines),
	}
	for _, s := range c.sightings {
		if s.sure || s.verified || s.counted {
			p.Certificates = append(p.Certificates, PastCertificate{Wire: []byte(s.wire), Sure: s.sure, Counted: s.verified || s.counted})
		}
	}
	for _, proof := range c.Proofs {
		if !proof.Whole && !slices.Contains(p.Lines, lineOf(proof)) {
			p.Lines = append(p.Lines, lineOf(proof))
		}
	}
	return p
}

func lineOf(p Proof) PastLine {
	return PastLine{p.Identity.User, p.Identity.Serial, p.Authority}
}

// Recall takes what was known when the side-car ran before, ahead of the first
// look. It gives a connection for each: those that look finds are the same ones,
// the others are over.
func (w *Watch) Recall(all []Past) ([]*Connection, error) {
	var recalled []*Connection
	type of struct {
		boot string
		Process
	}
	ids, tops := map[string]bool{}, map[of]bool{}
	for _, p := range all {
		c, err := w.recall(p)
		if err != nil {
			return nil, fmt.Errorf("connection %.64q: %w", p.ID, err)
		}
		top := of{p.Boot, c.top}
		if ids[c.ID] || tops[top] {
			return nil, fmt.Errorf("connection %s is there twice", c.ID)
		}
		ids[c.ID], tops[top] = true, true
		recalled = append(recalled, c)
	}
	for i, c := range recalled {
		w.settle(c)
		if all[i].Boot == w.boot && w.proc.lives(c.top) {
			w.live[c.top] = c
		}
	}
	return recalled, nil
}

func (w *Watch) recall(p Past) (*Connection, error) {
	if id, err := hex.DecodeString(p.ID); err != nil || len(id) != idSize {
		return nil, errors.New("its id is none of ours")
	}
	if p.Boot == "" || p.PID <= 0 || p.Login == "" || p.Seen.IsZero() {
		return nil, errors.New("it has no process, login or time")
	}
	if len(p.Certificates) > maxProofs || len(p.Lines) > maxProofs {
		return nil, fmt.Errorf("it has more than %d certificates", maxProofs)
	}
	c := &Connection{
		ID: p.ID, Login: p.Login, Seen: p.Seen, Remote: p.Remote, Otherwise: p.Otherwise, Orphan: p.Orphan, Recalled: true,
		lines: slices.Clone(p.Lines), visited: map[Process]bool{},
	}
	c.top = Process{p.PID, p.Start}
	for _, one := range p.Certificates {
		key, err := ssh.ParsePublicKey(one.Wire)
		if err != nil {
			return nil, err
		}
		cert, ok := key.(*ssh.Certificate)
		if !ok {
			return nil, errors.New("it has a key that is no certificate")
		}
		c.sightings = append(c.sightings, sighting{certificate: cert, wire: string(one.Wire), sure: one.Sure, counted: one.Counted})
	}
	return c, nil
}

// settleLines adds what the log told before: it may have been rotated. An
// authority that is none any more refuses it, and is not left out.
func (w *Watch) settleLines(c *Connection) {
	if len(c.lines) == 0 || len(w.settings.Authorities()) == 0 {
		return
	}
	for _, l := range c.lines {
		if !c.sure {
			c.add(Proof{Identity: identity.Identity{User: l.User, Serial: l.Serial}, Authority: l.Authority})
		}
	}
	c.lines = nil
}

// believed are the authorities of a certificate. One that counted before counts
// still when its authority was taken out of use meanwhile: that refuses it. Else
// nobody would know whose the connection is.
func (w *Watch) believed(s *sighting) []ssh.PublicKey {
	all := w.settings.Authorities()
	if s.counted && len(all) > 0 {
		all = append(slices.Clone(all), s.certificate.SignatureKey)
	}
	return all
}

// bootID tells this run of the machine from all others (random(4)).
func (p proc) bootID() (string, error) {
	text, err := os.ReadFile(string(p) + "/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text)), err
}
