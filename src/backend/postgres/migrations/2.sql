ALTER TABLE §batches ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY;
COMMENT ON COLUMN §batches.number IS 'By which the log names it.';

ALTER TABLE §requests ADD COLUMN batch bigint;
CREATE INDEX ¶requests_by_batch ON §requests (batch) WHERE batch IS NOT NULL;
COMMENT ON COLUMN §requests.batch IS 'The batch that it was written with; empty where that was not noted yet.';

CREATE TABLE §log_batches (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    number bigint,
    first timestamptz NOT NULL,
    last timestamptz NOT NULL,
    events bigint NOT NULL
);
CREATE INDEX ¶log_batches_by_last ON §log_batches (last);
COMMENT ON TABLE §log_batches IS 'The batches of the request log, in the order of their commits.';
COMMENT ON COLUMN §log_batches.place IS 'Higher than those of all batches that were committed before.';
COMMENT ON COLUMN §log_batches.number IS 'By which the log names it; empty for all requests from before batches were noted.';
COMMENT ON COLUMN §log_batches.first IS 'When the first of its requests arrived.';
COMMENT ON COLUMN §log_batches.last IS 'When the last of its requests arrived.';
COMMENT ON COLUMN §log_batches.events IS 'How many requests it added to the log; 0 where that was not counted.';
INSERT INTO §log_batches (first, last, events)
    SELECT min(time), max(time), 0 FROM §requests HAVING min(time) IS NOT NULL;
