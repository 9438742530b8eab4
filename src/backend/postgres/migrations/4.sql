-- Blocks writers of earlier versions, whose usage would be lost. Readers are not blocked until the tables are replaced.
SET LOCAL lock_timeout = '1min';
LOCK TABLE {prefix}batches, {prefix}series, {prefix}requests, {prefix}minutes, {prefix}hours, {prefix}days, {prefix}key_minutes, {prefix}key_hours IN SHARE MODE;
SET LOCAL work_mem = '64MB';
-- The bounds of partitions are formatted according to these.
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO';
DO $$
DECLARE views text;
BEGIN
    SELECT string_agg(DISTINCT w.ev_class::regclass::text, ', ') INTO views
    FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid IN ('{prefix}series'::regclass, '{prefix}requests'::regclass, '{prefix}minutes'::regclass, '{prefix}hours'::regclass,
            '{prefix}days'::regclass, '{prefix}key_minutes'::regclass, '{prefix}key_hours'::regclass)
        AND w.ev_class NOT IN ('{prefix}request_log'::regclass, '{prefix}usage_by_minute'::regclass, '{prefix}usage_by_hour'::regclass);
    IF views IS NOT NULL THEN
        RAISE EXCEPTION 'views on tables that will be replaced: %', views
            USING HINT = 'Drop them, and let them select from {unqualified_prefix}request_log, {unqualified_prefix}usage_by_minute or {unqualified_prefix}usage_by_hour.';
    END IF;
END $$;

CREATE TABLE {prefix}callers (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash bytea NOT NULL UNIQUE,
    key_id text COLLATE "C",
    owner text,
    last_seen_day bigint NOT NULL,
    token bigint NOT NULL
);
COMMENT ON TABLE {prefix}callers IS 'The key and the owner of requests, referenced by caller_id.';
COMMENT ON COLUMN {prefix}callers.id IS 'Referenced by caller_id in other tables.';
COMMENT ON COLUMN {prefix}callers.hash IS 'A hash of key_id and owner.';
COMMENT ON COLUMN {prefix}callers.key_id IS 'The key of the request. NULL for anonymous requests.';
COMMENT ON COLUMN {prefix}callers.owner IS 'The key''s owner at the time of the request.';
COMMENT ON COLUMN {prefix}callers.last_seen_day IS 'The last day of a recorded request, in days since 1970-01-01.';
COMMENT ON COLUMN {prefix}callers.token IS 'A random number, by which writers detect that the database was restored.';

CREATE TABLE {prefix}kinds (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash bytea NOT NULL UNIQUE,
    method text NOT NULL,
    endpoint text NOT NULL,
    http_status integer,
    grpc_status integer,
    outcome text NOT NULL,
    cause text,
    rejection_reason text,
    status_class text NOT NULL,
    billable boolean NOT NULL,
    last_seen_day bigint NOT NULL,
    token bigint NOT NULL
);
COMMENT ON TABLE {prefix}kinds IS 'Attributes that many requests share, referenced by kind_id.';
COMMENT ON COLUMN {prefix}kinds.id IS 'Referenced by kind_id in other tables.';
COMMENT ON COLUMN {prefix}kinds.hash IS 'A hash of the attributes from method to rejection_reason, and of billable.';
COMMENT ON COLUMN {prefix}kinds.method IS 'The HTTP method, or OTHER.';
COMMENT ON COLUMN {prefix}kinds.endpoint IS 'The route template, or the full name of a gRPC method.';
COMMENT ON COLUMN {prefix}kinds.http_status IS 'The HTTP status. NULL for gRPC and without a response.';
COMMENT ON COLUMN {prefix}kinds.grpc_status IS 'The gRPC status code. NULL for HTTP and without a response.';
COMMENT ON COLUMN {prefix}kinds.outcome IS 'completed, failed or rate_limited.';
COMMENT ON COLUMN {prefix}kinds.cause IS 'Why the request failed. NULL unless it did.';
COMMENT ON COLUMN {prefix}kinds.rejection_reason IS 'Why the requests were rejected. NULL if they were not, and in kinds of before schema version 4.';
COMMENT ON COLUMN {prefix}kinds.status_class IS '2xx and so on; none without a response.';
COMMENT ON COLUMN {prefix}kinds.billable IS 'Whether the requests are billable.';
COMMENT ON COLUMN {prefix}kinds.last_seen_day IS 'The last day of a recorded request, in days since 1970-01-01.';
COMMENT ON COLUMN {prefix}kinds.token IS 'A random number, by which writers detect that the database was restored.';


CREATE TABLE {prefix}series_numbers AS
    SELECT *, dense_rank() OVER (ORDER BY key_id, owner)::integer AS caller_id,
        dense_rank() OVER (ORDER BY method, endpoint, http_status, grpc_status, outcome, cause,
            status_class)::integer AS kind_id
    FROM {prefix}series;
-- Any unique hash will do: a caller or a kind that is written again gets another row.
INSERT INTO {prefix}callers (id, hash, key_id, owner, last_seen_day, token) OVERRIDING SYSTEM VALUE
    SELECT DISTINCT ON (caller_id) caller_id, hash, key_id, owner,
        max(last_seen_day) OVER (PARTITION BY caller_id), (random() * 1e15)::bigint
    FROM {prefix}series_numbers ORDER BY caller_id, id;
INSERT INTO {prefix}kinds (id, hash, method, endpoint, http_status, grpc_status, outcome, cause, status_class, billable,
        last_seen_day, token) OVERRIDING SYSTEM VALUE
    SELECT DISTINCT ON (kind_id) kind_id, hash, method, endpoint, http_status, grpc_status, outcome,
        CASE cause WHEN 'refused' THEN 'rejected' ELSE cause END, status_class, outcome = 'completed',
        max(last_seen_day) OVER (PARTITION BY kind_id), (random() * 1e15)::bigint
    FROM {prefix}series_numbers ORDER BY kind_id, id;
