CREATE TABLE {prefix}keys (
    id text COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    name_folded text NOT NULL,
    owner text,
    environment text,
    scopes jsonb NOT NULL,
    limits jsonb NOT NULL,
    addresses jsonb NOT NULL,
    metadata jsonb NOT NULL,
    created timestamptz NOT NULL,
    expires timestamptz,
    disabled boolean NOT NULL,
    revoked timestamptz,
    rotated_from text,
    line text NOT NULL,
    last_used timestamptz,
    hint text NOT NULL,
    digest text NOT NULL,
    sealed bytea
) WITH (fillfactor = 80);
CREATE INDEX {unqualified_prefix}keys_by_created ON {prefix}keys (created, id);
CREATE INDEX {unqualified_prefix}keys_by_owner ON {prefix}keys (owner, created, id);
COMMENT ON TABLE {prefix}keys IS 'API keys. Holds digests of secrets, and secrets only encrypted.';
COMMENT ON COLUMN {prefix}keys.id IS 'The public part of the secret; safe to log and show.';
COMMENT ON COLUMN {prefix}keys.name IS 'What people call it.';
COMMENT ON COLUMN {prefix}keys.name_folded IS 'The name in lower case, to be searched.';
COMMENT ON COLUMN {prefix}keys.owner IS 'The customer or team that the key belongs to.';
COMMENT ON COLUMN {prefix}keys.environment IS 'A tag such as live or test.';
COMMENT ON COLUMN {prefix}keys.scopes IS 'What it may do: a list of texts.';
COMMENT ON COLUMN {prefix}keys.limits IS 'Its own rate limits; without any, the layer''s defaults hold.';
COMMENT ON COLUMN {prefix}keys.addresses IS 'Networks from which it may be used; everywhere if empty.';
COMMENT ON COLUMN {prefix}keys.metadata IS 'Whatever else the application keeps with it.';
COMMENT ON COLUMN {prefix}keys.created IS 'When it was issued.';
COMMENT ON COLUMN {prefix}keys.expires IS 'From when on it no longer works.';
COMMENT ON COLUMN {prefix}keys.disabled IS 'Whether it is switched off for now.';
COMMENT ON COLUMN {prefix}keys.revoked IS 'When it was revoked, for good.';
COMMENT ON COLUMN {prefix}keys.rotated_from IS 'The key that it took over from.';
COMMENT ON COLUMN {prefix}keys.line IS 'The first key of its line, under which limits are kept.';
COMMENT ON COLUMN {prefix}keys.last_used IS 'When it was last used, as far as written usage tells.';
COMMENT ON COLUMN {prefix}keys.hint IS 'What people recognize its secret by.';
COMMENT ON COLUMN {prefix}keys.digest IS 'The digest of its secret, with its algorithm.';
COMMENT ON COLUMN {prefix}keys.sealed IS 'Its secret, encrypted by the application; empty unless it is recoverable.';

CREATE TABLE {prefix}key_changes (
    id uuid PRIMARY KEY,
    time timestamptz NOT NULL,
    actor text,
    action text NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    before jsonb,
    after jsonb
);
CREATE INDEX {unqualified_prefix}key_changes_by_time ON {prefix}key_changes (time, id);
CREATE INDEX {unqualified_prefix}key_changes_by_key ON {prefix}key_changes (key_id, time, id);
COMMENT ON TABLE {prefix}key_changes IS 'What was done to keys: the audit. Holds no secrets and no digests.';
COMMENT ON COLUMN {prefix}key_changes.id IS 'A UUID of version 7.';
COMMENT ON COLUMN {prefix}key_changes.time IS 'When it was done.';
COMMENT ON COLUMN {prefix}key_changes.actor IS 'The actor, if the application names one.';
COMMENT ON COLUMN {prefix}key_changes.action IS 'created, updated, disabled, enabled, revoked, rotated, revealed or deleted.';
COMMENT ON COLUMN {prefix}key_changes.key_id IS 'To which key.';
COMMENT ON COLUMN {prefix}key_changes.before IS 'The key before; empty where it was created.';
COMMENT ON COLUMN {prefix}key_changes.after IS 'The key after; empty where it was deleted.';

