-- +goose Up

-- devices: what the inventory is filtered by. It is listed by tag and system
-- in the order of their bytes, whatever the language of the database: pages go
-- on where the last one ended, and what begins with a prefix is a range.
ALTER TABLE devices ALTER COLUMN asset_tag TYPE TEXT COLLATE "C"; -- PostgreSQL only
ALTER TABLE devices ALTER COLUMN os_type TYPE TEXT COLLATE "C"; -- PostgreSQL only
ALTER TABLE devices ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN attestation TEXT NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN frozen BOOLEAN NOT NULL DEFAULT FALSE;

-- Documents are compact JSON, in which a quote within a text has a backslash
-- before it, so these say what the field is. There were no other sources and
-- attestations, and nothing was frozen.
UPDATE devices SET source = 'manual' WHERE document LIKE '%"source":{"name":"manual",%';
UPDATE devices SET source = 'self' WHERE document LIKE '%"source":{"name":"self",%';
UPDATE devices SET attestation = 'tpm_ekpub' WHERE document LIKE '%"device_attestation_type":"tpm_ekpub"%';
UPDATE devices SET attestation = 'tpm_ekcert' WHERE document LIKE '%"device_attestation_type":"tpm_ekcert"%';
UPDATE devices SET attestation = 'tpm_ekcert_trusted' WHERE document LIKE '%"device_attestation_type":"tpm_ekcert_trusted"%';

-- Partial where most devices have nothing of the kind: a device that is only
-- registered costs as little as it can, and they come by the thousand.
CREATE INDEX devices_source ON devices (source, asset_tag, os_type);
CREATE INDEX devices_enrolled ON devices (asset_tag, os_type) WHERE enroll_status = 'enrolled';
CREATE INDEX devices_attestation ON devices (attestation, asset_tag, os_type) WHERE attestation <> '';
CREATE INDEX devices_frozen ON devices (asset_tag, os_type) WHERE frozen;
