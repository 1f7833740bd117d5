-- +goose Up

-- login: how long the person asked their certificates to live, in microseconds;
-- 0: they did not say, as those whose logins are from before.
ALTER TABLE logins ADD COLUMN ttl BIGINT NOT NULL DEFAULT 0;
