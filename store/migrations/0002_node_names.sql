-- +goose Up

-- authd: the names in host certificates that may still be shown. own_until:
-- the same of those in which it is the node's own name, and not only an address.
CREATE TABLE node_names (
    node_id      TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    name         TEXT NOT NULL,
    own_until    BIGINT NOT NULL,
    valid_before BIGINT NOT NULL,
    PRIMARY KEY (node_id, name)
);
CREATE INDEX node_names_name ON node_names (name);