SELECT setval(pg_get_serial_sequence('{prefix}callers', 'id'), max(id)) FROM {prefix}callers;
SELECT setval(pg_get_serial_sequence('{prefix}kinds', 'id'), max(id)) FROM {prefix}kinds;
CREATE INDEX {unqualified_prefix}callers_by_key ON {prefix}callers (key_id);
CREATE INDEX {unqualified_prefix}callers_by_owner ON {prefix}callers USING hash (owner);
ANALYZE {prefix}series_numbers, {prefix}callers, {prefix}kinds;

CREATE TABLE {prefix}new_minutes (
    caller_id integer NOT NULL,
    start timestamptz NOT NULL,
    kind_id integer NOT NULL,
    count bigint NOT NULL,
    cost bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    latency bytea NOT NULL
) WITH (fillfactor = 70);
ALTER TABLE {prefix}new_minutes ALTER COLUMN latency SET STORAGE MAIN;
CREATE TABLE {prefix}new_hours (LIKE {prefix}new_minutes INCLUDING STORAGE) WITH (fillfactor = 70);
CREATE TABLE {prefix}new_days (LIKE {prefix}new_minutes INCLUDING STORAGE) WITH (fillfactor = 70);
INSERT INTO {prefix}new_minutes
    SELECT s.caller_id, t.start, s.kind_id, t.count, t.cost, t.request_bytes, t.response_bytes, t.latency
    FROM {prefix}minutes t JOIN {prefix}series_numbers s ON s.id = t.series_id ORDER BY 1, 2, 3;
INSERT INTO {prefix}new_hours
    SELECT s.caller_id, t.start, s.kind_id, t.count, t.cost, t.request_bytes, t.response_bytes, t.latency
    FROM {prefix}hours t JOIN {prefix}series_numbers s ON s.id = t.series_id ORDER BY 1, 2, 3;
INSERT INTO {prefix}new_days
    SELECT s.caller_id, t.start, s.kind_id, t.count, t.cost, t.request_bytes, t.response_bytes, t.latency
    FROM {prefix}days t JOIN {prefix}series_numbers s ON s.id = t.series_id ORDER BY 1, 2, 3;
INSERT INTO {prefix}new_minutes
    SELECT 0, start, kind_id, least(sum(count), 9223372036854775807), least(sum(cost), 9223372036854775807),
        least(sum(request_bytes), 9223372036854775807), least(sum(response_bytes), 9223372036854775807),
        string_agg(latency, '')
    FROM {prefix}new_minutes GROUP BY start, kind_id;
INSERT INTO {prefix}new_hours
    SELECT 0, start, kind_id, least(sum(count), 9223372036854775807), least(sum(cost), 9223372036854775807),
        least(sum(request_bytes), 9223372036854775807), least(sum(response_bytes), 9223372036854775807),
        string_agg(latency, '')
    FROM {prefix}new_hours GROUP BY start, kind_id;
INSERT INTO {prefix}new_days
    SELECT 0, start, kind_id, least(sum(count), 9223372036854775807), least(sum(cost), 9223372036854775807),
        least(sum(request_bytes), 9223372036854775807), least(sum(response_bytes), 9223372036854775807),
        string_agg(latency, '')
    FROM {prefix}new_days GROUP BY start, kind_id;
ALTER TABLE {prefix}new_minutes ADD CONSTRAINT {unqualified_prefix}new_minutes_pkey PRIMARY KEY (caller_id, start, kind_id);
ALTER TABLE {prefix}new_hours ADD CONSTRAINT {unqualified_prefix}new_hours_pkey PRIMARY KEY (caller_id, start, kind_id);
ALTER TABLE {prefix}new_days ADD CONSTRAINT {unqualified_prefix}new_days_pkey PRIMARY KEY (caller_id, start, kind_id);

-- The current hour and day are rolled up when they have passed, as all others from now on.
INSERT INTO {prefix}pruned (kind, before)
    SELECT 'merged_hours', greatest(least(max(start) + interval '1 hour', date_trunc('hour', now(), 'UTC')),
        (SELECT before FROM {prefix}pruned WHERE kind = 'minutes'))
    FROM {prefix}new_hours HAVING max(start) IS NOT NULL;
DELETE FROM {prefix}new_hours WHERE start >= (SELECT before FROM {prefix}pruned WHERE kind = 'merged_hours');
INSERT INTO {prefix}pruned (kind, before)
    SELECT 'merged_days', least(max(start) + interval '24 hours',
        (SELECT date_trunc('day', before, 'UTC') FROM {prefix}pruned WHERE kind = 'merged_hours'))
    FROM {prefix}new_days HAVING max(start) IS NOT NULL;
DELETE FROM {prefix}new_days WHERE start >= (SELECT before FROM {prefix}pruned WHERE kind = 'merged_days');

CREATE TABLE {prefix}hours_by_outcome (
    caller_id integer NOT NULL,
    start timestamptz NOT NULL,
    kind_id integer NOT NULL,
    count bigint NOT NULL,
    cost bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    latency bytea NOT NULL
);
INSERT INTO {prefix}hours_by_outcome
    SELECT t.caller_id, t.start, min(t.kind_id), least(sum(t.count), 9223372036854775807),
        least(sum(t.cost), 9223372036854775807), least(sum(t.request_bytes), 9223372036854775807),
        least(sum(t.response_bytes), 9223372036854775807), string_agg(t.latency, ''::bytea)
    FROM {prefix}new_hours t JOIN {prefix}kinds k ON k.id = t.kind_id
    GROUP BY t.caller_id, t.start, k.outcome, k.cause, k.billable ORDER BY 1, 2, 3;
