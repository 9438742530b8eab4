//! Bounds of fields that keys, owners and plans have in common.

use serde_json::{Map, Value};

use super::error::InvalidMetadata;

/// Whether a text has 1 to `max` characters and no control characters.
pub(super) fn is_line(text: &str, max: usize) -> bool {
    !text.is_empty() && text.chars().count() <= max && !text.chars().any(char::is_control)
}

/// Whether a text is a line of at most 100 characters, and not only whitespace.
pub(super) fn is_name(text: &str) -> bool {
    is_line(text, 100) && !text.trim().is_empty()
}

pub(super) fn check_metadata(metadata: &Map<String, Value>) -> Result<(), InvalidMetadata> {
    // Checks the depth first: deeply nested values may overflow the stack when serialized.
    if metadata.values().any(|value| !is_nested_within(value, 31)) {
        return Err(InvalidMetadata::Depth);
    }
    if serde_json::to_vec(metadata).map_or(true, |json| json.len() > 8 * 1024) {
        return Err(InvalidMetadata::Length);
    }
    // SQL databases truncate or reject such strings.
    let has_nul = |(name, value): (&String, _)| name.contains('\0') || contains_nul(value);
    if metadata.iter().any(has_nul) {
        return Err(InvalidMetadata::Nul);
    }
    Ok(())
}

/// Whether a value is nested at most this many levels deep.
fn is_nested_within(value: &Value, levels: u32) -> bool {
    let fit = |value| is_nested_within(value, levels - 1);
    match value {
        Value::Array(values) => levels > 0 && values.iter().all(fit),
        Value::Object(values) => levels > 0 && values.values().all(fit),
        _ => true,
    }
}

/// Whether a string or object key within a value contains U+0000.
fn contains_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(contains_nul),
        Value::Object(values) => values
            .iter()
            .any(|(name, value)| name.contains('\0') || contains_nul(value)),
        _ => false,
    }
}
