//! Texts.

/// The last character boundary up to an index. `str::floor_char_boundary` needs Rust 1.91.
pub(crate) fn floor_char_boundary(text: &str, max: usize) -> usize {
    let end = max.min(text.len());
    (0..=end)
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0)
}
