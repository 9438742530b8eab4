-- Times are microseconds since 1970; UUIDs are blobs of 16 bytes; lists and objects are JSON.

CREATE TABLE {prefix}keys (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    -- The name in lower case, to be searched.
    name_folded TEXT NOT NULL,
    owner TEXT,
    environment TEXT,
    scopes TEXT NOT NULL,
    limits TEXT NOT NULL,
    addresses TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER,
    disabled INTEGER NOT NULL,
    revoked INTEGER,
    rotated_from TEXT,
    -- The first key of its line.
    line TEXT NOT NULL,
    last_used INTEGER,
    hint TEXT NOT NULL,
    -- Never the secret.
    digest TEXT NOT NULL,
    -- The secret, encrypted, of a key that is recoverable.
    sealed BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX {prefix}keys_by_created ON {prefix}keys (created, id);
CREATE INDEX {prefix}keys_by_owner ON {prefix}keys (owner, created, id);

-- Who did what to which key, when, and what the key was before and after.
CREATE TABLE {prefix}key_changes (
    id BLOB NOT NULL PRIMARY KEY,
    time INTEGER NOT NULL,
    actor TEXT,
    action TEXT NOT NULL,
    key_id TEXT NOT NULL,
    before TEXT,
    after TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX {prefix}key_changes_by_time ON {prefix}key_changes (time, id);
CREATE INDEX {prefix}key_changes_by_key ON {prefix}key_changes (key_id, time, id);

-- What requests of one kind have in common.
CREATE TABLE {prefix}series (
    -- No number is given twice.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Names all that follows up to the cause.
    hash BLOB NOT NULL UNIQUE,
    key_id TEXT,
    owner TEXT,
    method TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    -- One of the two, or neither where there was no answer.
    http_status INTEGER,
    grpc_status INTEGER,
    outcome TEXT NOT NULL,
    cause TEXT,
    status_class TEXT NOT NULL,
    -- The day on which a request was last added, in days since 1970.
    seen INTEGER NOT NULL
) STRICT;
CREATE INDEX {prefix}series_by_key ON {prefix}series (key_id);
CREATE INDEX {prefix}series_by_owner ON {prefix}series (owner);

-- The request log; the view {prefix}request_log has it with what its series say.
CREATE TABLE {prefix}requests (
    row INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    id BLOB NOT NULL,
    -- Set where the id does not tell the time, to the millisecond.
    id_apart INTEGER,
    series_id INTEGER NOT NULL,
    -- The id on the wire, where it is not the event's own.
    request_id TEXT,
    path TEXT NOT NULL,
    resource_id TEXT,
    refusal TEXT,
    cost INTEGER NOT NULL,
    latency_us INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    client_address TEXT
) STRICT;
CREATE INDEX {prefix}requests_by_time ON {prefix}requests (time);
CREATE INDEX {prefix}requests_by_series ON {prefix}requests (series_id, time);
CREATE INDEX {prefix}requests_by_id ON {prefix}requests (id) WHERE id_apart IS NOT NULL;
-- By blocks of rows, so that what is new lies together.
CREATE INDEX {prefix}requests_by_request_id ON {prefix}requests (row >> 16, request_id, time)
    WHERE request_id IS NOT NULL;
CREATE INDEX {prefix}requests_by_resource ON {prefix}requests (row >> 16, resource_id, time)
    WHERE resource_id IS NOT NULL;

CREATE VIEW {prefix}request_log AS
    SELECT r.time, r.id, r.request_id, s.key_id, s.owner, s.method, s.endpoint, r.path,
        r.resource_id, s.http_status, s.grpc_status, s.status_class, s.outcome, s.cause, r.refusal,
        r.cost, r.latency_us, r.request_bytes, r.response_bytes, r.client_address
    FROM {prefix}requests r JOIN {prefix}series s ON s.id = r.series_id;

-- Sums of all requests by the minute, whatever the log still has. Those of a series lie
-- side by side.
CREATE TABLE {prefix}minutes (
    series_id INTEGER NOT NULL,
    start INTEGER NOT NULL,
    count INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    -- Pairs of numbers in LEB128: a bucket's place, counted from 1, and its count.
    latency BLOB NOT NULL,
    PRIMARY KEY (series_id, start)
) STRICT, WITHOUT ROWID;
CREATE INDEX {prefix}minutes_by_start ON {prefix}minutes (start);

-- The same by the hour.
CREATE TABLE {prefix}hours (
    series_id INTEGER NOT NULL,
    start INTEGER NOT NULL,
    count INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    latency BLOB NOT NULL,
    PRIMARY KEY (series_id, start)
) STRICT, WITHOUT ROWID;
CREATE INDEX {prefix}hours_by_start ON {prefix}hours (start);

-- The same by the day of UTC.
CREATE TABLE {prefix}days (
    series_id INTEGER NOT NULL,
    start INTEGER NOT NULL,
    count INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    latency BLOB NOT NULL,
    PRIMARY KEY (series_id, start)
) STRICT, WITHOUT ROWID;
CREATE INDEX {prefix}days_by_start ON {prefix}days (start);

-- The same sums by the minute once more, by key and outcome alone: for charts over time.
CREATE TABLE {prefix}key_minutes (
    start INTEGER NOT NULL,
    -- Names the key, its owner, the outcome and the cause.
    line BLOB NOT NULL,
    key_id TEXT,
    owner TEXT,
    outcome TEXT NOT NULL,
    cause TEXT,
    count INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    PRIMARY KEY (start, line)
) STRICT, WITHOUT ROWID;
CREATE INDEX {prefix}key_minutes_by_key ON {prefix}key_minutes (key_id, start);
CREATE INDEX {prefix}key_minutes_by_owner ON {prefix}key_minutes (owner, start);

-- The same by the hour.
CREATE TABLE {prefix}key_hours (
    start INTEGER NOT NULL,
    line BLOB NOT NULL,
    key_id TEXT,
    owner TEXT,
    outcome TEXT NOT NULL,
    cause TEXT,
    count INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    PRIMARY KEY (start, line)
) STRICT, WITHOUT ROWID;
CREATE INDEX {prefix}key_hours_by_key ON {prefix}key_hours (key_id, start);
CREATE INDEX {prefix}key_hours_by_owner ON {prefix}key_hours (owner, start);

CREATE VIEW {prefix}usage_by_minute AS
    SELECT t.start, s.key_id, s.owner, s.method, s.endpoint, s.http_status, s.grpc_status,
        s.status_class, s.outcome, s.cause, t.count, t.cost, t.request_bytes, t.response_bytes
    FROM {prefix}minutes t JOIN {prefix}series s ON s.id = t.series_id;
CREATE VIEW {prefix}usage_by_hour AS
    SELECT t.start, s.key_id, s.owner, s.method, s.endpoint, s.http_status, s.grpc_status,
        s.status_class, s.outcome, s.cause, t.count, t.cost, t.request_bytes, t.response_bytes
    FROM {prefix}hours t JOIN {prefix}series s ON s.id = t.series_id;

-- Batches that were written, so that none counts twice.
CREATE TABLE {prefix}batches (
    id BLOB NOT NULL PRIMARY KEY,
    applied INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX {prefix}batches_by_applied ON {prefix}batches (applied);

-- Up to when sums were dropped.
CREATE TABLE {prefix}dropped (
    what TEXT NOT NULL PRIMARY KEY,
    before INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
