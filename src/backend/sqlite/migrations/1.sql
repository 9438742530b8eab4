-- Times are microseconds since 1970; UUIDs are blobs of 16 bytes; lists and objects are JSON.

CREATE TABLE §keys (
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
    digest TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX §keys_by_created ON §keys (created, id);
CREATE INDEX §keys_by_owner ON §keys (owner, created, id);

-- The request log.
CREATE TABLE §requests (
    id BLOB NOT NULL,
    time INTEGER NOT NULL,
    -- The id on the wire, where it is not the event's own.
    request_id TEXT,
    key_id TEXT,
    owner TEXT,
    method TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    path TEXT NOT NULL,
    resource_id TEXT,
    -- One of the two, or neither where there was no answer.
    http_status INTEGER,
    grpc_status INTEGER,
    status_class TEXT NOT NULL,
    outcome TEXT NOT NULL,
    cause TEXT,
    refusal TEXT,
    cost INTEGER NOT NULL,
    latency_us INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    client_address TEXT
) STRICT;
CREATE INDEX §requests_by_time ON §requests (time, id);
CREATE INDEX §requests_by_key ON §requests (key_id, time, id);
CREATE INDEX §requests_by_owner ON §requests (owner, time, id);
CREATE INDEX §requests_by_id ON §requests (id);
CREATE INDEX §requests_by_request_id ON §requests (request_id, time) WHERE request_id IS NOT NULL;
CREATE INDEX §requests_by_resource ON §requests (resource_id, time, id) WHERE resource_id IS NOT NULL;

-- Sums of all requests, by the minute, whatever the log still has.
CREATE TABLE §minutes (
    start INTEGER NOT NULL,
    -- Names all that follows up to the counts.
    series BLOB NOT NULL,
    key_id TEXT,
    owner TEXT,
    method TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    http_status INTEGER,
    grpc_status INTEGER,
    outcome TEXT NOT NULL,
    cause TEXT,
    count INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    -- [[lowest microsecond of a bucket, count], …]
    latency TEXT NOT NULL,
    PRIMARY KEY (start, series)
) STRICT, WITHOUT ROWID;
CREATE INDEX §minutes_by_key ON §minutes (key_id, start);
CREATE INDEX §minutes_by_owner ON §minutes (owner, start);

-- Batches that were written, so that none counts twice.
CREATE TABLE §batches (
    id BLOB NOT NULL PRIMARY KEY,
    applied INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX §batches_by_applied ON §batches (applied);
