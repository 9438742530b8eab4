-- Rollups that are not merged into the other tables yet.
CREATE TABLE §rollup_records (
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
    -- Rollups by minute and series, in a binary format.
    rollups BLOB NOT NULL
) STRICT;