CREATE TABLE {prefix}series (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash bytea NOT NULL UNIQUE,
    key_id text COLLATE "C",
    owner text,
    method text NOT NULL,
    endpoint text NOT NULL,
    http_status integer,
    grpc_status integer,
    outcome text NOT NULL,
    cause text,
    status_class text NOT NULL,
    seen bigint NOT NULL
);
CREATE INDEX {unqualified_prefix}series_by_key ON {prefix}series (key_id);
CREATE INDEX {unqualified_prefix}series_by_owner ON {prefix}series USING hash (owner);
COMMENT ON TABLE {prefix}series IS 'What requests of one kind have in common.';
COMMENT ON COLUMN {prefix}series.id IS 'By which the log and the sums name it.';
COMMENT ON COLUMN {prefix}series.hash IS 'Names all that follows up to the cause.';
COMMENT ON COLUMN {prefix}series.key_id IS 'The key that asked; empty for anonymous requests.';
COMMENT ON COLUMN {prefix}series.owner IS 'The key''s owner at the time.';
COMMENT ON COLUMN {prefix}series.method IS 'The method, or OTHER.';
COMMENT ON COLUMN {prefix}series.endpoint IS 'The route''s template, or the full name of a gRPC method.';
COMMENT ON COLUMN {prefix}series.http_status IS 'The status of an answer over HTTP.';
COMMENT ON COLUMN {prefix}series.grpc_status IS 'The code of an answer over gRPC.';
COMMENT ON COLUMN {prefix}series.outcome IS 'completed, failed or rate_limited.';
COMMENT ON COLUMN {prefix}series.cause IS 'Why they failed, if they did.';
COMMENT ON COLUMN {prefix}series.status_class IS '2xx and so on; none where there was no answer.';
COMMENT ON COLUMN {prefix}series.seen IS 'The day on which a request was last added, in days since 1970.';

CREATE TABLE {prefix}requests (
    time timestamptz NOT NULL,
    id uuid NOT NULL,
    id_apart boolean,
    series_id bigint NOT NULL,
    request_id text COLLATE "C",
    path text NOT NULL,
    resource_id text COLLATE "C",
    refusal text,
    cost bigint NOT NULL,
    latency_us bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    client_address inet
) PARTITION BY RANGE (time);
CREATE INDEX {unqualified_prefix}requests_by_time ON {prefix}requests (time);
CREATE INDEX {unqualified_prefix}requests_by_series ON {prefix}requests (series_id, time);
CREATE INDEX {unqualified_prefix}requests_by_id ON {prefix}requests (id) WHERE id_apart IS NOT NULL;
CREATE INDEX {unqualified_prefix}requests_by_request_id ON {prefix}requests ((left(request_id, 64)), time) WHERE request_id IS NOT NULL;
CREATE INDEX {unqualified_prefix}requests_by_resource ON {prefix}requests ((left(resource_id, 64)), time) WHERE resource_id IS NOT NULL;
COMMENT ON TABLE {prefix}requests IS 'The request log, in a partition a day; see the view {unqualified_prefix}request_log.';
COMMENT ON COLUMN {prefix}requests.time IS 'When the request arrived.';
COMMENT ON COLUMN {prefix}requests.id IS 'The event''s own id, a UUID of version 7.';
COMMENT ON COLUMN {prefix}requests.id_apart IS 'Set where the id does not tell the time, to the millisecond.';
COMMENT ON COLUMN {prefix}requests.series_id IS 'The series it belongs to: key, owner, method, endpoint, status, outcome and cause.';
COMMENT ON COLUMN {prefix}requests.request_id IS 'The id on the wire, where it is not the event''s own.';
COMMENT ON COLUMN {prefix}requests.path IS 'The path as it was sent, without the query.';
COMMENT ON COLUMN {prefix}requests.resource_id IS 'What the request was about, where the application tells.';
COMMENT ON COLUMN {prefix}requests.refusal IS 'Why it was refused, if it was.';
COMMENT ON COLUMN {prefix}requests.cost IS 'What it cost of the key''s limits.';
COMMENT ON COLUMN {prefix}requests.latency_us IS 'Microseconds from its arrival to the end of its answer.';
COMMENT ON COLUMN {prefix}requests.request_bytes IS 'Bytes of the request''s body, as announced.';
COMMENT ON COLUMN {prefix}requests.response_bytes IS 'Bytes of the response''s body that were handed on.';
COMMENT ON COLUMN {prefix}requests.client_address IS 'Where it came from.';

CREATE VIEW {prefix}request_log AS
    SELECT r.time, r.id, coalesce(r.request_id, r.id::text) AS request_id, s.key_id, s.owner, s.method,
        s.endpoint, r.path, r.resource_id, s.http_status, s.grpc_status, s.status_class, s.outcome,
        s.cause, r.refusal, r.cost, r.latency_us, r.request_bytes, r.response_bytes, r.client_address
    FROM {prefix}requests r JOIN {prefix}series s ON s.id = r.series_id;
COMMENT ON VIEW {prefix}request_log IS 'The request log with what its series say.';