ALTER TABLE {prefix}hours_by_outcome ADD PRIMARY KEY (caller_id, start, kind_id);
CREATE INDEX {unqualified_prefix}hours_by_outcome_by_start ON {prefix}hours_by_outcome (start);
COMMENT ON TABLE {prefix}hours_by_outcome IS 'Rollups of all requests by caller, hour (UTC), outcome, cause and whether they are billable.';
COMMENT ON COLUMN {prefix}hours_by_outcome.caller_id IS 'References the callers table. 0: all callers together.';
COMMENT ON COLUMN {prefix}hours_by_outcome.start IS 'The start of the hour.';
COMMENT ON COLUMN {prefix}hours_by_outcome.kind_id IS 'References a kind with this outcome, cause and billable, as their representative.';
COMMENT ON COLUMN {prefix}hours_by_outcome.count IS 'The number of requests.';
COMMENT ON COLUMN {prefix}hours_by_outcome.cost IS 'The cost of the requests.';
COMMENT ON COLUMN {prefix}hours_by_outcome.request_bytes IS 'The sum of the requests'' Content-Length.';
COMMENT ON COLUMN {prefix}hours_by_outcome.response_bytes IS 'Bytes of response bodies that were sent.';
COMMENT ON COLUMN {prefix}hours_by_outcome.latency IS 'A latency histogram: pairs of LEB128 numbers, a bucket''s index counted from 1 and its count.';
CREATE TABLE {prefix}caller_totals (
    hours smallint NOT NULL,
    start timestamptz NOT NULL,
    totals bytea,
    PRIMARY KEY (hours, start)
);
CREATE INDEX {unqualified_prefix}outdated_caller_totals ON {prefix}caller_totals (start) WHERE totals IS NULL;
ALTER TABLE {prefix}caller_totals ALTER COLUMN totals SET STORAGE EXTERNAL;
COMMENT ON TABLE {prefix}caller_totals IS 'The totals of all callers by outcome and cause, in each hour, day (UTC) and block of these.';
COMMENT ON COLUMN {prefix}caller_totals.hours IS '1 for an hour, 6 for six hours, 24 for a day, 48 and 96 for two and four days, 192 for eight days.';
COMMENT ON COLUMN {prefix}caller_totals.start IS 'The start of these hours.';
COMMENT ON COLUMN {prefix}caller_totals.totals IS 'The totals in the format of rollup records. NULL if they are outdated.';

CREATE TABLE {prefix}caller_minutes (
    hour timestamptz NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    totals bytea NOT NULL,
    PRIMARY KEY (hour, number)
);
ALTER TABLE {prefix}caller_minutes ALTER COLUMN totals SET STORAGE EXTERNAL;
INSERT INTO {prefix}pruned (kind, before)
    SELECT 'caller_minutes', max(start) + interval '1 minute' FROM {prefix}new_minutes HAVING max(start) IS NOT NULL;
COMMENT ON TABLE {prefix}caller_minutes IS 'The totals of callers by outcome and cause, in the minutes of each hour.';
COMMENT ON COLUMN {prefix}caller_minutes.hour IS 'The start of the hour.';
COMMENT ON COLUMN {prefix}caller_minutes.number IS 'The number of the row, ascending.';
COMMENT ON COLUMN {prefix}caller_minutes.totals IS 'A part of the totals of the hour, in the format of rollup records.';

CREATE INDEX {unqualified_prefix}new_minutes_by_start ON {prefix}new_minutes (start);
CREATE INDEX {unqualified_prefix}new_hours_by_start ON {prefix}new_hours (start);
CREATE INDEX {unqualified_prefix}new_days_by_start ON {prefix}new_days (start);
-- The background task encodes them.
INSERT INTO {prefix}caller_totals (hours, start)
    SELECT DISTINCT 1, start FROM {prefix}hours_by_outcome UNION SELECT DISTINCT 24, start FROM {prefix}new_days;
-- The histograms of caller 0 are those of all callers, one after the other.
INSERT INTO {prefix}pruned (kind, before) SELECT 'not_compacted', now() FROM {prefix}new_hours LIMIT 1;
COMMENT ON TABLE {prefix}pruned IS 'How far rollups were merged and pruned.';
COMMENT ON COLUMN {prefix}pruned.kind IS 'quarter_hours: rows by minute cover quarters of an hour. minutes: there are none. merged_hours, merged_days: there are all hours or days. pruned_hours: hours were deleted. hours: hours and days are being deleted. not_compacted: latency histograms are long. caller_minutes: none of the table of this name.';

-- Columns of the same width are adjacent, which saves padding. Those that are usually NULL take no space.
CREATE TABLE {prefix}new_requests (
    time timestamptz NOT NULL,
    id uuid NOT NULL,
    batch integer,
    latency_us integer,
    response_bytes integer,
    segment integer NOT NULL,
    caller_id integer NOT NULL,
    kind_id integer NOT NULL,
    large_latency_us bigint,
    large_response_bytes bigint,
    request_bytes bigint,
    cost bigint,
    path text,
    request_id text COLLATE "C",
    resource_id text COLLATE "C",
    rejection_reason text,
    client_ip inet,
    id_time_differs boolean
) PARTITION BY RANGE (time);
DO $$
DECLARE old record;
BEGIN
    FOR old IN
        SELECT n.nspname, c.oid, pg_get_expr(c.relpartbound, c.oid) AS bound
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE i.inhparent = '{prefix}requests'::regclass AND NOT i.inhdetachpending
    LOOP
        EXECUTE format('CREATE TABLE %I.%I PARTITION OF {prefix}new_requests %s', old.nspname,
            '{unqualified_prefix}new_' || old.oid, old.bound);
    END LOOP;
