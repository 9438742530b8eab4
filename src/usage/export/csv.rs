//! CSV rows (RFC 4180) that are safe to open in spreadsheets.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::Write;

use crate::id::KeyId;
use crate::usage::{LogCursor, UsageEvent};

const COLUMNS: &str = "owner,method,endpoint,path,resource_id,status,outcome,cause,rejection_reason,cost,billable,\
                       latency_us,request_bytes,response_bytes,client_ip";

/// The names of keys by id.
pub(super) type Names = HashMap<KeyId, String>;

pub(super) fn header(has_names: bool, has_cursor: bool, rows: &mut Vec<u8>) {
    rows.extend_from_slice(b"id,request_id,time,key,");
    if has_names {
        rows.extend_from_slice(b"key_name,");
    }
    rows.extend_from_slice(COLUMNS.as_bytes());
    rows.extend_from_slice(if has_cursor { b",cursor\r\n" } else { b"\r\n" });
}

/// Appends the row of an event, with the name of its key if there are names.
pub(super) fn row(
    event: &UsageEvent,
    names: Option<&Names>,
    cursor: Option<LogCursor>,
    rows: &mut Vec<u8>,
) {
    plain(&event.id, rows);
    text(&event.request_id_or_id(), rows);
    plain(&event.time, rows);
    maybe(event.key, rows);
    if let Some(names) = names {
        let name = event.key.and_then(|key| names.get(&key));
        maybe_text(name.map(|name| &**name), rows);
    }
    maybe_text(event.owner.as_deref(), rows);
    plain(&event.method, rows);
    text(&event.endpoint, rows);
    text(&event.path, rows);
    maybe_text(event.resource_id.as_deref(), rows);
    plain(&event.status, rows);
    plain(&event.outcome, rows);
    maybe(event.cause, rows);
    maybe(event.rejection_reason, rows);
    plain(&event.cost, rows);
    plain(&event.billable, rows);
    plain(&event.latency_us, rows);
    plain(&event.request_bytes, rows);
    plain(&event.response_bytes, rows);
    maybe(event.client_ip, rows);
    if let Some(cursor) = cursor {
        plain(&cursor, rows);
    }
    end_row(rows);
}

/// Ends a row of cells.
pub(crate) fn end_row(rows: &mut Vec<u8>) {
    // Replace the last comma.
    rows.pop();
    rows.extend_from_slice(b"\r\n");
}

/// Appends an unquoted cell and a comma. The value must not contain characters that need quoting.
pub(crate) fn plain(value: &impl Display, rows: &mut Vec<u8>) {
    // Writing to a `Vec` cannot fail.
    let _ = write!(rows, "{value},");
}

pub(crate) fn maybe(value: Option<impl Display>, rows: &mut Vec<u8>) {
    match value {
        Some(value) => plain(&value, rows),
        None => rows.push(b','),
    }
}

fn maybe_text(cell: Option<&str>, rows: &mut Vec<u8>) {
    match cell {
        Some(cell) => text(cell, rows),
        None => rows.push(b','),
    }
}

/// Appends a quoted cell and a comma, with an apostrophe before anything that a spreadsheet may interpret as a
/// formula.
pub(crate) fn text(text: &str, rows: &mut Vec<u8>) {
    rows.push(b'"');
    if text.starts_with(['\t', '\r', '\n']) {
        rows.push(b'\'');
    }
    // Programs that separate cells by these characters ignore the quotes.
    for part in text.split_inclusive([';', '\t', '\r', '\n', '|']) {
        if is_formula(part) {
            rows.push(b'\'');
        }
        for (nth, part) in part.split('"').enumerate() {
            if nth > 0 {
                rows.extend_from_slice(b"\"\"");
            }
            rows.extend_from_slice(part.as_bytes());
        }
    }
    rows.extend_from_slice(b"\",");
}

