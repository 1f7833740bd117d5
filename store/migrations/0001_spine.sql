-- Times are microseconds since 1970 UTC. One text for SQLite and PostgreSQL:
-- SQLite takes any name for a type, and keeps BYTEA values as blobs.

-- +goose Up

-- store: one row, raised by every change that others follow.
CREATE TABLE change_sequence (
    id  BIGINT PRIMARY KEY CHECK (id = 1),
    seq BIGINT NOT NULL
);
INSERT INTO change_sequence (id, seq) VALUES (1, 0);

-- ca: what is fixed at first start.
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value BYTEA NOT NULL
);

-- audit
CREATE TABLE audit_head (
    id   BIGINT PRIMARY KEY CHECK (id = 1),
    seq  BIGINT NOT NULL,
    hash BYTEA NOT NULL
);
CREATE TABLE audit_log (
    seq       BIGINT PRIMARY KEY,
    uid       TEXT NOT NULL UNIQUE,
    time      BIGINT NOT NULL,
    event     TEXT NOT NULL,
    user_name TEXT NOT NULL,
    success   BOOLEAN NOT NULL,
    record    TEXT NOT NULL,
    hash      BYTEA NOT NULL
);
CREATE INDEX audit_log_time ON audit_log (time);

-- ca
CREATE TABLE authorities (
    id         TEXT PRIMARY KEY,
    kind       TEXT NOT NULL,
    public     BYTEA NOT NULL,
    sealed_key BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE certificate_serial (
    id   BIGINT PRIMARY KEY CHECK (id = 1),
    last BIGINT NOT NULL
);
INSERT INTO certificate_serial (id, last) VALUES (1, 0);
CREATE TABLE certificates (
    serial         BIGINT PRIMARY KEY,
    kind           TEXT NOT NULL,
    subject        TEXT NOT NULL,
    login_id       TEXT NOT NULL,
    device_id      TEXT NOT NULL,
    key_digest     BYTEA NOT NULL,
    issued_at      BIGINT NOT NULL,
    valid_before   BIGINT NOT NULL,
    revoked_at     BIGINT NOT NULL DEFAULT 0,
    revoked_reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX certificates_subject ON certificates (subject);
CREATE INDEX certificates_login ON certificates (login_id);
CREATE INDEX certificates_device ON certificates (device_id);
CREATE INDEX certificates_revoked ON certificates (revoked_at, valid_before);

-- login
CREATE TABLE users (
    name       TEXT PRIMARY KEY,
    document   TEXT NOT NULL,
    revision   BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE passwords (
    user_name  TEXT PRIMARY KEY REFERENCES users (name) ON DELETE CASCADE,
    hash       TEXT NOT NULL,
    changed_at BIGINT NOT NULL
);
CREATE TABLE invites (
    token_hash BYTEA PRIMARY KEY,
    user_name  TEXT NOT NULL UNIQUE REFERENCES users (name) ON DELETE CASCADE,
    expires_at BIGINT NOT NULL
);
CREATE TABLE attempts (
    bucket     TEXT PRIMARY KEY,
    failures   BIGINT NOT NULL,
    next_at    BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE TABLE logins (
    id          TEXT PRIMARY KEY,
    user_name   TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    ssh_key     BYTEA NOT NULL,
    tls_key     BYTEA NOT NULL,
    remote_addr TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,
    device_id   TEXT NOT NULL DEFAULT ''
);
CREATE INDEX logins_user ON logins (user_name);

-- policy/catalog: roles, the preference, locks.
CREATE TABLE policy_objects (
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL,
    document   TEXT NOT NULL,
    revision   BIGINT NOT NULL,
    expires_at BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, name)
);

-- devices
CREATE TABLE devices (
    id            TEXT PRIMARY KEY,
    os_type       TEXT NOT NULL,
    asset_tag     TEXT NOT NULL,
    enroll_status TEXT NOT NULL,
    owner         TEXT NOT NULL DEFAULT '',
    credential_id TEXT NOT NULL DEFAULT '',
    ek_digest     TEXT NOT NULL DEFAULT '',
    document      TEXT NOT NULL,
    revision      BIGINT NOT NULL,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    last_seen_at  BIGINT NOT NULL DEFAULT 0,
    UNIQUE (asset_tag, os_type)
);
CREATE INDEX devices_credential ON devices (credential_id);
CREATE INDEX devices_owner ON devices (owner);
CREATE INDEX devices_ek ON devices (ek_digest);
CREATE TABLE device_tokens (
    hash       BYTEA PRIMARY KEY,
    device_id  TEXT NOT NULL UNIQUE REFERENCES devices (id) ON DELETE CASCADE,
    expires_at BIGINT NOT NULL
);

-- authd: nodes and how they join.
CREATE TABLE join_tokens (
    name       TEXT PRIMARY KEY,
    hash       BYTEA NOT NULL UNIQUE,
    labels     TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE TABLE nodes (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    document     TEXT NOT NULL,
    fixed_labels TEXT NOT NULL,
    last_seen_at BIGINT NOT NULL
);