END $$;
-- Segments of whole batches. Those of requests without a batch are parts of an hour. Most have about 16,384 requests.
ALTER TABLE {prefix}log_batches ADD COLUMN segment integer;
ALTER TABLE {prefix}log_batches ADD COLUMN late_segment integer;
COMMENT ON COLUMN {prefix}log_batches.segment IS 'The segment of its requests; NULL for those of before schema version 2.';
COMMENT ON COLUMN {prefix}log_batches.late_segment IS 'The segment of its late requests, if there are any.';
UPDATE {prefix}log_batches b SET segment = s.segment
    FROM (SELECT position, (1 + (sum(events) OVER (ORDER BY position) - events) / 16384)::integer AS segment
        FROM {prefix}log_batches WHERE number IS NOT NULL) s
    WHERE s.position = b.position;
ANALYZE {prefix}log_batches;
INSERT INTO {prefix}new_requests (time, id, batch, latency_us, large_latency_us, response_bytes, large_response_bytes,
        request_bytes, cost, segment, caller_id, kind_id, path, request_id, resource_id, rejection_reason, client_ip,
        id_time_differs)
    SELECT r.time, r.id, r.batch::bit(32)::integer,
        CASE WHEN r.latency_us < 2147483648 THEN r.latency_us END, CASE WHEN r.latency_us >= 2147483648 THEN r.latency_us END,
        CASE WHEN r.response_bytes < 2147483648 THEN r.response_bytes END,
        CASE WHEN r.response_bytes >= 2147483648 THEN r.response_bytes END, nullif(r.request_bytes, 0), nullif(r.cost, 1),
        coalesce(b.segment, log.last_segment + coalesce(width_bucket(r.time, log.starts), 1)), s.caller_id, s.kind_id,
        nullif(r.path, s.endpoint), r.request_id, r.resource_id, r.rejection_reason, r.client_ip, r.id_time_differs
    FROM {prefix}requests r JOIN {prefix}series_numbers s ON s.id = r.series_id LEFT JOIN {prefix}log_batches b ON b.number = r.batch,
        (SELECT array_agg(hour + interval '1 hour' * (n::float8 / segments) ORDER BY hour, n) AS starts,
                (SELECT coalesce(max(segment), 0) FROM {prefix}log_batches) AS last_segment
            FROM (SELECT date_trunc('hour', time, 'UTC') AS hour, count(*) / 16384 + 1 AS segments
                FROM {prefix}requests WHERE batch IS NULL GROUP BY 1) hours,
                generate_series(0, segments - 1) n) log;
CREATE INDEX {unqualified_prefix}new_requests_by_caller ON {prefix}new_requests (segment, caller_id, kind_id);
CREATE INDEX {unqualified_prefix}new_requests_by_kind ON {prefix}new_requests (segment, kind_id);
CREATE INDEX {unqualified_prefix}new_requests_by_id ON {prefix}new_requests ((segment >> 4), id) WHERE id_time_differs IS NOT NULL;
CREATE INDEX {unqualified_prefix}new_requests_by_request_id ON {prefix}new_requests ((segment >> 4), (left(request_id, 64)))
    WHERE request_id IS NOT NULL;
CREATE INDEX {unqualified_prefix}new_requests_by_resource ON {prefix}new_requests ((segment >> 4), (left(resource_id, 64)))
    WHERE resource_id IS NOT NULL;

CREATE TABLE {prefix}log_segments (
    number integer PRIMARY KEY,
    first timestamptz NOT NULL,
    last timestamptz NOT NULL,
    events bigint NOT NULL
) WITH (fillfactor = 70);
INSERT INTO {prefix}log_segments SELECT segment, min(time), max(time), count(*) FROM {prefix}new_requests GROUP BY segment;
COMMENT ON TABLE {prefix}log_segments IS 'The segments of the request log. Each has several thousand requests that arrived around the same time.';
COMMENT ON COLUMN {prefix}log_segments.number IS 'Referenced by requests.segment. Late requests are in segments with negative numbers.';
COMMENT ON COLUMN {prefix}log_segments.first IS 'When the first of its requests arrived.';
COMMENT ON COLUMN {prefix}log_segments.last IS 'When the last of its requests arrived.';
COMMENT ON COLUMN {prefix}log_segments.events IS 'The number of requests that were added to it.';

-- The views keep their columns, so that other views and privileges stay.
CREATE OR REPLACE VIEW {prefix}request_log AS
    SELECT r.time, r.id, coalesce(r.request_id, r.id::text) AS request_id, c.key_id, c.owner, k.method,
        k.endpoint, coalesce(r.path, k.endpoint) AS path, r.resource_id, k.http_status, k.grpc_status, k.status_class, k.outcome,
        k.cause, coalesce(r.rejection_reason, k.rejection_reason) AS rejection_reason, coalesce(r.cost, 1) AS cost,
        coalesce(r.latency_us, r.large_latency_us) AS latency_us, coalesce(r.request_bytes, 0) AS request_bytes,
        coalesce(r.response_bytes, r.large_response_bytes) AS response_bytes, r.client_ip, r.segment,
        CASE WHEN k.billable THEN coalesce(r.cost, 1) ELSE 0 END AS billable_cost
    FROM {prefix}new_requests r JOIN {prefix}callers c ON c.id = r.caller_id JOIN {prefix}kinds k ON k.id = r.kind_id;
