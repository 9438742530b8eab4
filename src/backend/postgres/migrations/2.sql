ALTER TABLE {prefix}batches ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY;
COMMENT ON COLUMN {prefix}batches.number IS 'Referenced by requests.batch.';

ALTER TABLE {prefix}requests ADD COLUMN batch bigint;
CREATE INDEX {unqualified_prefix}requests_by_batch ON {prefix}requests (batch) WHERE batch IS NOT NULL;
COMMENT ON COLUMN {prefix}requests.batch IS 'The number of its batch; NULL for requests written before schema version 2.';

CREATE TABLE {prefix}log_batches (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    number bigint,
    first timestamptz NOT NULL,
    last timestamptz NOT NULL,
    events bigint NOT NULL
);
CREATE INDEX {unqualified_prefix}log_batches_by_first ON {prefix}log_batches (first);
COMMENT ON TABLE {prefix}log_batches IS 'The batches of the request log, in the order of their commits.';
COMMENT ON COLUMN {prefix}log_batches.place IS 'Higher than the place of every batch that was committed before.';
COMMENT ON COLUMN {prefix}log_batches.number IS 'Referenced by requests.batch; NULL for all requests written before schema version 2.';
COMMENT ON COLUMN {prefix}log_batches.first IS 'When the first of its requests arrived.';
COMMENT ON COLUMN {prefix}log_batches.last IS 'When the last of its requests arrived.';
COMMENT ON COLUMN {prefix}log_batches.events IS 'The number of requests that it added to the log; 0 for those of before schema version 2.';
CREATE TABLE {prefix}log_end (
    place bigint PRIMARY KEY
);
INSERT INTO {prefix}log_end (place) VALUES (0);
COMMENT ON TABLE {prefix}log_end IS 'How much of the request log was dropped.';
COMMENT ON COLUMN {prefix}log_end.place IS 'The highest place of a batch of which requests may have been dropped.';

INSERT INTO {prefix}log_batches (first, last, events)
    SELECT min(time), max(time), 0 FROM {prefix}requests HAVING min(time) IS NOT NULL;
