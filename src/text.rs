//! Text utilities.

/// The last character boundary at or before `max`. `str::floor_char_boundary` requires Rust 1.91.
pub(crate) fn floor_char_boundary(text: &str, max: usize) -> usize {
    let end = max.min(text.len());
    (0..=end)
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0)
}
