-- The highest row that was deleted from the log, so that no number is given twice: rows are numbered in the order
-- in which they are committed.
CREATE TABLE §log_end (
    row INTEGER NOT NULL PRIMARY KEY
) STRICT;
INSERT INTO §log_end (row) VALUES (0);
CREATE TRIGGER §log_end_follows AFTER DELETE ON §requests
    WHEN OLD.row > coalesce((SELECT max(row) FROM §requests), 0)
BEGIN
    UPDATE §log_end SET row = OLD.row WHERE row < OLD.row;
END;
