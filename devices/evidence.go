package devices

import (
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/legacy/tpm2"

	"devicetrust/api/dtv1"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// Purposes of a ceremony whose evidence is kept.
const (
	toEnroll = "enroll"
	toLogIn  = "login"
)

// evidence is what a device has shown in a ceremony.
type evidence struct {
	purpose, user string
	takenAt       time.Time
	level         policy.EvidenceLevel
	// accepted is false where the quote held and the device was refused for
	// what it says.
	accepted bool
	document evidenceDocument
}

// evidenceVersion is raised when the document changes its meaning.
const evidenceVersion = 1

// evidenceDocument is all that is needed to verify evidence again; the event
// log is beside it.
type evidenceDocument struct {
	Version   int      `json:"version"`
	Nonce     []byte   `json:"nonce"`
	Quote     []byte   `json:"quote"`
	Signature []byte   `json:"signature"`
	PCRs      [][]byte `json:"pcrs"`
	AKPublic  []byte   `json:"ak_public"`
	// EKKey is PKIX DER; both are of enrollments only.
	EKKey         []byte `json:"ek_key,omitempty"`
	EKCertificate []byte `json:"ek_certificate,omitempty"`
	// For people: they are in the quote.
	ResetCount   int64  `json:"reset_count"`
	RestartCount int64  `json:"restart_count"`
	ClockMillis  int64  `json:"clock_millis"`
	Firmware     string `json:"firmware,omitempty"`

	eventLog []byte
}

// evidenceOf is what m rests on.
func evidenceOf(purpose, user string, m measured, now time.Time) evidence {
	q := m.quoted
	e := evidence{purpose: purpose, user: user, takenAt: now, level: m.level, accepted: true, document: evidenceDocument{
		Version: evidenceVersion, Nonce: q.nonce, Quote: q.quote, Signature: q.signature, AKPublic: q.akPublic,
		ResetCount: q.counters.reset, RestartCount: q.counters.restart, ClockMillis: q.counters.clock, Firmware: q.counters.firmware,
		eventLog: q.eventLog,
	}}
	for _, p := range q.pcrs {
		e.document.PCRs = append(e.document.PCRs, p.Digest)
	}
	return e
}

// verify holds kept evidence against the key that it names, as when it came.
func (d *evidenceDocument) verify() (measured, error) {
	platform := &dtv1.TPMPlatform{
		Quotes:   []*dtv1.TPMQuote{{Quote: d.Quote, Signature: d.Signature}},
		EventLog: d.eventLog,
	}
	for n, digest := range d.PCRs {
		platform.Pcrs = append(platform.Pcrs, &dtv1.TPMPCR{Index: int32(n), Digest: digest, DigestAlg: uint32(tpm2.AlgSHA256)})
	}
	return guard(func() (measured, error) { return verifyQuote(d.AKPublic, platform, d.Nonce) })
}

// keep stores what a device has shown: of enrollments the last, of logins the
// last maxAuthentications, and each event log once.
func keep(tx *store.Tx, deviceID string, e evidence) error {
	document, err := json.Marshal(e.document)
	if err != nil {
		return fmt.Errorf("devices: evidence: %w", err)
	}
	digest := []byte{}
	if log := e.document.eventLog; len(log) > 0 {
		sum := sha256.Sum256(log)
		digest = sum[:]
		if _, err := tx.Exec(`INSERT INTO device_event_logs (device_id, digest, log) VALUES ($1, $2, $3)
			ON CONFLICT (device_id, digest) DO NOTHING`, deviceID, digest, log); err != nil {
			return fmt.Errorf("devices: event log: %w", err)
		}
	}
	var seq int64
	if err := tx.QueryRow(`SELECT COALESCE(MAX(seq), 0) + 1 FROM device_evidence WHERE device_id = $1`, deviceID).Scan(&seq); err != nil {
		return fmt.Errorf("devices: evidence: %w", err)
	}
	if _, err := tx.Exec(`INSERT INTO device_evidence
		(device_id, seq, taken_at, purpose, user_name, level, accepted, log_digest, document)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		deviceID, seq, store.Micros(e.takenAt), e.purpose, e.user, string(e.level), e.accepted, digest, string(document)); err != nil {
		return fmt.Errorf("devices: evidence: %w", err)
	}
	return forget(tx, deviceID, e.purpose)
}

// forget deletes evidence of a purpose that is too old, and event logs that no
// evidence has.
func forget(tx *store.Tx, deviceID, purpose string) error {
	kept := 1
	if purpose == toLogIn {
		kept = maxAuthentications
	}
	if _, err := tx.Exec(`DELETE FROM device_evidence WHERE device_id = $1 AND purpose = $2 AND seq NOT IN
		(SELECT seq FROM device_evidence WHERE device_id = $1 AND purpose = $2 ORDER BY seq DESC LIMIT $3)`, deviceID, purpose, kept); err != nil {
		return fmt.Errorf("devices: evidence: %w", err)
	}
	if _, err := tx.Exec(`DELETE FROM device_event_logs WHERE device_id = $1 AND digest NOT IN
		(SELECT log_digest FROM device_evidence WHERE device_id = $1)`, deviceID); err != nil {
		return fmt.Errorf("devices: event logs: %w", err)
	}
	return nil
}

// forgetAll deletes all evidence of a device: the next to enroll it may have
// another TPM, and is somebody else.
func forgetAll(tx *store.Tx, deviceID string) error {
	for _, table := range []string{"device_evidence", "device_event_logs"} {
		if _, err := tx.Exec(`DELETE FROM `+table+` WHERE device_id = $1`, deviceID); err != nil {
			return fmt.Errorf("devices: evidence: %w", err)
		}
	}
	return nil
}

// latest gives the newest evidence of a device, of one purpose where that is
// not empty; nil where none is kept.
func latest(tx *store.Tx, deviceID, purpose string) (*evidence, error) {
	e := &evidence{}
	var level, document string
	var takenAt int64
	err := tx.QueryRow(`SELECT e.purpose, e.user_name, e.taken_at, e.level, e.accepted, e.document, l.log
		FROM device_evidence e LEFT JOIN device_event_logs l ON l.device_id = e.device_id AND l.digest = e.log_digest
		WHERE e.device_id = $1 AND ($2 = '' OR e.purpose = $2) ORDER BY e.seq DESC LIMIT 1`, deviceID, purpose).
		Scan(&e.purpose, &e.user, &takenAt, &level, &e.accepted, &document, &e.document.eventLog)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("devices: evidence: %w", err)
	}
	e.takenAt, e.level = store.Time(takenAt), policy.EvidenceLevel(level)
	if err := json.Unmarshal([]byte(document), &e.document); err != nil {
		return nil, fmt.Errorf("devices: kept evidence: %w", err)
	}
	if e.document.Version != evidenceVersion {
		return nil, fmt.Errorf("devices: kept evidence has version %d, want %d", e.document.Version, evidenceVersion)
	}
	return e, nil
}

// baselineOf is what a device should show from now on: what it shows in m.
func baselineOf(q *quoted, now time.Time) *resource.DeviceBaseline {
	b := &resource.DeviceBaseline{
		Time: now, PCRs: map[string]string{},
		ResetCount: q.counters.reset, RestartCount: q.counters.restart, ClockMillis: q.counters.clock, Firmware: q.counters.firmware,
	}
	for _, p := range q.pcrs {
		b.PCRs[strconv.Itoa(p.Index)] = hex.EncodeToString(p.Digest)
	}
	return b
}

// changedPCRs are those of the wanted ones that are not as in the baseline;
// what it does not know has changed.
func changedPCRs(b *resource.DeviceBaseline, pcrs []attest.PCR, wanted []int64) (changed []int64) {
	for _, n := range wanted {
		if n < 0 || n >= int64(len(pcrs)) || b == nil || b.PCRs[strconv.FormatInt(n, 10)] != hex.EncodeToString(pcrs[n].Digest) {
			changed = append(changed, n)
		}
	}
	return changed
}

// comparedPCRs are those that the cluster compares.
func comparedPCRs(trust policy.DeviceTrust) []int64 {
	if len(trust.PCRs) > 0 {
		return trust.PCRs
	}
	return []int64{0, 1, 2, 3, 4, 5, 6, 7}
}

// shown is m as the inventory has it.
func shown(m measured, manufacturer string, now time.Time) *resource.DeviceEvidence {
	e := &resource.DeviceEvidence{Time: now, Level: string(m.level), TPMManufacturer: manufacturer, Reasons: m.notes}
	if m.quoted != nil {
		e.TPMFirmware = m.quoted.counters.firmware
	}
	return e
}