CREATE OR REPLACE VIEW {prefix}usage_by_minute AS
    SELECT t.start, c.key_id, c.owner, k.method, k.endpoint, k.http_status, k.grpc_status,
        k.status_class, k.outcome, k.cause, t.count, t.cost, t.request_bytes, t.response_bytes,
        CASE WHEN k.billable THEN t.cost ELSE 0 END AS billable_cost, k.rejection_reason
    FROM {prefix}new_minutes t JOIN {prefix}callers c ON c.id = t.caller_id JOIN {prefix}kinds k ON k.id = t.kind_id;
CREATE OR REPLACE VIEW {prefix}usage_by_hour AS
    SELECT t.start, c.key_id, c.owner, k.method, k.endpoint, k.http_status, k.grpc_status,
        k.status_class, k.outcome, k.cause, t.count, t.cost, t.request_bytes, t.response_bytes,
        CASE WHEN k.billable THEN t.cost ELSE 0 END AS billable_cost, k.rejection_reason
    FROM (SELECT caller_id, start, kind_id, count, cost, request_bytes, response_bytes FROM {prefix}new_hours
        UNION ALL
        SELECT caller_id, date_trunc('hour', start, 'UTC'), kind_id,
            least(sum(count), 9223372036854775807)::bigint, least(sum(cost), 9223372036854775807)::bigint,
            least(sum(request_bytes), 9223372036854775807)::bigint,
            least(sum(response_bytes), 9223372036854775807)::bigint
        FROM {prefix}new_minutes
        WHERE start >= coalesce((SELECT before FROM {prefix}pruned WHERE kind = 'merged_hours'), '-infinity')
        GROUP BY 1, 2, 3) t
    JOIN {prefix}callers c ON c.id = t.caller_id JOIN {prefix}kinds k ON k.id = t.kind_id;
COMMENT ON VIEW {prefix}request_log IS 'The request log with the attributes of callers and kinds.';
COMMENT ON VIEW {prefix}usage_by_minute IS 'Rollups by minute with the attributes of callers and kinds.';
COMMENT ON VIEW {prefix}usage_by_hour IS 'Rollups by hour with the attributes of callers and kinds.';

CREATE TABLE {prefix}partition_names AS
    SELECT n.nspname, c.oid, c.relname
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE i.inhparent = '{prefix}requests'::regclass AND NOT i.inhdetachpending;
SET LOCAL lock_timeout = '10min';
LOCK TABLE {prefix}requests, {prefix}minutes, {prefix}hours, {prefix}days, {prefix}key_minutes, {prefix}key_hours, {prefix}series IN ACCESS EXCLUSIVE MODE;
DROP TABLE {prefix}requests, {prefix}minutes, {prefix}hours, {prefix}days, {prefix}key_minutes, {prefix}key_hours, {prefix}series, {prefix}series_numbers;
DO $$
DECLARE old record;
BEGIN
    FOR old IN SELECT * FROM {prefix}partition_names LOOP
        EXECUTE format('ALTER TABLE %I.%I RENAME TO %I', old.nspname, '{unqualified_prefix}new_' || old.oid, old.relname);
    END LOOP;
END $$;
DROP TABLE {prefix}partition_names;

ALTER TABLE {prefix}new_minutes RENAME TO {unqualified_prefix}minutes;
ALTER TABLE {prefix}new_hours RENAME TO {unqualified_prefix}hours;
ALTER TABLE {prefix}new_days RENAME TO {unqualified_prefix}days;
ALTER INDEX {prefix}new_minutes_pkey RENAME TO {unqualified_prefix}minutes_pkey;
ALTER INDEX {prefix}new_hours_pkey RENAME TO {unqualified_prefix}hours_pkey;
ALTER INDEX {prefix}new_days_pkey RENAME TO {unqualified_prefix}days_pkey;
ALTER INDEX {prefix}new_minutes_by_start RENAME TO {unqualified_prefix}minutes_by_start;
ALTER INDEX {prefix}new_hours_by_start RENAME TO {unqualified_prefix}hours_by_start;
ALTER INDEX {prefix}new_days_by_start RENAME TO {unqualified_prefix}days_by_start;
-- The planner prefers an index on starts to the primary key, and would read the minutes of every caller.
CREATE INDEX {unqualified_prefix}minutes_together ON {prefix}minutes (start) WHERE caller_id = 0;
COMMENT ON TABLE {prefix}minutes IS 'Rollups of all requests by minute, independent of the request log. Older rows cover a quarter of an hour.';
COMMENT ON COLUMN {prefix}minutes.caller_id IS 'References the callers table. 0: all callers together.';
COMMENT ON COLUMN {prefix}minutes.start IS 'The start of the minute.';
COMMENT ON COLUMN {prefix}minutes.kind_id IS 'References the kinds table.';
COMMENT ON COLUMN {prefix}minutes.count IS 'The number of requests.';
COMMENT ON COLUMN {prefix}minutes.cost IS 'The cost of the requests.';
COMMENT ON COLUMN {prefix}minutes.request_bytes IS 'The sum of the requests'' Content-Length.';
COMMENT ON COLUMN {prefix}minutes.response_bytes IS 'Bytes of response bodies that were sent.';
COMMENT ON COLUMN {prefix}minutes.latency IS 'A latency histogram: pairs of LEB128 numbers, a bucket''s index counted from 1 and its count.';
COMMENT ON TABLE {prefix}hours IS 'Rollups of all requests by hour (UTC).';
COMMENT ON COLUMN {prefix}hours.caller_id IS 'References the callers table. 0: all callers together.';
COMMENT ON COLUMN {prefix}hours.start IS 'The start of the hour.';
COMMENT ON COLUMN {prefix}hours.kind_id IS 'References the kinds table.';
COMMENT ON COLUMN {prefix}hours.count IS 'The number of requests.';
COMMENT ON COLUMN {prefix}hours.cost IS 'The cost of the requests.';
COMMENT ON COLUMN {prefix}hours.request_bytes IS 'The sum of the requests'' Content-Length.';
COMMENT ON COLUMN {prefix}hours.response_bytes IS 'Bytes of response bodies that were sent.';
COMMENT ON COLUMN {prefix}hours.latency IS 'A latency histogram: pairs of LEB128 numbers, a bucket''s index counted from 1 and its count.';
COMMENT ON TABLE {prefix}days IS 'Rollups of all requests by day (UTC).';
COMMENT ON COLUMN {prefix}days.caller_id IS 'References the callers table. 0: all callers together.';
COMMENT ON COLUMN {prefix}days.start IS 'The start of the day.';
COMMENT ON COLUMN {prefix}days.kind_id IS 'References the kinds table.';
COMMENT ON COLUMN {prefix}days.count IS 'The number of requests.';
COMMENT ON COLUMN {prefix}days.cost IS 'The cost of the requests.';
COMMENT ON COLUMN {prefix}days.request_bytes IS 'The sum of the requests'' Content-Length.';
COMMENT ON COLUMN {prefix}days.response_bytes IS 'Bytes of response bodies that were sent.';
COMMENT ON COLUMN {prefix}days.latency IS 'A latency histogram: pairs of LEB128 numbers, a bucket''s index counted from 1 and its count.';

