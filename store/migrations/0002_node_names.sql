-- +goose Up

-- authd: the names in host certificates that may still be shown. own: the
-- node's name, and not only an address of it.
CREATE TABLE node_names (
    node_id      TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    name         TEXT NOT NULL,
    own          BOOLEAN NOT NULL,
    valid_before BIGINT NOT NULL,
    PRIMARY KEY (node_id, name)
);
CREATE INDEX node_names_name ON node_names (name);
