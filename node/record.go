package node

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"devicetrust/audit/event"
	"devicetrust/identity"
)

func (s *server) newID() string { return uuid.NewString() }

// recorder writes one node's audit records.
type recorder struct {
	spool                 *spool
	cluster, nodeID, name string
	now                   func() time.Time
}

func (s *server) record(events ...event.Event) error {
	return recorder{s.spool, s.cluster, s.nodeID, s.name, s.now}.record(events...)
}

// record writes audit records to the spool. What they are about may happen
// only where there is no error.
func (r recorder) record(events ...event.Event) error {
	now := r.now().UTC()
	for i := range events {
		e := &events[i]
		e.UID, e.Time, e.Code = uuid.NewString(), now, event.CodeOf(e.Type, e.Success)
		e.Cluster, e.NodeID, e.NodeName = r.cluster, r.nodeID, r.name
	}
	return r.spool.append(events...)
}

// about fills e's fields about who and from where.
func about(e event.Event, id identity.Identity, login string, from netip.AddrPort) event.Event {
	e.User, e.Roles, e.Login = id.User, id.Roles, login
	e.RemoteAddr = from.String()
	if id.Serial != 0 {
		e.Serials = []uint64{id.Serial}
	}
	if id.Device.Trusted() {
		e.TrustedDevice = &event.Device{
			DeviceID: id.Device.ID, AssetTag: id.Device.AssetTag, CredentialID: id.Device.CredentialID,
		}
	}
	// Once for a session; what is done in it has its ID.
	if e.Type == event.SessionStart || e.Type == event.SessionRejected {
		e.Key = keyOf(id)
	}
	return e
}

// keyOf is what the certificate says of its key, so that the record of a session
// leads to the proof in that of the login; nil where it says nothing.
func keyOf(id identity.Identity) *event.Key {
	if id.PrivateKeyPolicy == "" {
		return nil
	}
	return &event.Key{Policy: id.PrivateKeyPolicy, Attestation: id.KeyAttestation}
}

// recordRefusal notes that somebody was not let in.
func (s *server) recordRefusal(c *connection, login string, no *refusal) {
	if identity.CheckLogin(login) != nil {
		login = ""
	}
	s.metrics.refused(no)
	s.log.Info("session refused", "user", no.identity.User, "login", login, "remote", c.remote, "reason", no.reason, "details", no.details)
	s.recordRefused(c, login, no, event.Event{Type: event.SessionRejected})
}

// recordRefused records that e does not happen. The refusal stands whether or
// not that can be recorded.
func (s *server) recordRefused(c *connection, login string, no *refusal, e event.Event) {
	user := no.identity.User
	left, ok := s.refusals.take(user, s.now())
	if !ok {
		return
	}
	reasons := boundedLines(no.details)
	if left > 0 {
		reasons = append(reasons[:len(reasons):len(reasons)], leftOut(left))
	}
	e.Message, e.Reasons = no.reason, reasons
	if err := s.record(about(e, no.identity, login, c.remote)); err != nil {
		s.refusals.giveBack(user, left, s.now())
		s.log.Error("a refusal is not recorded", "event", e.Type, "error", err)
	}
}

// boundedLines are as many of lines as fit a record, and say so where some do
// not.
func boundedLines(lines []string) []string {
	size := 0
	for i, l := range lines {
		if size += len(l); size > maxDetails {
			return append(lines[:i:i], fmt.Sprintf("and %d more", len(lines)-i))
		}
	}
	return lines
}

func (s *session) event(e event.Event) event.Event {
	e.SessionID = s.id
	return about(e, s.admit.identity, s.admit.login, s.conn.remote)
}

// recordEnd: the session is over whether or not that can be recorded.
func (s *session) recordEnd(e event.Event) {
	e.Type, e.Action = event.SessionEnd, s.task.action()
	e.Command = shortened(recordable(s.task.line), maxEndCommand)
	if err := s.conn.server.recordFor(s.admit, s.event(e)); err != nil {
		s.conn.server.log.Error("the end of a session is not recorded", "sid", s.id, "error", err)
	}
}

// shortened is text, or so many bytes of it and a mark.
func shortened(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// recordable is command as JSON can hold it without loss: what is not UTF-8
// would be replaced there, so it is quoted.
func recordable(command string) string {
	if utf8.ValidString(command) {
		return command
	}
	return strconv.Quote(command)
}
