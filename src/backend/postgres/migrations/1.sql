CREATE TABLE §keys (
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
CREATE INDEX ¶keys_by_created ON §keys (created, id);
CREATE INDEX ¶keys_by_owner ON §keys (owner, created, id);
COMMENT ON TABLE §keys IS 'API keys. Holds digests of secrets, and secrets only encrypted.';
COMMENT ON COLUMN §keys.id IS 'The public part of the secret; safe to log and show.';
COMMENT ON COLUMN §keys.name IS 'What people call it.';
COMMENT ON COLUMN §keys.name_folded IS 'The name in lower case, to be searched.';
COMMENT ON COLUMN §keys.owner IS 'Whoever it belongs to, in the application''s own terms.';
COMMENT ON COLUMN §keys.environment IS 'A tag such as live or test.';
COMMENT ON COLUMN §keys.scopes IS 'What it may do: a list of texts.';
COMMENT ON COLUMN §keys.limits IS 'Its own rate limits; without any, the layer''s defaults hold.';
COMMENT ON COLUMN §keys.addresses IS 'Networks from which it may be used; everywhere if empty.';
COMMENT ON COLUMN §keys.metadata IS 'Whatever else the application keeps with it.';
COMMENT ON COLUMN §keys.created IS 'When it was issued.';
COMMENT ON COLUMN §keys.expires IS 'From when on it no longer works.';
COMMENT ON COLUMN §keys.disabled IS 'Whether it is switched off for now.';
COMMENT ON COLUMN §keys.revoked IS 'When it was revoked, for good.';
COMMENT ON COLUMN §keys.rotated_from IS 'The key that it took over from.';
COMMENT ON COLUMN §keys.line IS 'The first key of its line, under which limits are kept.';
COMMENT ON COLUMN §keys.last_used IS 'When it was last used, as far as written usage tells.';
COMMENT ON COLUMN §keys.hint IS 'What people recognize its secret by.';
COMMENT ON COLUMN §keys.digest IS 'The digest of its secret, with its algorithm.';
COMMENT ON COLUMN §keys.sealed IS 'Its secret, encrypted by the application; empty unless it is recoverable.';

CREATE TABLE §key_changes (
    id uuid PRIMARY KEY,
    time timestamptz NOT NULL,
    actor text,
    action text NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    before jsonb,
    after jsonb
);
CREATE INDEX ¶key_changes_by_time ON §key_changes (time, id);
CREATE INDEX ¶key_changes_by_key ON §key_changes (key_id, time, id);
COMMENT ON TABLE §key_changes IS 'What was done to keys: the audit. Holds no secrets and no digests.';
COMMENT ON COLUMN §key_changes.id IS 'A UUID of version 7.';
COMMENT ON COLUMN §key_changes.time IS 'When it was done.';
COMMENT ON COLUMN §key_changes.actor IS 'Who did it, where the application told.';
COMMENT ON COLUMN §key_changes.action IS 'created, updated, disabled, enabled, revoked, rotated, revealed or deleted.';
COMMENT ON COLUMN §key_changes.key_id IS 'To which key.';
COMMENT ON COLUMN §key_changes.before IS 'The key before; empty where it was created.';
COMMENT ON COLUMN §key_changes.after IS 'The key after; empty where it was deleted.';

CREATE TABLE §series (
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
CREATE INDEX ¶series_by_key ON §series (key_id);
CREATE INDEX ¶series_by_owner ON §series USING hash (owner);
COMMENT ON TABLE §series IS 'What requests of one kind have in common.';
COMMENT ON COLUMN §series.id IS 'By which the log and the sums name it.';
COMMENT ON COLUMN §series.hash IS 'Names all that follows up to the cause.';
COMMENT ON COLUMN §series.key_id IS 'The key that asked; empty for anonymous requests.';
COMMENT ON COLUMN §series.owner IS 'The key''s owner at the time.';
COMMENT ON COLUMN §series.method IS 'The method, or OTHER.';
COMMENT ON COLUMN §series.endpoint IS 'The route''s template, or the full name of a gRPC method.';
COMMENT ON COLUMN §series.http_status IS 'The status of an answer over HTTP.';
COMMENT ON COLUMN §series.grpc_status IS 'The code of an answer over gRPC.';
COMMENT ON COLUMN §series.outcome IS 'completed, failed or rate_limited.';
COMMENT ON COLUMN §series.cause IS 'Why they failed, if they did.';
COMMENT ON COLUMN §series.status_class IS '2xx and so on; none where there was no answer.';
COMMENT ON COLUMN §series.seen IS 'The day on which a request was last added, in days since 1970.';

CREATE TABLE §requests (
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
CREATE INDEX ¶requests_by_time ON §requests (time);
CREATE INDEX ¶requests_by_series ON §requests (series_id, time);
CREATE INDEX ¶requests_by_id ON §requests (id) WHERE id_apart IS NOT NULL;
CREATE INDEX ¶requests_by_request_id ON §requests ((left(request_id, 64)), time) WHERE request_id IS NOT NULL;
CREATE INDEX ¶requests_by_resource ON §requests ((left(resource_id, 64)), time) WHERE resource_id IS NOT NULL;
COMMENT ON TABLE §requests IS 'The request log, in a partition a day; see the view ¶request_log.';
COMMENT ON COLUMN §requests.time IS 'When the request arrived.';
COMMENT ON COLUMN §requests.id IS 'The event''s own id, a UUID of version 7.';
COMMENT ON COLUMN §requests.id_apart IS 'Set where the id does not tell the time, to the millisecond.';
COMMENT ON COLUMN §requests.series_id IS 'The series it belongs to: key, owner, method, endpoint, status, outcome and cause.';
COMMENT ON COLUMN §requests.request_id IS 'The id on the wire, where it is not the event''s own.';
COMMENT ON COLUMN §requests.path IS 'The path as it was sent, without the query.';
COMMENT ON COLUMN §requests.resource_id IS 'What the request was about, where the application tells.';
COMMENT ON COLUMN §requests.refusal IS 'Why it was refused, if it was.';
COMMENT ON COLUMN §requests.cost IS 'What it cost of the key''s limits.';
COMMENT ON COLUMN §requests.latency_us IS 'Microseconds from its arrival to the end of its answer.';
COMMENT ON COLUMN §requests.request_bytes IS 'Bytes of the request''s body, as announced.';
COMMENT ON COLUMN §requests.response_bytes IS 'Bytes of the response''s body that were handed on.';
COMMENT ON COLUMN §requests.client_address IS 'Where it came from.';

CREATE VIEW §request_log AS
    SELECT r.time, r.id, coalesce(r.request_id, r.id::text) AS request_id, s.key_id, s.owner, s.method,
        s.endpoint, r.path, r.resource_id, s.http_status, s.grpc_status, s.status_class, s.outcome,
        s.cause, r.refusal, r.cost, r.latency_us, r.request_bytes, r.response_bytes, r.client_address
    FROM §requests r JOIN §series s ON s.id = r.series_id;
COMMENT ON VIEW §request_log IS 'The request log with what its series say.';

CREATE TABLE §minutes (
    series_id bigint NOT NULL,
    start timestamptz NOT NULL,
    count bigint NOT NULL,
    cost bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    latency bytea NOT NULL,
    PRIMARY KEY (series_id, start)
) WITH (fillfactor = 70);
ALTER TABLE §minutes ALTER COLUMN latency SET STORAGE MAIN;
CREATE INDEX ¶minutes_by_start ON §minutes (start);
COMMENT ON TABLE §minutes IS 'Sums of all requests by the minute, whatever the log still has.';
COMMENT ON COLUMN §minutes.series_id IS 'Whose sums.';
COMMENT ON COLUMN §minutes.start IS 'When the minute begins.';
COMMENT ON COLUMN §minutes.count IS 'How many requests.';
COMMENT ON COLUMN §minutes.cost IS 'What they cost of the keys'' limits.';
COMMENT ON COLUMN §minutes.request_bytes IS 'Bytes of their bodies, as announced.';
COMMENT ON COLUMN §minutes.response_bytes IS 'Bytes of their responses'' bodies.';
COMMENT ON COLUMN §minutes.latency IS 'Pairs of numbers in LEB128: a bucket''s place, counted from 1, and its count.';

CREATE TABLE §hours (
    series_id bigint NOT NULL,
    start timestamptz NOT NULL,
    count bigint NOT NULL,
    cost bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    latency bytea NOT NULL,
    PRIMARY KEY (series_id, start)
) WITH (fillfactor = 70);
ALTER TABLE §hours ALTER COLUMN latency SET STORAGE MAIN;
CREATE INDEX ¶hours_by_start ON §hours (start);
COMMENT ON TABLE §hours IS 'The same by the hour of UTC.';
COMMENT ON COLUMN §hours.series_id IS 'Whose sums.';
COMMENT ON COLUMN §hours.start IS 'When the hour begins.';
COMMENT ON COLUMN §hours.count IS 'How many requests.';
COMMENT ON COLUMN §hours.cost IS 'What they cost of the keys'' limits.';
COMMENT ON COLUMN §hours.request_bytes IS 'Bytes of their bodies, as announced.';
COMMENT ON COLUMN §hours.response_bytes IS 'Bytes of their responses'' bodies.';
COMMENT ON COLUMN §hours.latency IS 'As that of the minutes.';

CREATE TABLE §days (
    series_id bigint NOT NULL,
    start timestamptz NOT NULL,
    count bigint NOT NULL,
    cost bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    latency bytea NOT NULL,
    PRIMARY KEY (series_id, start)
) WITH (fillfactor = 70);
ALTER TABLE §days ALTER COLUMN latency SET STORAGE MAIN;
CREATE INDEX ¶days_by_start ON §days (start);
COMMENT ON TABLE §days IS 'The same by the day of UTC.';
COMMENT ON COLUMN §days.series_id IS 'Whose sums.';
COMMENT ON COLUMN §days.start IS 'When the day begins.';
COMMENT ON COLUMN §days.count IS 'How many requests.';
COMMENT ON COLUMN §days.cost IS 'What they cost of the keys'' limits.';
COMMENT ON COLUMN §days.request_bytes IS 'Bytes of their bodies, as announced.';
COMMENT ON COLUMN §days.response_bytes IS 'Bytes of their responses'' bodies.';
COMMENT ON COLUMN §days.latency IS 'As that of the minutes.';

CREATE TABLE §key_minutes (
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
CREATE INDEX ¶key_minutes_by_key ON §key_minutes (key_id, start);
CREATE INDEX ¶key_minutes_by_owner ON §key_minutes ((left(owner, 64)), start);
COMMENT ON TABLE §key_minutes IS 'Sums by the minute, by key and outcome alone: for charts over time.';
COMMENT ON COLUMN §key_minutes.start IS 'When the minute begins.';
COMMENT ON COLUMN §key_minutes.line IS 'Names the key, its owner, the outcome and the cause.';
COMMENT ON COLUMN §key_minutes.key_id IS 'The key that asked; empty for anonymous requests.';
COMMENT ON COLUMN §key_minutes.owner IS 'The key''s owner at the time.';
COMMENT ON COLUMN §key_minutes.outcome IS 'completed, failed or rate_limited.';
COMMENT ON COLUMN §key_minutes.cause IS 'Why they failed, if they did.';
COMMENT ON COLUMN §key_minutes.count IS 'How many requests.';
COMMENT ON COLUMN §key_minutes.cost IS 'What they cost of the keys'' limits.';
COMMENT ON COLUMN §key_minutes.request_bytes IS 'Bytes of their bodies, as announced.';
COMMENT ON COLUMN §key_minutes.response_bytes IS 'Bytes of their responses'' bodies.';

CREATE TABLE §key_hours (
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
CREATE INDEX ¶key_hours_by_key ON §key_hours (key_id, start);
CREATE INDEX ¶key_hours_by_owner ON §key_hours ((left(owner, 64)), start);
COMMENT ON TABLE §key_hours IS 'Sums by the hour, by key and outcome alone: for charts over time.';
COMMENT ON COLUMN §key_hours.start IS 'When the hour begins.';
COMMENT ON COLUMN §key_hours.line IS 'Names the key, its owner, the outcome and the cause.';
COMMENT ON COLUMN §key_hours.key_id IS 'The key that asked; empty for anonymous requests.';
COMMENT ON COLUMN §key_hours.owner IS 'The key''s owner at the time.';
COMMENT ON COLUMN §key_hours.outcome IS 'completed, failed or rate_limited.';
COMMENT ON COLUMN §key_hours.cause IS 'Why they failed, if they did.';
COMMENT ON COLUMN §key_hours.count IS 'How many requests.';
COMMENT ON COLUMN §key_hours.cost IS 'What they cost of the keys'' limits.';
COMMENT ON COLUMN §key_hours.request_bytes IS 'Bytes of their bodies, as announced.';
COMMENT ON COLUMN §key_hours.response_bytes IS 'Bytes of their responses'' bodies.';

CREATE VIEW §usage_by_minute AS
    SELECT t.start, s.key_id, s.owner, s.method, s.endpoint, s.http_status, s.grpc_status,
        s.status_class, s.outcome, s.cause, t.count, t.cost, t.request_bytes, t.response_bytes
    FROM §minutes t JOIN §series s ON s.id = t.series_id;
COMMENT ON VIEW §usage_by_minute IS 'Sums by the minute with what their series say.';
CREATE VIEW §usage_by_hour AS
    SELECT t.start, s.key_id, s.owner, s.method, s.endpoint, s.http_status, s.grpc_status,
        s.status_class, s.outcome, s.cause, t.count, t.cost, t.request_bytes, t.response_bytes
    FROM §hours t JOIN §series s ON s.id = t.series_id;
COMMENT ON VIEW §usage_by_hour IS 'Sums by the hour with what their series say.';

CREATE TABLE §batches (
    id uuid PRIMARY KEY,
    applied timestamptz NOT NULL
);
CREATE INDEX ¶batches_by_applied ON §batches (applied);
COMMENT ON TABLE §batches IS 'Batches that were written, so that none counts twice.';
COMMENT ON COLUMN §batches.id IS 'The batch''s own id, a UUID of version 7.';
COMMENT ON COLUMN §batches.applied IS 'When it was written.';

CREATE TABLE §dropped (
    what text PRIMARY KEY,
    before timestamptz NOT NULL
);
COMMENT ON TABLE §dropped IS 'Up to when sums were dropped.';
COMMENT ON COLUMN §dropped.what IS 'The table, without the prefix.';
COMMENT ON COLUMN §dropped.before IS 'What began earlier is not there any more.';

COMMENT ON TABLE §migrations IS 'The steps by which these tables were made.';
COMMENT ON COLUMN §migrations.version IS 'The step''s place, counted from 1.';
COMMENT ON COLUMN §migrations.name IS 'What it was for.';
COMMENT ON COLUMN §migrations.checksum IS 'The SHA-256 of its text.';
COMMENT ON COLUMN §migrations.applied IS 'When it was applied.';
