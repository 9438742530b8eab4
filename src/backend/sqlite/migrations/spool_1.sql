-- Batches that wait for the sink, in the order in which they came.
CREATE TABLE {prefix}batches (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The batch's id, a UUID of 16 bytes.
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    events INTEGER NOT NULL,
    -- The CRC-32 of the text.
    checksum INTEGER NOT NULL,
    -- JSON.
    batch TEXT NOT NULL
) STRICT;

-- What could not be read back, as it was found.
CREATE TABLE {prefix}unreadable (
    place INTEGER NOT NULL,
    id BLOB NOT NULL,
    events INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    batch TEXT NOT NULL
) STRICT;