CREATE TABLE {prefix}minutes (
    series_id bigint NOT NULL,
    start timestamptz NOT NULL,
    count bigint NOT NULL,
    cost bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    latency bytea NOT NULL,
    PRIMARY KEY (series_id, start)
) WITH (fillfactor = 70);
ALTER TABLE {prefix}minutes ALTER COLUMN latency SET STORAGE MAIN;
CREATE INDEX {unqualified_prefix}minutes_by_start ON {prefix}minutes (start);
COMMENT ON TABLE {prefix}minutes IS 'Sums of all requests by the minute, whatever the log still has.';
COMMENT ON COLUMN {prefix}minutes.series_id IS 'Whose sums.';
COMMENT ON COLUMN {prefix}minutes.start IS 'When the minute begins.';
COMMENT ON COLUMN {prefix}minutes.count IS 'How many requests.';
COMMENT ON COLUMN {prefix}minutes.cost IS 'What they cost of the keys'' limits.';
COMMENT ON COLUMN {prefix}minutes.request_bytes IS 'Bytes of their bodies, as announced.';
COMMENT ON COLUMN {prefix}minutes.response_bytes IS 'Bytes of their responses'' bodies.';
COMMENT ON COLUMN {prefix}minutes.latency IS 'Pairs of numbers in LEB128: a bucket''s place, counted from 1, and its count.';

CREATE TABLE {prefix}hours (
    series_id bigint NOT NULL,
    start timestamptz NOT NULL,
    count bigint NOT NULL,
    cost bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    latency bytea NOT NULL,
    PRIMARY KEY (series_id, start)
) WITH (fillfactor = 70);
ALTER TABLE {prefix}hours ALTER COLUMN latency SET STORAGE MAIN;
CREATE INDEX {unqualified_prefix}hours_by_start ON {prefix}hours (start);
COMMENT ON TABLE {prefix}hours IS 'The same by the hour of UTC.';
COMMENT ON COLUMN {prefix}hours.series_id IS 'Whose sums.';
COMMENT ON COLUMN {prefix}hours.start IS 'When the hour begins.';
COMMENT ON COLUMN {prefix}hours.count IS 'How many requests.';
COMMENT ON COLUMN {prefix}hours.cost IS 'What they cost of the keys'' limits.';
COMMENT ON COLUMN {prefix}hours.request_bytes IS 'Bytes of their bodies, as announced.';
COMMENT ON COLUMN {prefix}hours.response_bytes IS 'Bytes of their responses'' bodies.';
COMMENT ON COLUMN {prefix}hours.latency IS 'As that of the minutes.';

CREATE TABLE {prefix}days (
    series_id bigint NOT NULL,
    start timestamptz NOT NULL,
    count bigint NOT NULL,
    cost bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    latency bytea NOT NULL,
    PRIMARY KEY (series_id, start)
) WITH (fillfactor = 70);
ALTER TABLE {prefix}days ALTER COLUMN latency SET STORAGE MAIN;
CREATE INDEX {unqualified_prefix}days_by_start ON {prefix}days (start);
COMMENT ON TABLE {prefix}days IS 'The same by the day of UTC.';
COMMENT ON COLUMN {prefix}days.series_id IS 'Whose sums.';
COMMENT ON COLUMN {prefix}days.start IS 'When the day begins.';
COMMENT ON COLUMN {prefix}days.count IS 'How many requests.';
COMMENT ON COLUMN {prefix}days.cost IS 'What they cost of the keys'' limits.';
COMMENT ON COLUMN {prefix}days.request_bytes IS 'Bytes of their bodies, as announced.';
COMMENT ON COLUMN {prefix}days.response_bytes IS 'Bytes of their responses'' bodies.';
COMMENT ON COLUMN {prefix}days.latency IS 'As that of the minutes.';

CREATE TABLE {prefix}key_minutes (
    start timestamptz NOT NULL,
    line bytea NOT NULL,
    key_id text COLLATE "C",
    owner text,
    outcome text NOT NULL,
    cause text,
    count bigint NOT NULL,
    cost bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    PRIMARY KEY (start, line)
) WITH (fillfactor = 70);
CREATE INDEX {unqualified_prefix}key_minutes_by_key ON {prefix}key_minutes (key_id, start);
CREATE INDEX {unqualified_prefix}key_minutes_by_owner ON {prefix}key_minutes ((left(owner, 64)), start);
COMMENT ON TABLE {prefix}key_minutes IS 'Sums by the minute, by key and outcome alone: for charts over time.';
COMMENT ON COLUMN {prefix}key_minutes.start IS 'When the minute begins.';
COMMENT ON COLUMN {prefix}key_minutes.line IS 'Names the key, its owner, the outcome and the cause.';
COMMENT ON COLUMN {prefix}key_minutes.key_id IS 'The key that asked; empty for anonymous requests.';
COMMENT ON COLUMN {prefix}key_minutes.owner IS 'The key''s owner at the time.';
COMMENT ON COLUMN {prefix}key_minutes.outcome IS 'completed, failed or rate_limited.';
COMMENT ON COLUMN {prefix}key_minutes.cause IS 'Why they failed, if they did.';
COMMENT ON COLUMN {prefix}key_minutes.count IS 'How many requests.';
COMMENT ON COLUMN {prefix}key_minutes.cost IS 'What they cost of the keys'' limits.';
COMMENT ON COLUMN {prefix}key_minutes.request_bytes IS 'Bytes of their bodies, as announced.';
COMMENT ON COLUMN {prefix}key_minutes.response_bytes IS 'Bytes of their responses'' bodies.';

