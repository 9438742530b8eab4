ALTER TABLE §keys RENAME COLUMN name_folded TO name_lower;
ALTER TABLE §keys RENAME COLUMN created TO created_at;
ALTER TABLE §keys RENAME COLUMN expires TO expires_at;
ALTER TABLE §keys RENAME COLUMN revoked TO revoked_at;
ALTER TABLE §keys RENAME COLUMN line TO lineage;
ALTER TABLE §keys RENAME COLUMN last_used TO last_used_at;
ALTER TABLE §keys RENAME COLUMN sealed TO encrypted_secret;

DROP INDEX §keys_by_created;
CREATE INDEX §keys_by_created_at ON §keys (created_at, id);

ALTER TABLE §key_changes RENAME TO §audit_log;
DROP INDEX §key_changes_by_time;
DROP INDEX §key_changes_by_key;
CREATE INDEX §audit_log_by_time ON §audit_log (time, id);
CREATE INDEX §audit_log_by_key ON §audit_log (key_id, time, id);

ALTER TABLE §series RENAME COLUMN seen TO last_seen_day;

ALTER TABLE §requests RENAME COLUMN id_apart TO id_time_differs;
ALTER TABLE §requests RENAME COLUMN refusal TO rejection_reason;
ALTER TABLE §requests RENAME COLUMN client_address TO client_ip;
-- The view would keep the names that it had.
DROP VIEW §request_log;
CREATE VIEW §request_log AS
    SELECT r.time, r.id, r.request_id, s.key_id, s.owner, s.method, s.endpoint, r.path,
        r.resource_id, s.http_status, s.grpc_status, s.status_class, s.outcome, s.cause,
        r.rejection_reason, r.cost, r.latency_us, r.request_bytes, r.response_bytes, r.client_ip
    FROM §requests r JOIN §series s ON s.id = r.series_id;
UPDATE §requests SET rejection_reason = 'lookup_limit' WHERE rejection_reason = 'lookup_budget';
UPDATE §requests SET rejection_reason = 'client_ip' WHERE rejection_reason = 'address';

ALTER TABLE §key_minutes RENAME COLUMN line TO hash;
ALTER TABLE §key_hours RENAME COLUMN line TO hash;

ALTER TABLE §batches RENAME COLUMN applied TO applied_at;
DROP INDEX §batches_by_applied;
CREATE INDEX §batches_by_applied_at ON §batches (applied_at);

ALTER TABLE §dropped RENAME TO §pruned;
ALTER TABLE §pruned RENAME COLUMN what TO kind;

DROP TRIGGER §log_end_follows;
ALTER TABLE §log_end RENAME TO §log_pruned;
ALTER TABLE §log_pruned RENAME COLUMN place TO position;
CREATE TRIGGER §log_pruned_follows AFTER DELETE ON §requests
    WHEN OLD.row > (SELECT position FROM §log_pruned)
BEGIN
    UPDATE §log_pruned SET position = OLD.row;
END;
