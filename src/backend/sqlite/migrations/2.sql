-- The highest row that was deleted from the log. Rows are numbered in the order of their commits, and no number is
-- used twice.
CREATE TABLE §log_end (
    place INTEGER NOT NULL PRIMARY KEY
) STRICT;
INSERT INTO §log_end (place) VALUES (0);
CREATE TRIGGER §log_end_follows AFTER DELETE ON §requests
    WHEN OLD.row > (SELECT place FROM §log_end)
BEGIN
    UPDATE §log_end SET place = OLD.row;
END;
