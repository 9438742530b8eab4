-- The key and the owner of requests.
CREATE TABLE {prefix}callers (
    -- 0 is all callers. No number is given twice.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- A hash of key_id and owner.
    hash BLOB NOT NULL UNIQUE,
    key_id TEXT,
    owner TEXT,
    -- The last day of a recorded request, in days since 1970-01-01.
    last_seen_day INTEGER NOT NULL,
    -- A random number, by which writers detect that the database was restored.
    token INTEGER NOT NULL
) STRICT;

-- Attributes that many requests share.
CREATE TABLE {prefix}kinds (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- A hash of the attributes from method to rejection_reason, and of billable.
    hash BLOB NOT NULL UNIQUE,
    method TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    http_status INTEGER,
    grpc_status INTEGER,
    outcome TEXT NOT NULL,
    cause TEXT,
    -- NULL unless the requests were rejected, and in kinds of before this version.
    rejection_reason TEXT,
    status_class TEXT NOT NULL,
    billable INTEGER NOT NULL,
    last_seen_day INTEGER NOT NULL,
    token INTEGER NOT NULL
) STRICT;

CREATE TABLE {prefix}series_numbers AS
    SELECT *, dense_rank() OVER (ORDER BY key_id, owner) AS caller_id,
        dense_rank() OVER (ORDER BY method, endpoint, http_status, grpc_status, outcome, cause,
            status_class) AS kind_id
    FROM {prefix}series;
CREATE UNIQUE INDEX {prefix}series_numbers_by_id ON {prefix}series_numbers (id);
-- Any unique hash will do: a caller or a kind that is written again gets another row.
INSERT INTO {prefix}callers (id, hash, key_id, owner, last_seen_day, token)
    SELECT caller_id, min(hash), key_id, owner, max(last_seen_day), random()
    FROM {prefix}series_numbers GROUP BY caller_id;
INSERT INTO {prefix}kinds (id, hash, method, endpoint, http_status, grpc_status, outcome, cause, status_class, billable,
        last_seen_day, token)
    SELECT kind_id, min(hash), method, endpoint, http_status, grpc_status, outcome,
        CASE cause WHEN 'refused' THEN 'rejected' ELSE cause END, status_class, outcome = 'completed',
        max(last_seen_day), random()
    FROM {prefix}series_numbers GROUP BY kind_id;
CREATE INDEX {prefix}callers_by_key ON {prefix}callers (key_id);
CREATE INDEX {prefix}callers_by_owner ON {prefix}callers (owner);

DROP VIEW {prefix}request_log;
DROP VIEW {prefix}usage_by_minute;
DROP VIEW {prefix}usage_by_hour;