ALTER TABLE {prefix}new_requests RENAME TO {unqualified_prefix}requests;
ALTER INDEX {prefix}new_requests_by_kind RENAME TO {unqualified_prefix}requests_by_kind;
ALTER INDEX {prefix}new_requests_by_caller RENAME TO {unqualified_prefix}requests_by_caller;
ALTER INDEX {prefix}new_requests_by_id RENAME TO {unqualified_prefix}requests_by_id;
ALTER INDEX {prefix}new_requests_by_request_id RENAME TO {unqualified_prefix}requests_by_request_id;
ALTER INDEX {prefix}new_requests_by_resource RENAME TO {unqualified_prefix}requests_by_resource;
COMMENT ON TABLE {prefix}requests IS 'The request log, partitioned by day. The view {unqualified_prefix}request_log adds the attributes of callers and kinds.';
COMMENT ON COLUMN {prefix}requests.time IS 'When the request arrived.';
COMMENT ON COLUMN {prefix}requests.id IS 'The event id, a UUIDv7.';
COMMENT ON COLUMN {prefix}requests.id_time_differs IS 'Set if the time of the id is not that of the request, to the millisecond.';
COMMENT ON COLUMN {prefix}requests.segment IS 'The segment of the log. Indexes begin with it, so that inserts touch few pages.';
COMMENT ON COLUMN {prefix}requests.caller_id IS 'References the callers table.';
COMMENT ON COLUMN {prefix}requests.kind_id IS 'References the kinds table.';
COMMENT ON COLUMN {prefix}requests.batch IS 'The lower 32 bits of the number of its batch; NULL for requests written before schema version 2.';
COMMENT ON COLUMN {prefix}requests.cost IS 'The cost. NULL: 1.';
COMMENT ON COLUMN {prefix}requests.latency_us IS 'Microseconds from the request''s arrival to the end of the response. NULL if they are in large_latency_us.';
COMMENT ON COLUMN {prefix}requests.large_latency_us IS 'The latency if it is longer than 2147483647 microseconds.';
COMMENT ON COLUMN {prefix}requests.request_bytes IS 'The Content-Length of the request. NULL: 0.';
COMMENT ON COLUMN {prefix}requests.response_bytes IS 'Bytes of the response body that were sent. NULL if they are in large_response_bytes.';
COMMENT ON COLUMN {prefix}requests.large_response_bytes IS 'The bytes if they are more than 2147483647.';
COMMENT ON COLUMN {prefix}requests.path IS 'The path as received, without the query. NULL if it is the endpoint.';
COMMENT ON COLUMN {prefix}requests.request_id IS 'The request id on the wire, if it is not the event id.';
COMMENT ON COLUMN {prefix}requests.resource_id IS 'The resource that the request was about, as set by the application.';
COMMENT ON COLUMN {prefix}requests.rejection_reason IS 'Why the request was rejected, if it was, and its kind does not say so.';
COMMENT ON COLUMN {prefix}requests.client_ip IS 'The client''s IP address.';

CREATE TABLE {prefix}rollup_records (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    format integer NOT NULL,
    ready boolean NOT NULL,
    unreadable boolean NOT NULL DEFAULT false,
    first timestamptz NOT NULL,
    last timestamptz NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    rollups bytea NOT NULL
);
ALTER TABLE {prefix}rollup_records ALTER COLUMN rollups SET STORAGE EXTERNAL;
COMMENT ON TABLE {prefix}rollup_records IS 'Rollups that are not merged into the other tables yet.';
COMMENT ON COLUMN {prefix}rollup_records.number IS 'The number of the record, ascending.';
COMMENT ON COLUMN {prefix}rollup_records.format IS 'The version of the binary format.';
COMMENT ON COLUMN {prefix}rollup_records.ready IS 'Whether all its minutes have passed, so that it can be added to the other tables.';
COMMENT ON COLUMN {prefix}rollup_records.unreadable IS 'Whether it is damaged. Its requests are not counted.';
COMMENT ON COLUMN {prefix}rollup_records.first IS 'The start of the first minute.';
COMMENT ON COLUMN {prefix}rollup_records.last IS 'The start of the last minute.';
COMMENT ON COLUMN {prefix}rollup_records.written_at IS 'When the record was written.';
COMMENT ON COLUMN {prefix}rollup_records.rollups IS 'Rollups by minute, caller and kind, in a binary format.';

