-- The highest row that was deleted from the log. Rows are numbered in the order of their commits, and no number is
-- used twice.
CREATE TABLE {prefix}log_end (
    place INTEGER NOT NULL PRIMARY KEY
) STRICT;
INSERT INTO {prefix}log_end (place) VALUES (0);
CREATE TRIGGER {prefix}log_end_follows AFTER DELETE ON {prefix}requests
    WHEN OLD.row > (SELECT place FROM {prefix}log_end)
BEGIN
    UPDATE {prefix}log_end SET place = OLD.row;
END;
