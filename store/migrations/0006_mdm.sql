-- +goose Up

-- devices: which run of which device management source saw a device last, and
-- of when what it said then was.
CREATE TABLE device_sync (
    device_id TEXT PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
    source    TEXT NOT NULL,
    origin    TEXT NOT NULL,
    run       TEXT NOT NULL,
    said_at   BIGINT NOT NULL
);
CREATE INDEX device_sync_source ON device_sync (source, origin, device_id);

-- devices/mdm: when a source was read, and which run reads it now. read_at is
-- the beginning of the last run that succeeded, full_at the end of the last
-- full one.
CREATE TABLE mdm_runs (
    source      TEXT PRIMARY KEY,
    holder      TEXT NOT NULL DEFAULT '',
    lease_until BIGINT NOT NULL DEFAULT 0,
    read_at     BIGINT NOT NULL DEFAULT 0,
    full_at     BIGINT NOT NULL DEFAULT 0,
    failures    BIGINT NOT NULL DEFAULT 0,
    retry_at    BIGINT NOT NULL DEFAULT 0
);
