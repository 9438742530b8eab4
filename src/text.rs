//! Text utilities.

/// Whether a text contains another one, ignoring case.
pub(crate) fn contains_ignoring_case(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}

/// The last character boundary at or before `max`. `str::floor_char_boundary` requires Rust 1.91.
pub(crate) fn floor_char_boundary(text: &str, max: usize) -> usize {
    let end = max.min(text.len());
    (0..=end)
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0)
}