CREATE FUNCTION {prefix}rollups_of(record bytea) RETURNS TABLE (
    start timestamptz,
    caller_id integer,
    kind_id integer,
    count bigint,
    cost bigint,
    request_bytes bigint,
    response_bytes bigint
) LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    byte integer;
    number bigint := 0;
    shift integer := 0;
    field text := 'minute';
    -- The start of the year 1, in minutes since 1970.
    minute bigint := -1035593280;
    callers bigint;
    kinds bigint;
    latencies bigint;
BEGIN
    -- A header of five bytes precedes the numbers.
    FOR position IN 5 .. length(record) - 1 LOOP
        byte := get_byte(record, position);
        number := CASE WHEN shift < 63 THEN number | ((byte & 127)::bigint << shift) ELSE 9223372036854775807 END;
        shift := shift + 7;
        CONTINUE WHEN byte > 127;
        CASE field
            WHEN 'minute' THEN
                minute := minute + number;
                start := to_timestamp(minute * 60);
                field := 'callers';
            WHEN 'callers' THEN
                callers := number;
                caller_id := 0;
                field := 'caller';
            WHEN 'caller' THEN
                caller_id := caller_id + number;
                field := 'kinds';
            WHEN 'kinds' THEN
                kinds := number;
                kind_id := 0;
                field := 'kind';
            WHEN 'kind' THEN
                kind_id := kind_id + number;
                field := 'count';
            WHEN 'count' THEN
                count := number;
                field := 'cost';
            WHEN 'cost' THEN
                cost := number;
                field := 'request_bytes';
            WHEN 'request_bytes' THEN
                request_bytes := number;
                field := 'response_bytes';
            WHEN 'response_bytes' THEN
                response_bytes := number;
                field := 'latencies';
                RETURN NEXT;
            WHEN 'latencies' THEN
                -- A bucket and a count each.
                latencies := 2 * number;
                field := 'latency';
            ELSE
                latencies := latencies - 1;
        END CASE;
        IF field = 'latency' AND latencies = 0 THEN
            kinds := kinds - 1;
            callers := callers - (kinds = 0)::integer;
            field := CASE WHEN kinds > 0 THEN 'kind' WHEN callers > 0 THEN 'caller' ELSE 'minute' END;
        END IF;
        number := 0;
        shift := 0;
    END LOOP;
END $$;
COMMENT ON FUNCTION {prefix}rollups_of IS 'Decodes {unqualified_prefix}rollup_records.rollups, without latencies.';

CREATE VIEW {prefix}unmerged_usage_by_minute AS
    SELECT t.start, c.key_id, c.owner, k.method, k.endpoint, k.http_status, k.grpc_status,
        k.status_class, k.outcome, k.cause, t.count, t.cost, t.request_bytes, t.response_bytes,
        CASE WHEN k.billable THEN t.cost ELSE 0 END AS billable_cost, k.rejection_reason
    FROM {prefix}rollup_records r, {prefix}rollups_of(r.rollups) t
    JOIN {prefix}callers c ON c.id = t.caller_id JOIN {prefix}kinds k ON k.id = t.kind_id
    WHERE NOT r.unreadable AND r.format = 1;
COMMENT ON VIEW {prefix}unmerged_usage_by_minute IS 'Rollups by minute that {unqualified_prefix}usage_by_minute does not include yet.';

CREATE FUNCTION {prefix}latency_quantile(latency bytea, quantile double precision) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    byte integer;
    number bigint := 0;
    shift integer := 0;
    bucket integer;
    counts numeric[] := array_fill(0::numeric, ARRAY[273]);
    total double precision;
    rank double precision;
    seen numeric := 0;
    low bigint;
    high bigint;
BEGIN
    FOR position IN 0 .. length(latency) - 1 LOOP
        byte := get_byte(latency, position);
        number := number | ((byte & 127)::bigint << shift);
        shift := shift + 7;
        CONTINUE WHEN byte > 127;
        IF bucket IS NULL THEN
            bucket := number;
        ELSE
            counts[bucket] := counts[bucket] + number;
            bucket := NULL;
        END IF;
        number := 0;
        shift := 0;
    END LOOP;
    total := (SELECT sum(n) FROM unnest(counts) n);
    IF total = 0 THEN
        RETURN NULL;
    END IF;
    IF quantile = 'NaN' THEN
        quantile := 0;
    END IF;
    -- The nearest rank. `0.07 * 100.0` is slightly above 7 and must not round up to 8.
    rank := quantile * total;
    rank := least(greatest(ceil(rank - rank * 2.220446049250313e-16), 1), total);
    FOR bucket IN 0 .. 272 LOOP
        seen := seen + counts[bucket + 1];
        CONTINUE WHEN seen < rank;
        -- The bounds of the bucket, and their harmonic mean.
        shift := greatest(bucket / 8 - 1, 0);
        low := (bucket - 8 * shift)::bigint << shift;
        high := low + (1::bigint << shift) - 1;
        RETURN CASE WHEN bucket = 272 OR low = high THEN low ELSE div(2::numeric * low * high, low + high) END;
    END LOOP;
END $$;
COMMENT ON FUNCTION {prefix}latency_quantile IS 'A quantile of a latency histogram, in microseconds.';

ALTER TABLE {prefix}keys ADD COLUMN imported boolean NOT NULL DEFAULT false;
UPDATE {prefix}keys SET imported = true WHERE starts_with(hint, 'imported ');
COMMENT ON COLUMN {prefix}keys.imported IS 'Whether another system issued the secret.';

