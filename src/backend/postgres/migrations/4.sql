CREATE TABLE §rollup_records (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    format integer NOT NULL,
    ready boolean NOT NULL,
    unreadable boolean NOT NULL DEFAULT false,
    first timestamptz NOT NULL,
    last timestamptz NOT NULL,
    rollups bytea NOT NULL
);
ALTER TABLE §rollup_records ALTER COLUMN rollups SET STORAGE EXTERNAL;
COMMENT ON TABLE §rollup_records IS 'Rollups that are not merged into the other tables yet.';
COMMENT ON COLUMN §rollup_records.number IS 'The number of the record, ascending.';
COMMENT ON COLUMN §rollup_records.format IS 'The version of the binary format.';
COMMENT ON COLUMN §rollup_records.ready IS 'Whether all its minutes have passed, so that it can be added to the other tables.';
COMMENT ON COLUMN §rollup_records.unreadable IS 'Whether it is damaged. Its requests are not counted.';
COMMENT ON COLUMN §rollup_records.first IS 'The start of the first minute.';
COMMENT ON COLUMN §rollup_records.last IS 'The start of the last minute.';
COMMENT ON COLUMN §rollup_records.rollups IS 'Rollups by minute and series, in a binary format.';