/// Returns whether a spreadsheet may interpret a cell as a formula, ignoring leading characters that it strips.
fn is_formula(cell: &str) -> bool {
    const STARTS: [char; 13] = [
        '=', '+', '-', '@', '＝', '＋', '－', '＠', '﹦', '﹢', '﹣', '﹫', '−',
    ];
    let stripped = |c: char| c.is_whitespace() || c.is_control() || c == '"' || is_invisible(c);
    cell.trim_start_matches(stripped).starts_with(STARTS)
}

/// Returns whether a character has zero width.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_escaped_in_cells() {
        for (cell, written) in [
            ("", ""),
            ("plain text's", "plain text's"),
            (" a ", " a "),
            ("a,b", "a,b"),
            ("say \"hi\"", "say \"\"hi\"\""),
            ("\"", "\"\""),
            ("a\r\nb", "a\r\nb"),
            ("a=1", "a=1"),
            ("/near/52.5,-13.4", "/near/52.5,-13.4"),
            ("=1+1", "'=1+1"),
            ("=\"a\"", "'=\"\"a\"\""),
            ("@SUM(A1,A2)", "'@SUM(A1,A2)"),
            ("\tx", "'\tx"),
            ("\rx", "'\rx"),
            ("\nx", "'\nx"),
            ("-1", "'-1"),
            ("+1", "'+1"),
            ("é\u{1f511}", "é\u{1f511}"),
            // Other cell separators.
            ("/v1/x;=1+1;", "/v1/x;'=1+1;"),
            ("a;\"=1\"", "a;'\"\"=1\"\""),
            ("a;b\t=1", "a;b\t'=1"),
            ("a\n=1", "a\n'=1"),
            ("a|@x", "a|'@x"),
            // Characters that are stripped before a formula.
            ("  =1", "'  =1"),
            ("\u{a0}=1", "'\u{a0}=1"),
            ("\u{feff}\0=1", "'\u{feff}\0=1"),
            ("a;\u{3000}=1", "a;'\u{3000}=1"),
            // Full-width forms and the minus sign.
            ("＝1+1", "'＝1+1"),
            ("－1", "'－1"),
            ("\u{2212}1", "'\u{2212}1"),
        ] {
            let mut rows = Vec::new();
            text(cell, &mut rows);
            assert_eq!(String::from_utf8(rows).unwrap(), format!("\"{written}\","));
        }
    }

    #[test]
    fn a_row_has_a_cell_for_each_column() {
        let mut event = UsageEvent::new("2026-11-01T10:00:00.5Z".parse().unwrap());
        event.id = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let mut rows = Vec::new();
        header(false, false, &mut rows);
        row(&event, None, None, &mut rows);
        let text = String::from_utf8(rows).unwrap();
        let lines: Vec<_> = text.split("\r\n").collect();
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let expected = format!(
            "{id},\"{id}\",2026-11-01T10:00:00.5Z,,,GET,\"(unmatched)\",\"/\",,200,completed,,,1,true,0,0,0,"
        );
        assert_eq!(lines[1..], [expected.as_str(), ""]);
        let cells = |line: &str| line.split(',').count();
        assert_eq!((cells(lines[0]), cells(lines[1])), (19, 19));
    }

    #[test]
    fn names_follow_the_keys() {
        let key: KeyId = "3fK9aB0000zzZZ19".parse().unwrap();
        let names = Names::from([(key, "=Zapier".into())]);
        let mut event = UsageEvent::new("2026-11-01T10:00:00Z".parse().unwrap());
        let mut rows = Vec::new();
        header(true, false, &mut rows);
        for id in [Some(key), "0000000000000000".parse().ok(), None] {
            event.key = id;
            row(&event, Some(&names), None, &mut rows);
        }
        let text = String::from_utf8(rows).unwrap();
        let cells = |line: &str| {
            line.split(',')
                .skip(3)
                .take(2)
                .collect::<Vec<_>>()
                .join(",")
        };
        let cells: Vec<_> = text.lines().map(cells).collect();
        let expected = [
            "key,key_name",
            "3fK9aB0000zzZZ19,\"'=Zapier\"",
            "0000000000000000,",
            ",",
        ];
        assert_eq!(cells, expected);
    }
}
