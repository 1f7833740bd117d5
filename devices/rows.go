package devices

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"devicetrust/resource"
	"devicetrust/store"
)

// version of device documents.
const version = "v1"

// find gives the devices that fit, by asset tag and operating system. where is
// ours, never a caller's text.
func find(tx *store.Tx, where string, args ...any) (found []resource.Device, err error) {
	err = scan(tx, where+inOrder, args, func(d resource.Device, _ int) bool {
		found = append(found, d)
		return true
	})
	return found, err
}

// inOrder is that of the bytes, on both engines.
const inOrder = ` ORDER BY asset_tag, os_type`

// scan calls each with the devices that fit and the bytes of their documents
// until it has seen enough.
func scan(tx *store.Tx, where string, args []any, each func(d resource.Device, size int) bool) (err error) {
	if slices.ContainsFunc(args, isNoText) {
		return nil
	}
	rows, err := tx.Query(`SELECT document, revision FROM devices WHERE `+where, args...)
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var document []byte
		var revision int64
		if err := rows.Scan(&document, &revision); err != nil {
			return fmt.Errorf("devices: %w", err)
		}
		d, err := parse(document, revision)
		if err != nil {
			return err
		}
		if !each(d, len(document)) {
			return nil
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	return nil
}

// isNoText tells whether arg is a string that no device has in it, and that
// PostgreSQL fails to look for.
func isNoText(arg any) bool {
	s, ok := arg.(string)
	return ok && (!utf8.ValidString(s) || strings.Contains(s, "\x00"))
}

func parse(document []byte, revision int64) (d resource.Device, err error) {
	if err := json.Unmarshal(document, &d); err != nil {
		var old error
		if d, old = parseEarlier(document); old != nil {
			return resource.Device{}, fmt.Errorf("devices: stored document: %w", err)
		}
	}
	if d.Version != version {
		return resource.Device{}, fmt.Errorf("devices: stored document of device %q has version %q, want %q", d.Metadata.Name, d.Version, version)
	}
	d.Metadata.Revision = strconv.FormatInt(revision, 10)
	return d, nil
}

// parseEarlier reads a document with the profile of an earlier version, which
// had texts under any names. Of two names a text is not what it is today: one
// account is a list, and a time that is none is left out, as are names that
// mean nothing any more.
func parseEarlier(document []byte) (resource.Device, error) {
	var d struct {
		resource.Header
		Spec struct {
			resource.DeviceSpec
			Profile map[string]string `json:"profile"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(document, &d); err != nil {
		return resource.Device{}, err
	}
	profile := &resource.DeviceProfile{}
	for name, text := range d.Spec.Profile {
		switch {
		case strings.EqualFold(name, "update_time"):
			continue
		case strings.EqualFold(name, "os_usernames"):
			profile.OSUsernames = []string{text}
			continue
		}
		field, err := json.Marshal(map[string]string{name: text})
		if err := errors.Join(err, json.Unmarshal(field, profile)); err != nil {
			return resource.Device{}, err
		}
	}
	d.Spec.DeviceSpec.Profile = profile
	return resource.Device{Header: d.Header, Spec: d.Spec.DeviceSpec}, nil
}

// insert stores a new device with revision 1.
func insert(tx *store.Tx, d *resource.Device) error {
	row, err := newRow(d)
	if err != nil {
		return err
	}
	return insertRows(tx, [][]any{row})
}

// newRow gives d revision 1, and what insertRows takes.
func newRow(d *resource.Device) ([]any, error) {
	d.Metadata.Revision = "1"
	return row(d, 1)
}

func row(d *resource.Device, revision int64) ([]any, error) {
	c, err := columns(d)
	return append([]any{d.Metadata.Name, revision}, c...), err
}

// byTag is the order in which rows of newRow cost least: the next one goes to
// the same page of an index.
func byTag(a, b []any) int { return strings.Compare(a[3].(string), b[3].(string)) }

const intoDevices = `devices (id, revision, os_type, asset_tag, enroll_status, owner, source, attestation, frozen,
	credential_id, ek_digest, document, created_at, updated_at, last_seen_at)`

func insertRows(tx *store.Tx, rows [][]any) error {
	if err := tx.InsertAll(intoDevices, rows, ``); err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	return nil
}

// updateRows stores devices that were read in the same transaction.
func updateRows(tx *store.Tx, rows [][]any) error {
	err := tx.InsertAll(intoDevices, rows, `ON CONFLICT (id) DO UPDATE SET revision = excluded.revision,
		os_type = excluded.os_type, asset_tag = excluded.asset_tag, enroll_status = excluded.enroll_status,
		owner = excluded.owner, source = excluded.source, attestation = excluded.attestation, frozen = excluded.frozen,
		credential_id = excluded.credential_id, ek_digest = excluded.ek_digest, document = excluded.document,
		created_at = excluded.created_at, updated_at = excluded.updated_at, last_seen_at = excluded.last_seen_at`)
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	return nil
}

// update stores a device that was read in the same transaction.
func update(tx *store.Tx, d *resource.Device) error {
	row, err := nextRow(d)
	if err != nil {
		return err
	}
	return updateRows(tx, [][]any{row})
}

// nextRow raises the revision of d, and gives what updateRows takes.
func nextRow(d *resource.Device) ([]any, error) {
	revision, err := strconv.ParseInt(d.Metadata.Revision, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("devices: revision of device %q: %w", d.Metadata.Name, err)
	}
	d.Metadata.Revision = strconv.FormatInt(revision+1, 10)
	return row(d, revision+1)
}

// columns are what devices are looked up by, from the one document that says
// it.
func columns(d *resource.Device) ([]any, error) {
	kept := *d
	kept.Metadata.Revision = "" // the column's
	document, err := json.Marshal(kept)
	if err != nil {
		return nil, fmt.Errorf("devices: document of device %q: %w", d.Metadata.Name, err)
	}
	var credential resource.Credential
	if d.Spec.Credential != nil {
		credential = *d.Spec.Credential
	}
	var source resource.DeviceSource
	if d.Spec.Source != nil {
		source = *d.Spec.Source
	}
	return []any{
		d.Spec.OSType, d.Spec.AssetTag, d.Spec.EnrollStatus, d.Spec.Owner,
		source.Name, credential.DeviceAttestationType, d.Spec.Frozen != nil,
		credential.ID, credential.TPMEKKeyDigest, string(document),
		store.Micros(d.Spec.CreateTime), store.Micros(d.Spec.UpdateTime), store.Micros(d.Spec.LastSeenTime),
	}, nil
}
