-- +goose Up

-- devices: what each device has shown, to be looked at again. Some is kept of
-- what was refused: it says what the machine was then.
CREATE TABLE device_evidence (
    device_id  TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    seq        BIGINT NOT NULL,
    taken_at   BIGINT NOT NULL,
    purpose    TEXT NOT NULL, -- enroll, login
    user_name  TEXT NOT NULL,
    level      TEXT NOT NULL,
    accepted   BOOLEAN NOT NULL,
    log_digest BYTEA NOT NULL, -- SHA-256; empty without an event log
    document   TEXT NOT NULL,
    PRIMARY KEY (device_id, seq)
);
-- An event log is the same from a machine's start to its next one.
CREATE TABLE device_event_logs (
    device_id TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    digest    BYTEA NOT NULL,
    log       BYTEA NOT NULL,
    PRIMARY KEY (device_id, digest)
);