-- Rollups of all requests by minute, independent of the request log. Those of caller 0 include all callers.
CREATE TABLE {prefix}new_minutes (
    caller_id INTEGER NOT NULL,
    start INTEGER NOT NULL,
    kind_id INTEGER NOT NULL,
    count INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    -- A latency histogram: pairs of LEB128 numbers, a bucket's index counted from 1 and its count.
    latency BLOB NOT NULL,
    PRIMARY KEY (caller_id, start, kind_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE {prefix}new_hours (
    caller_id INTEGER NOT NULL,
    start INTEGER NOT NULL,
    kind_id INTEGER NOT NULL,
    count INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    latency BLOB NOT NULL,
    PRIMARY KEY (caller_id, start, kind_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE {prefix}new_days (
    caller_id INTEGER NOT NULL,
    start INTEGER NOT NULL,
    kind_id INTEGER NOT NULL,
    count INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    latency BLOB NOT NULL,
    PRIMARY KEY (caller_id, start, kind_id)
) STRICT, WITHOUT ROWID;
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
    SELECT 0, start, kind_id, sum(count), sum(cost),
        CASE WHEN sum(request_bytes >> 32) + (sum(request_bytes & 4294967295) >> 32) >= 2147483648
        THEN 9223372036854775807 ELSE (sum(request_bytes >> 32) << 32) + sum(request_bytes & 4294967295) END,
        CASE WHEN sum(response_bytes >> 32) + (sum(response_bytes & 4294967295) >> 32) >= 2147483648
        THEN 9223372036854775807 ELSE (sum(response_bytes >> 32) << 32) + sum(response_bytes & 4294967295) END,
        CAST(group_concat(latency, '') AS BLOB)
    FROM {prefix}new_minutes GROUP BY start, kind_id;
INSERT INTO {prefix}new_hours
    SELECT 0, start, kind_id, sum(count), sum(cost),
        CASE WHEN sum(request_bytes >> 32) + (sum(request_bytes & 4294967295) >> 32) >= 2147483648
        THEN 9223372036854775807 ELSE (sum(request_bytes >> 32) << 32) + sum(request_bytes & 4294967295) END,
        CASE WHEN sum(response_bytes >> 32) + (sum(response_bytes & 4294967295) >> 32) >= 2147483648
        THEN 9223372036854775807 ELSE (sum(response_bytes >> 32) << 32) + sum(response_bytes & 4294967295) END,
        CAST(group_concat(latency, '') AS BLOB)
    FROM {prefix}new_hours GROUP BY start, kind_id;
INSERT INTO {prefix}new_days
    SELECT 0, start, kind_id, sum(count), sum(cost),
        CASE WHEN sum(request_bytes >> 32) + (sum(request_bytes & 4294967295) >> 32) >= 2147483648
        THEN 9223372036854775807 ELSE (sum(request_bytes >> 32) << 32) + sum(request_bytes & 4294967295) END,
        CASE WHEN sum(response_bytes >> 32) + (sum(response_bytes & 4294967295) >> 32) >= 2147483648
        THEN 9223372036854775807 ELSE (sum(response_bytes >> 32) << 32) + sum(response_bytes & 4294967295) END,
        CAST(group_concat(latency, '') AS BLOB)
    FROM {prefix}new_days GROUP BY start, kind_id;

CREATE TABLE {prefix}new_requests (
    row INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    id BLOB NOT NULL,
    latency_us INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    segment INTEGER NOT NULL,
    caller_id INTEGER NOT NULL,
    kind_id INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    -- NULL if it is the endpoint.
    path TEXT,
    -- The id on the wire, if it is not the event id.
    request_id TEXT,
    resource_id TEXT,
    -- Of requests whose kind has none.
    rejection_reason TEXT,
    client_ip TEXT,
    -- Set if the time of the id is not that of the request, to the millisecond.
    id_time_differs INTEGER
) STRICT;
INSERT INTO {prefix}new_requests
    SELECT r.row, r.time, r.id, r.latency_us, r.response_bytes, 1 + (r.row >> 14), s.caller_id, s.kind_id,
        r.request_bytes, r.cost, nullif(r.path, s.endpoint), r.request_id, r.resource_id, r.rejection_reason,
        r.client_ip, r.id_time_differs
    FROM {prefix}requests r JOIN {prefix}series_numbers s ON s.id = r.series_id ORDER BY r.row;

-- Views of the application may refer to the tables meanwhile.
PRAGMA legacy_alter_table = ON;
DROP TABLE {prefix}requests;
DROP TABLE {prefix}minutes;
DROP TABLE {prefix}hours;
DROP TABLE {prefix}days;
DROP TABLE {prefix}key_minutes;
DROP TABLE {prefix}key_hours;
DROP TABLE {prefix}series;
DROP TABLE {prefix}series_numbers;
ALTER TABLE {prefix}new_requests RENAME TO {prefix}requests;
ALTER TABLE {prefix}new_minutes RENAME TO {prefix}minutes;
ALTER TABLE {prefix}new_hours RENAME TO {prefix}hours;
ALTER TABLE {prefix}new_days RENAME TO {prefix}days;
PRAGMA legacy_alter_table = OFF;
CREATE INDEX {prefix}minutes_by_start ON {prefix}minutes (start);
CREATE INDEX {prefix}hours_by_start ON {prefix}hours (start);
CREATE INDEX {prefix}days_by_start ON {prefix}days (start);
-- The times up to which there are all hours and days. The current hour and day are rolled up when they have passed, as
-- all others from now on.
INSERT INTO {prefix}pruned (kind, before)
    SELECT 'merged_hours', max(min(max(start) + 3600000000, unixepoch() / 3600 * 3600000000),
        coalesce((SELECT before FROM {prefix}pruned WHERE kind = 'minutes'), -9223372036854775807))
    FROM {prefix}hours HAVING max(start) IS NOT NULL;
DELETE FROM {prefix}hours WHERE start >= (SELECT before FROM {prefix}pruned WHERE kind = 'merged_hours');
INSERT INTO {prefix}pruned (kind, before)
    SELECT 'merged_days', min(max(start) + 86400000000,
        coalesce((SELECT before - (before % 86400000000 + 86400000000) % 86400000000
            FROM {prefix}pruned WHERE kind = 'merged_hours'), 9223372036854775807))
    FROM {prefix}days HAVING max(start) IS NOT NULL;
DELETE FROM {prefix}days WHERE start >= (SELECT before FROM {prefix}pruned WHERE kind = 'merged_days');

-- Rollups by caller, hour, outcome and cause.
CREATE TABLE {prefix}hours_by_outcome (
    caller_id INTEGER NOT NULL,
    start INTEGER NOT NULL,
    -- A kind with this outcome, cause and billable, as their representative.
    kind_id INTEGER NOT NULL,
    count INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    latency BLOB NOT NULL,
    PRIMARY KEY (caller_id, start, kind_id)
) STRICT, WITHOUT ROWID;
INSERT INTO {prefix}hours_by_outcome
    SELECT t.caller_id, t.start, min(t.kind_id), sum(t.count), sum(t.cost),
        CASE WHEN sum(t.request_bytes >> 32) + (sum(t.request_bytes & 4294967295) >> 32) >= 2147483648
        THEN 9223372036854775807 ELSE (sum(t.request_bytes >> 32) << 32) + sum(t.request_bytes & 4294967295) END,
        CASE WHEN sum(t.response_bytes >> 32) + (sum(t.response_bytes & 4294967295) >> 32) >= 2147483648
        THEN 9223372036854775807 ELSE (sum(t.response_bytes >> 32) << 32) + sum(t.response_bytes & 4294967295) END,
        CAST(group_concat(t.latency, '') AS BLOB)
    FROM {prefix}hours t JOIN {prefix}kinds k ON k.id = t.kind_id
    GROUP BY t.caller_id, t.start, k.outcome, k.cause, k.billable ORDER BY 1, 2, 3;
CREATE INDEX {prefix}hours_by_outcome_by_start ON {prefix}hours_by_outcome (start);
-- The totals of all callers by outcome, in each hour, day and block of these.
CREATE TABLE {prefix}caller_totals (
    -- 1 for an hour, 6 for six hours, 24 for a day, 48 and 96 for two and four days, 192 for eight days.
    hours INTEGER NOT NULL,
    start INTEGER NOT NULL,
    -- In the format of rollup records. NULL if they are outdated.
    totals BLOB,
    PRIMARY KEY (hours, start)
) STRICT;
CREATE INDEX {prefix}outdated_caller_totals ON {prefix}caller_totals (start) WHERE totals IS NULL;

-- The totals of callers by outcome, in the minutes of each hour.
CREATE TABLE {prefix}caller_minutes (
    number INTEGER PRIMARY KEY,
    -- The start of the hour.
    hour INTEGER NOT NULL,
    -- A part of its totals, in the format of rollup records.
    totals BLOB NOT NULL
) STRICT;
CREATE INDEX {prefix}caller_minutes_by_hour ON {prefix}caller_minutes (hour);
INSERT INTO {prefix}pruned (kind, before)
    SELECT 'caller_minutes', max(start) + 60000000 FROM {prefix}minutes HAVING max(start) IS NOT NULL;

-- The background task encodes them.
INSERT INTO {prefix}caller_totals (hours, start)
    SELECT DISTINCT 1, start FROM {prefix}hours_by_outcome UNION SELECT DISTINCT 24, start FROM {prefix}days;
-- The histograms of caller 0 are those of all callers, one after the other.
INSERT INTO {prefix}pruned (kind, before) SELECT 'not_compacted', unixepoch() * 1000000 FROM {prefix}hours LIMIT 1;
-- By segment, or by 16 segments, so that inserts touch few pages.
CREATE INDEX {prefix}requests_by_caller ON {prefix}requests (segment, caller_id, kind_id);
CREATE INDEX {prefix}requests_by_kind ON {prefix}requests (segment, kind_id);
CREATE INDEX {prefix}requests_by_id ON {prefix}requests (segment >> 4, id) WHERE id_time_differs IS NOT NULL;
CREATE INDEX {prefix}requests_by_request_id ON {prefix}requests (segment >> 4, request_id) WHERE request_id IS NOT NULL;
CREATE INDEX {prefix}requests_by_resource ON {prefix}requests (segment >> 4, resource_id) WHERE resource_id IS NOT NULL;
CREATE TRIGGER {prefix}log_pruned_follows AFTER DELETE ON {prefix}requests
    WHEN OLD.row > (SELECT position FROM {prefix}log_pruned)
BEGIN
    UPDATE {prefix}log_pruned SET position = OLD.row;
END;

-- The segments of the request log. Each has several thousand requests that arrived around the same
-- time.
CREATE TABLE {prefix}log_segments (
    number INTEGER PRIMARY KEY,
    -- When its first and its last request arrived.
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    events INTEGER NOT NULL
) STRICT;
INSERT INTO {prefix}log_segments
    SELECT segment, min(time), max(time), count(*) FROM {prefix}requests GROUP BY segment;

CREATE VIEW {prefix}request_log AS
    SELECT r.time, r.id, r.request_id, c.key_id, c.owner, k.method, k.endpoint,
        coalesce(r.path, k.endpoint) AS path,
        r.resource_id, k.http_status, k.grpc_status, k.status_class, k.outcome, k.cause,
        coalesce(r.rejection_reason, k.rejection_reason) AS rejection_reason, r.cost, r.latency_us, r.request_bytes, r.response_bytes, r.client_ip, r.segment,
        CASE WHEN k.billable THEN r.cost ELSE 0 END AS billable_cost
    FROM {prefix}requests r JOIN {prefix}callers c ON c.id = r.caller_id JOIN {prefix}kinds k ON k.id = r.kind_id;
CREATE VIEW {prefix}usage_by_minute AS
    SELECT t.start, c.key_id, c.owner, k.method, k.endpoint, k.http_status, k.grpc_status,
        k.status_class, k.outcome, k.cause, t.count, t.cost, t.request_bytes, t.response_bytes,
        CASE WHEN k.billable THEN t.cost ELSE 0 END AS billable_cost, k.rejection_reason
    FROM {prefix}minutes t JOIN {prefix}callers c ON c.id = t.caller_id JOIN {prefix}kinds k ON k.id = t.kind_id;
CREATE VIEW {prefix}usage_by_hour AS
    SELECT t.start, c.key_id, c.owner, k.method, k.endpoint, k.http_status, k.grpc_status,
        k.status_class, k.outcome, k.cause, t.count, t.cost, t.request_bytes, t.response_bytes,
        CASE WHEN k.billable THEN t.cost ELSE 0 END AS billable_cost, k.rejection_reason
    FROM (SELECT caller_id, start, kind_id, count, cost, request_bytes, response_bytes FROM {prefix}hours
        UNION ALL
        SELECT caller_id, start - (start % 3600000000 + 3600000000) % 3600000000, kind_id, sum(count), sum(cost),
            CASE WHEN sum(request_bytes >> 32) + (sum(request_bytes & 4294967295) >> 32) >= 2147483648
                THEN 9223372036854775807 ELSE (sum(request_bytes >> 32) << 32) + sum(request_bytes & 4294967295) END,
            CASE WHEN sum(response_bytes >> 32) + (sum(response_bytes & 4294967295) >> 32) >= 2147483648
                THEN 9223372036854775807 ELSE (sum(response_bytes >> 32) << 32) + sum(response_bytes & 4294967295) END
        FROM {prefix}minutes
        WHERE start >= coalesce((SELECT before FROM {prefix}pruned WHERE kind = 'merged_hours'),
            -9223372036854775807)
        -- Found by their start, not scanned in the order of the primary key.
        GROUP BY +caller_id, 2, +kind_id) t
    JOIN {prefix}callers c ON c.id = t.caller_id JOIN {prefix}kinds k ON k.id = t.kind_id;

-- Rollups that are not merged into the other tables yet.
CREATE TABLE {prefix}rollup_records (
    number INTEGER PRIMARY KEY,
    -- The version of the binary format.
    format INTEGER NOT NULL,
    -- Whether all its minutes have passed, so that it can be added to the other tables.
    ready INTEGER NOT NULL,
    -- Whether it is damaged. Its requests are not counted.
    unreadable INTEGER NOT NULL DEFAULT 0,
    -- The starts of the first and the last minute.
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    written_at INTEGER NOT NULL DEFAULT (unixepoch() * 1000000),
    -- Rollups by minute, caller and kind, in a binary format.
    rollups BLOB NOT NULL
) STRICT;

-- Whether another system issued the secret.
ALTER TABLE {prefix}keys ADD COLUMN imported INTEGER NOT NULL DEFAULT 0;
UPDATE {prefix}keys SET imported = 1 WHERE substr(hint, 1, 9) = 'imported ';

ALTER TABLE {prefix}keys RENAME COLUMN last_used_at TO last_accepted_at;
ALTER TABLE {prefix}keys ADD COLUMN first_accepted_at INTEGER;
ALTER TABLE {prefix}keys ADD COLUMN rejected_since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE {prefix}keys ADD COLUMN rejected_times BLOB;
ALTER TABLE {prefix}keys ADD COLUMN replaced_by TEXT;
-- The newest replacement, if a key was rotated several times.
UPDATE {prefix}keys AS k SET replaced_by = n.id FROM (
    SELECT id, rotated_from, row_number() OVER (PARTITION BY rotated_from ORDER BY created_at DESC, id) AS place
    FROM {prefix}keys WHERE rotated_from IS NOT NULL
) n WHERE n.rotated_from = k.id AND n.place = 1;

-- The name of the plan.
ALTER TABLE {prefix}keys ADD COLUMN plan TEXT;
CREATE INDEX {prefix}keys_by_plan ON {prefix}keys (plan) WHERE plan IS NOT NULL;
CREATE INDEX {prefix}keys_by_expiry ON {prefix}keys (expires_at) WHERE expires_at IS NOT NULL;

-- Rate limits of keys and owners that have none of their own.
CREATE TABLE {prefix}plans (
    name TEXT NOT NULL PRIMARY KEY,
    key_limits TEXT NOT NULL,
    -- Shared by all keys of an owner.
    owner_limits TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE {prefix}owners (
    -- As in the column owner of keys.
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT,
    plan TEXT,
    -- Shared by all keys of the owner.
    limits TEXT NOT NULL,
    -- active or suspended.
    status TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO {prefix}owners (id, limits, status, metadata, created_at)
    SELECT owner, '[]', 'active', '{}', min(created_at) FROM {prefix}keys WHERE owner IS NOT NULL GROUP BY owner;
CREATE INDEX {prefix}owners_by_created ON {prefix}owners (created_at, id);
CREATE INDEX {prefix}owners_by_plan ON {prefix}owners (plan) WHERE plan IS NOT NULL;

-- The audit log of changes to keys, owners and plans.
CREATE TABLE {prefix}new_audit_log (
    id BLOB NOT NULL PRIMARY KEY,
    time INTEGER NOT NULL,
    actor TEXT,
    action TEXT NOT NULL,
    -- NULL if an owner or a plan was changed.
    key_id TEXT,
    before TEXT,
    after TEXT,
    -- The changed owner.
    owner TEXT,
    -- The changed plan.
    plan TEXT
) STRICT, WITHOUT ROWID;
INSERT INTO {prefix}new_audit_log (id, time, actor, action, key_id, before, after)
    SELECT id, time, actor, action, key_id, before, after FROM {prefix}audit_log ORDER BY id;
PRAGMA legacy_alter_table = ON;
DROP TABLE {prefix}audit_log;
ALTER TABLE {prefix}new_audit_log RENAME TO {prefix}audit_log;
PRAGMA legacy_alter_table = OFF;
CREATE INDEX {prefix}audit_log_by_time ON {prefix}audit_log (time, id);
CREATE INDEX {prefix}audit_log_by_key ON {prefix}audit_log (key_id, time, id);
CREATE INDEX {prefix}audit_log_by_owner ON {prefix}audit_log (owner, time, id) WHERE owner IS NOT NULL;
CREATE INDEX {prefix}audit_log_by_plan ON {prefix}audit_log (plan, time, id) WHERE plan IS NOT NULL;
