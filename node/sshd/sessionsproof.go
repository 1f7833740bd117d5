package sshd

import (
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/identity"
)

// learn adds what is known now of how somebody came in.
func (w *Watch) learn(c *Connection, all processes, clock bootClock) {
	w.files = slices.DeleteFunc(w.files, func(f written) bool {
		mine := f.by == c.worker || f.by == c.top
		if mine && f.uid == c.uid {
			w.believe(c, parseAuthInfo(f.text), true)
		}
		return mine
	})
	for _, a := range w.lines {
		if a.pid == c.top.PID && a.login == c.Login && !a.at.Before(c.Began.Add(-logSlack)) {
			w.believeLine(c, a)
		}
	}
	w.settle(c)
	if !c.sure {
		w.visit(c, all, clock)
		w.settle(c)
	}
}

// visit looks for sshd's file by what the person's own processes have in their
// environment, and, where that is not to be had, by whose it is and when it was
// written.
func (w *Watch) visit(c *Connection, all processes, clock bootClock) {
	for _, one := range all {
		if one.parent != c.worker.PID || one.Process == c.worker || c.visited[one.Process] {
			continue
		}
		c.visited[one.Process] = true
		path := w.proc.variable(one.PID, authInfoName)
		if text, _, err := readAuthInfo(path, c.uid); err == nil {
			w.believe(c, parseAuthInfo(text), false)
		}
	}
	for who := range c.visited {
		if one, ok := all[who.PID]; !ok || one.Process != who {
			delete(c.visited, who)
		}
	}
	if len(c.Proofs) > 0 {
		return
	}
	began := clock.began(c.worker)
	until := began.Add(authInfoSlack)
	if c.worker == c.top { // it was there before anybody was in
		until = c.Seen
	}
	for _, path := range authInfos(c.uid) {
		text, info, err := readAuthInfo(path, c.uid)
		if err != nil {
			continue
		}
		at := time.Unix(info.Mtim.Unix())
		if at.Before(began.Add(-startSlack)) || at.After(until) {
			continue
		}
		w.believe(c, parseAuthInfo(text), false)
	}
}

// believe takes what is shown. sure: the person cannot have made it.
func (w *Watch) believe(c *Connection, s shown, sure bool) {
	if sure && s.other {
		c.Otherwise = true
	}
	for _, cert := range s.certificates {
		one := sighting{certificate: cert, wire: string(cert.Marshal()), sure: sure}
		if len(c.sightings) < maxProofs && !slices.ContainsFunc(c.sightings, one.same) {
			c.sightings = append(c.sightings, one)
		}
	}
}

// sighting is a certificate that a connection may have.
type sighting struct {
	certificate    *ssh.Certificate
	wire           string
	sure           bool
	verified, told bool
	// counted: it was verified before the side-car was started.
	counted bool
}

func (s sighting) same(o sighting) bool { return s.wire == o.wire && s.sure == o.sure }

// settle adds the certificates that the cluster has signed. Somebody else's, and
// those that are for another login, are none; but the authorities may be heard
// of later than the certificate is seen.
func (w *Watch) settle(c *Connection) {
	for i := range c.sightings {
		s := &c.sightings[i]
		if s.verified {
			continue
		}
		p, err := w.verify(c, s)
		if err != nil {
			if !s.told {
				w.settings.Log.Warn("a certificate of a connection does not count", "sid", c.ID, "login", c.Login, "error", err)
			}
			s.told = true
			continue
		}
		s.verified = true
		if s.sure && !c.sure {
			// What was learned before may be what somebody wrote.
			c.sure, c.Proofs = true, nil
		}
		c.add(p)
	}
	w.settleLines(c)
}

// verify holds the certificate against the time at which it was shown, not the
// present: what expires later ends the connection where policy asks for that.
func (w *Watch) verify(c *Connection, s *sighting) (Proof, error) {
	cert := s.certificate
	at := min(max(uint64(max(c.Seen.Unix(), 0)), cert.ValidAfter), max(cert.ValidBefore, 1)-1)
	check := identity.SSHCheck{
		Authorities: w.believed(s), Login: c.Login, Addr: c.Remote.Addr(), Now: time.Unix(int64(min(at, 1<<40)), 0),
	}
	id, err := check.Check(cert)
	if err != nil {
		return Proof{}, err
	}
	return Proof{Identity: id, Authority: string(cert.SignatureKey.Marshal()), Whole: true}, nil
}

// believeLine adds what the log tells. Where all is known already, a line that
// anybody may have written adds nothing.
func (w *Watch) believeLine(c *Connection, a accepted) {
	if c.sure {
		return
	}
	if !a.certificate {
		c.Otherwise = c.Otherwise || a.trusted
		return
	}
	ours := slices.ContainsFunc(w.settings.Authorities(), func(k ssh.PublicKey) bool { return ssh.FingerprintSHA256(k) == a.authority })
	if !ours {
		return
	}
	c.add(Proof{Identity: identity.Identity{User: a.keyID, Serial: a.serial}, Authority: a.authority})
}

// add leaves out what is known, and takes the whole of what is known in part.
func (c *Connection) add(p Proof) {
	for i, known := range c.Proofs {
		if known.Identity.Serial != p.Identity.Serial || known.Identity.User != p.Identity.User {
			continue
		}
		if !known.Whole && p.Whole {
			c.Proofs[i] = p
			return
		}
		if known.Whole && !p.Whole || known.Authority == p.Authority && known.Whole == p.Whole {
			return
		}
	}
	if len(c.Proofs) < maxProofs {
		c.Proofs = append(c.Proofs, p)
	}
}