CREATE TABLE {prefix}key_hours (
    start timestamptz NOT NULL,
    line bytea NOT NULL,
    key_id text COLLATE "C",
    owner text,
    outcome text NOT NULL,
    cause text,
    count bigint NOT NULL,
    cost bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    PRIMARY KEY (start, line)
) WITH (fillfactor = 70);
CREATE INDEX {unqualified_prefix}key_hours_by_key ON {prefix}key_hours (key_id, start);
CREATE INDEX {unqualified_prefix}key_hours_by_owner ON {prefix}key_hours ((left(owner, 64)), start);
COMMENT ON TABLE {prefix}key_hours IS 'Sums by the hour, by key and outcome alone: for charts over time.';
COMMENT ON COLUMN {prefix}key_hours.start IS 'When the hour begins.';
COMMENT ON COLUMN {prefix}key_hours.line IS 'Names the key, its owner, the outcome and the cause.';
COMMENT ON COLUMN {prefix}key_hours.key_id IS 'The key that asked; empty for anonymous requests.';
COMMENT ON COLUMN {prefix}key_hours.owner IS 'The key''s owner at the time.';
COMMENT ON COLUMN {prefix}key_hours.outcome IS 'completed, failed or rate_limited.';
COMMENT ON COLUMN {prefix}key_hours.cause IS 'Why they failed, if they did.';
COMMENT ON COLUMN {prefix}key_hours.count IS 'How many requests.';
COMMENT ON COLUMN {prefix}key_hours.cost IS 'What they cost of the keys'' limits.';
COMMENT ON COLUMN {prefix}key_hours.request_bytes IS 'Bytes of their bodies, as announced.';
COMMENT ON COLUMN {prefix}key_hours.response_bytes IS 'Bytes of their responses'' bodies.';

CREATE VIEW {prefix}usage_by_minute AS
    SELECT t.start, s.key_id, s.owner, s.method, s.endpoint, s.http_status, s.grpc_status,
        s.status_class, s.outcome, s.cause, t.count, t.cost, t.request_bytes, t.response_bytes
    FROM {prefix}minutes t JOIN {prefix}series s ON s.id = t.series_id;
COMMENT ON VIEW {prefix}usage_by_minute IS 'Sums by the minute with what their series say.';
CREATE VIEW {prefix}usage_by_hour AS
    SELECT t.start, s.key_id, s.owner, s.method, s.endpoint, s.http_status, s.grpc_status,
        s.status_class, s.outcome, s.cause, t.count, t.cost, t.request_bytes, t.response_bytes
    FROM {prefix}hours t JOIN {prefix}series s ON s.id = t.series_id;
COMMENT ON VIEW {prefix}usage_by_hour IS 'Sums by the hour with what their series say.';

CREATE TABLE {prefix}batches (
    id uuid PRIMARY KEY,
    applied timestamptz NOT NULL
);
CREATE INDEX {unqualified_prefix}batches_by_applied ON {prefix}batches (applied);
COMMENT ON TABLE {prefix}batches IS 'Batches that were written, so that none counts twice.';
COMMENT ON COLUMN {prefix}batches.id IS 'The batch''s own id, a UUID of version 7.';
COMMENT ON COLUMN {prefix}batches.applied IS 'When it was written.';

CREATE TABLE {prefix}dropped (
    what text PRIMARY KEY,
    before timestamptz NOT NULL
);
COMMENT ON TABLE {prefix}dropped IS 'Up to when sums were dropped.';
COMMENT ON COLUMN {prefix}dropped.what IS 'The table, without the prefix.';
COMMENT ON COLUMN {prefix}dropped.before IS 'What began earlier is not there any more.';

COMMENT ON TABLE {prefix}migrations IS 'The steps by which these tables were made.';
COMMENT ON COLUMN {prefix}migrations.version IS 'The step''s place, counted from 1.';
COMMENT ON COLUMN {prefix}migrations.name IS 'What it was for.';
COMMENT ON COLUMN {prefix}migrations.checksum IS 'The SHA-256 of its text.';
COMMENT ON COLUMN {prefix}migrations.applied IS 'When it was applied.';