ALTER TABLE {prefix}keys RENAME COLUMN last_used_at TO last_accepted_at;
ALTER TABLE {prefix}keys ADD COLUMN first_accepted_at timestamptz;
ALTER TABLE {prefix}keys ADD COLUMN rejected_since bigint NOT NULL DEFAULT 0;
ALTER TABLE {prefix}keys ADD COLUMN rejected_times bytea;
ALTER TABLE {prefix}keys ADD COLUMN replaced_by text;
-- The newest replacement, if a key was rotated several times.
UPDATE {prefix}keys AS k SET replaced_by = n.id FROM (
    SELECT id, rotated_from, row_number() OVER (PARTITION BY rotated_from ORDER BY created_at DESC, id) AS place
    FROM {prefix}keys WHERE rotated_from IS NOT NULL
) n WHERE n.rotated_from = k.id AND n.place = 1;
COMMENT ON COLUMN {prefix}keys.first_accepted_at IS 'When the first accepted request arrived. NULL if there was none, or if it is unknown.';
COMMENT ON COLUMN {prefix}keys.last_accepted_at IS 'When the last accepted request arrived.';
COMMENT ON COLUMN {prefix}keys.rejected_since IS 'The number of requests that arrived later than last_accepted_at and were rejected.';
COMMENT ON COLUMN {prefix}keys.rejected_times IS 'When these requests arrived, in a binary format.';
COMMENT ON COLUMN {prefix}keys.replaced_by IS 'The key that replaced this one in a rotation.';

ALTER TABLE {prefix}keys ADD COLUMN plan text COLLATE "C";
CREATE INDEX {unqualified_prefix}keys_by_plan ON {prefix}keys (plan) WHERE plan IS NOT NULL;
CREATE INDEX {unqualified_prefix}keys_by_expiry ON {prefix}keys (expires_at) WHERE expires_at IS NOT NULL;
COMMENT ON COLUMN {prefix}keys.plan IS 'The name of the plan of the key. NULL if it has none of its own.';

CREATE TABLE {prefix}plans (
    name text COLLATE "C" PRIMARY KEY,
    key_limits jsonb NOT NULL,
    owner_limits jsonb NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL
);
COMMENT ON TABLE {prefix}plans IS 'Rate limits of keys and owners that have none of their own.';
COMMENT ON COLUMN {prefix}plans.name IS 'The name, which identifies the plan.';
COMMENT ON COLUMN {prefix}plans.key_limits IS 'The rate limits of each key.';
COMMENT ON COLUMN {prefix}plans.owner_limits IS 'The rate limits that all keys of an owner share.';
COMMENT ON COLUMN {prefix}plans.metadata IS 'Application data.';
COMMENT ON COLUMN {prefix}plans.created_at IS 'When the plan was created.';

CREATE TABLE {prefix}owners (
    id text COLLATE "C" PRIMARY KEY,
    name text,
    plan text COLLATE "C",
    limits jsonb NOT NULL,
    status text NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL
);
INSERT INTO {prefix}owners (id, limits, status, metadata, created_at)
    SELECT owner COLLATE "C", '[]'::jsonb, 'active', '{}'::jsonb, min(created_at)
    FROM {prefix}keys WHERE owner IS NOT NULL GROUP BY owner COLLATE "C";
CREATE INDEX {unqualified_prefix}owners_by_created ON {prefix}owners (created_at, id);
CREATE INDEX {unqualified_prefix}owners_by_plan ON {prefix}owners (plan) WHERE plan IS NOT NULL;
COMMENT ON TABLE {prefix}owners IS 'Owners of keys.';
COMMENT ON COLUMN {prefix}owners.id IS 'The id, as in the column owner of keys.';
COMMENT ON COLUMN {prefix}owners.name IS 'A human-readable name. NULL if there is none.';
COMMENT ON COLUMN {prefix}owners.plan IS 'The name of the plan. NULL if there is none.';
COMMENT ON COLUMN {prefix}owners.limits IS 'The rate limits that all keys of the owner share. If empty, those of the plan.';
COMMENT ON COLUMN {prefix}owners.status IS 'active or suspended.';
COMMENT ON COLUMN {prefix}owners.metadata IS 'Application data.';
COMMENT ON COLUMN {prefix}owners.created_at IS 'When the record was created.';

ALTER TABLE {prefix}audit_log ALTER COLUMN key_id DROP NOT NULL;
ALTER TABLE {prefix}audit_log ADD COLUMN owner text COLLATE "C";
ALTER TABLE {prefix}audit_log ADD COLUMN plan text COLLATE "C";
CREATE INDEX {unqualified_prefix}audit_log_by_owner ON {prefix}audit_log (owner, time, id) WHERE owner IS NOT NULL;
CREATE INDEX {unqualified_prefix}audit_log_by_plan ON {prefix}audit_log (plan, time, id) WHERE plan IS NOT NULL;
COMMENT ON TABLE {prefix}audit_log IS 'The audit log of changes to keys, owners and plans. Contains no secrets and no digests.';
COMMENT ON COLUMN {prefix}audit_log.action IS 'created, updated, disabled, enabled, revoked, rotated, revealed, rehashed, deleted, suspended or resumed.';
COMMENT ON COLUMN {prefix}audit_log.key_id IS 'The changed key. NULL if an owner or a plan was changed.';
COMMENT ON COLUMN {prefix}audit_log.owner IS 'The changed owner.';
COMMENT ON COLUMN {prefix}audit_log.plan IS 'The changed plan.';
COMMENT ON COLUMN {prefix}audit_log.before IS 'The key, owner or plan before the change. NULL for created.';
COMMENT ON COLUMN {prefix}audit_log.after IS 'The key, owner or plan after the change. NULL for deleted.';
