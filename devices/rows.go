package devices

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

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

func parse(document []byte, revision int64) (d resource.Device, err error) {
	if err := json.Unmarshal(document, &d); err != nil {
		return resource.Device{}, fmt.Errorf("devices: stored document: %w", err)
	}
	if d.Version != version {
		return resource.Device{}, fmt.Errorf("devices: stored document of device %q has version %q, want %q", d.Metadata.Name, d.Version, version)
	}
	d.Metadata.Revision = strconv.FormatInt(revision, 10)
	return d, nil
}

// insert stores a new device with revision 1.
func insert(tx *store.Tx, d *resource.Device) error {
	c, err := columns(d)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO devices
		(id, os_type, asset_tag, enroll_status, owner, source, attestation, frozen, credential_id, ek_digest,
		document, created_at, updated_at, last_seen_at, revision)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 1)`,
		append([]any{d.Metadata.Name}, c...)...)
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	d.Metadata.Revision = "1"
	if len(d.Spec.Owners) == 0 {
		return nil
	}
	return keepOwners(tx, *d)
}

// update stores a device that was read in the same transaction.
func update(tx *store.Tx, d *resource.Device) error {
	c, err := columns(d)
	if err != nil {
		return err
	}
	n, err := tx.Exec(`UPDATE devices SET
		os_type = $2, asset_tag = $3, enroll_status = $4, owner = $5, source = $6, attestation = $7, frozen = $8,
		credential_id = $9, ek_digest = $10, document = $11, created_at = $12, updated_at = $13, last_seen_at = $14,
		revision = revision + 1
		WHERE id = $1`,
		append([]any{d.Metadata.Name}, c...)...)
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	if n != 1 {
		return fmt.Errorf("devices: device %q is not there", d.Metadata.Name)
	}
	revision, err := strconv.ParseInt(d.Metadata.Revision, 10, 64)
	if err != nil {
		return fmt.Errorf("devices: revision of device %q: %w", d.Metadata.Name, err)
	}
	d.Metadata.Revision = strconv.FormatInt(revision+1, 10)
	return nil
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
