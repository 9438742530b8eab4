ALTER TABLE {prefix}keys RENAME COLUMN name_folded TO name_lower;
ALTER TABLE {prefix}keys RENAME COLUMN created TO created_at;
ALTER TABLE {prefix}keys RENAME COLUMN expires TO expires_at;
ALTER TABLE {prefix}keys RENAME COLUMN revoked TO revoked_at;
ALTER TABLE {prefix}keys RENAME COLUMN line TO lineage;
ALTER TABLE {prefix}keys RENAME COLUMN last_used TO last_used_at;
ALTER TABLE {prefix}keys RENAME COLUMN sealed TO encrypted_secret;

DROP INDEX {prefix}keys_by_created;
CREATE INDEX {prefix}keys_by_created_at ON {prefix}keys (created_at, id);

ALTER TABLE {prefix}key_changes RENAME TO {prefix}audit_log;
DROP INDEX {prefix}key_changes_by_time;
DROP INDEX {prefix}key_changes_by_key;
CREATE INDEX {prefix}audit_log_by_time ON {prefix}audit_log (time, id);
CREATE INDEX {prefix}audit_log_by_key ON {prefix}audit_log (key_id, time, id);

ALTER TABLE {prefix}series RENAME COLUMN seen TO last_seen_day;

ALTER TABLE {prefix}requests RENAME COLUMN id_apart TO id_time_differs;
ALTER TABLE {prefix}requests RENAME COLUMN refusal TO rejection_reason;
ALTER TABLE {prefix}requests RENAME COLUMN client_address TO client_ip;
-- The view would keep the names that it had.
DROP VIEW {prefix}request_log;
CREATE VIEW {prefix}request_log AS
    SELECT r.time, r.id, r.request_id, s.key_id, s.owner, s.method, s.endpoint, r.path,
        r.resource_id, s.http_status, s.grpc_status, s.status_class, s.outcome, s.cause,
        r.rejection_reason, r.cost, r.latency_us, r.request_bytes, r.response_bytes, r.client_ip
    FROM {prefix}requests r JOIN {prefix}series s ON s.id = r.series_id;
UPDATE {prefix}requests SET rejection_reason = 'lookup_limit' WHERE rejection_reason = 'lookup_budget';
UPDATE {prefix}requests SET rejection_reason = 'client_ip' WHERE rejection_reason = 'address';

ALTER TABLE {prefix}key_minutes RENAME COLUMN line TO hash;
ALTER TABLE {prefix}key_hours RENAME COLUMN line TO hash;

ALTER TABLE {prefix}batches RENAME COLUMN applied TO applied_at;
DROP INDEX {prefix}batches_by_applied;
CREATE INDEX {prefix}batches_by_applied_at ON {prefix}batches (applied_at);

ALTER TABLE {prefix}dropped RENAME TO {prefix}pruned;
ALTER TABLE {prefix}pruned RENAME COLUMN what TO kind;

DROP TRIGGER {prefix}log_end_follows;
ALTER TABLE {prefix}log_end RENAME TO {prefix}log_pruned;
ALTER TABLE {prefix}log_pruned RENAME COLUMN place TO position;
CREATE TRIGGER {prefix}log_pruned_follows AFTER DELETE ON {prefix}requests
    WHEN OLD.row > (SELECT position FROM {prefix}log_pruned)
BEGIN
    UPDATE {prefix}log_pruned SET position = OLD.row;
END;
