package audit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"devicetrust/audit/event"
)

// fit returns e as it is recorded, and its JSON: valid UTF-8 without NUL
// (PostgreSQL's text has none), times in UTC and in whole microseconds, what
// is too long cut, with a mark that says so.
func fit(e event.Event) (event.Event, []byte, error) {
	for _, b := range cuts {
		cut := b.event(e)
		text, err := json.Marshal(cut)
		if err != nil {
			return event.Event{}, nil, fmt.Errorf("audit: %w", err)
		}
		if len(text) <= maxRecord {
			return cut, text, nil
		}
	}
	return event.Event{}, nil, fmt.Errorf("audit: event %q does not fit into %d bytes", e.Type, maxRecord)
}

func (b bounds) event(e event.Event) event.Event {
	e.Time, e.ValidUntil = instant(e.Time), instant(e.ValidUntil)
	for _, s := range []*string{&e.Message, &e.Command, &e.Path, &e.TargetPath, &e.Addr} {
		*s = clip(*s, b.long)
	}
	for _, s := range []*string{
		(*string)(&e.Type), &e.Code, &e.UID, &e.Cluster, &e.User, &e.Name, &e.Kind, &e.RemoteAddr,
		&e.Login, &e.LoginID, &e.NodeID, &e.NodeName, &e.SessionID, &e.Action,
	} {
		*s = clip(*s, b.short)
	}
	e.Device, e.TrustedDevice = b.device(e.Device), b.device(e.TrustedDevice)
	e.Key = b.key(e.Key)
	e.Roles, e.Reasons = b.list(e.Roles), b.list(e.Reasons)
	if len(e.Serials) > b.items {
		e.Reasons = append(e.Reasons, fmt.Sprintf("[%d more serials cut]", len(e.Serials)-b.items))
		e.Serials = slices.Clone(e.Serials[:b.items])
	}
	return e
}

func (b bounds) device(d *event.Device) *event.Device {
	if d == nil {
		return nil
	}
	return &event.Device{
		DeviceID:     clip(d.DeviceID, b.short),
		AssetTag:     clip(d.AssetTag, b.short),
		OSType:       clip(d.OSType, b.short),
		CredentialID: clip(d.CredentialID, b.short),
	}
}

// key keeps the whole proof, or nothing of it: a part proves nothing.
func (b bounds) key(k *event.Key) *event.Key {
	if k == nil {
		return nil
	}
	kept := &event.Key{Policy: clip(k.Policy, b.short), Attestation: clip(k.Attestation, b.short)}
	if len(k.Public)+len(k.CertifyInfo)+len(k.Signature) <= maxProof {
		kept.Public, kept.CertifyInfo, kept.Signature = k.Public, k.CertifyInfo, k.Signature
	}
	return kept
}

func (b bounds) list(in []string) []string {
	var out []string
	for _, s := range in[:min(len(in), b.items)] {
		out = append(out, clip(s, b.item))
	}
	if more := len(in) - b.items; more > 0 {
		out = append(out, fmt.Sprintf("[%d more cut]", more))
	}
	return out
}

// clip returns s as valid UTF-8 without NUL and at most limit bytes of it,
// with a mark where there were more.
func clip(s string, limit int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
	if len(s) <= limit {
		return s
	}
	n := limit
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return fmt.Sprintf("%s… [%d bytes cut]", s[:n], len(s)-n)
}

// instant is t as the store keeps it.
func instant(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.Truncate(time.Microsecond).UTC()
}
