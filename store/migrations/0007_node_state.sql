-- +goose Up

-- authd: what a node says of itself that is no part of its document: what
-- enforces there, and by which state it decides: its number, when the control
-- plane last confirmed it, and when the node said so. 0: it has said nothing.
ALTER TABLE nodes ADD COLUMN enforcer TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN state_sequence BIGINT NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN state_time BIGINT NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN state_reported_at BIGINT NOT NULL DEFAULT 0;
