-- +goose Up

-- devices: the others whose logins a device may authenticate (spec.owners).
-- Who enrolled it is devices.owner.
CREATE TABLE device_owners (
    device_id TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    user_name TEXT NOT NULL,
    PRIMARY KEY (device_id, user_name)
);
CREATE INDEX device_owners_user ON device_owners (user_name);

-- devices: whose login asked for a token of auto-enrollment; empty for one
-- that somebody was given.
ALTER TABLE device_tokens ADD COLUMN auto_user TEXT NOT NULL DEFAULT '';
