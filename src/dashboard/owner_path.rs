//! Owners and plans in paths.

use axum::extract::RawPathParams;

/// The maximum length of a key's owner in characters. Applications may record usage of longer ones, which have no page.
const MAX_LENGTH: usize = 200;

/// Precedes an owner that is no path segment by itself, or that begins with this character.
const ESCAPE: char = '~';

/// The path of an owner's page, if the owner has one.
pub(super) fn linked_path(owner: &str) -> Option<String> {
    has_page(owner).then(|| owner_path(owner))
}

/// Whether an owner has a page.
fn has_page(owner: &str) -> bool {
    owner.chars().nth(MAX_LENGTH).is_none()
}

/// The path of an owner's page. Owners are any text; browsers drop the segments `.` and `..` even if they are encoded.
pub(super) fn owner_path(owner: &str) -> String {
    let mut path = String::from("/owners/");
    if matches!(owner, "" | "." | "..") || owner.starts_with(ESCAPE) {
        path.push(ESCAPE);
    }
    for byte in owner.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => path.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => path.push(byte.into()),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

/// The owner that a decoded path segment names, if the owner has a page.
fn owner_in(segment: &str) -> Option<&str> {
    let owner = segment.strip_prefix(ESCAPE).unwrap_or(segment);
    has_page(owner).then_some(owner)
}

/// The owner or plan that the last capture with this name stands for. The path at which the dashboard is nested may
/// have captures too, which come first.
pub(super) fn captured(captures: &RawPathParams, name: &str) -> Option<String> {
    let named = captures.iter().filter(|(it, _)| *it == name);
    let (_, segment) = named.last()?;
    owner_in(segment).map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_owner_is_one_segment_that_names_it() {
        for (owner, path) in [
            ("customer-17", "/owners/customer-17"),
            ("", "/owners/~"),
            (".", "/owners/~."),
            ("..", "/owners/~.."),
            ("...", "/owners/..."),
            ("~", "/owners/~~"),
            ("~..", "/owners/~~.."),
            ("a/../b", "/owners/a%2F..%2Fb"),
            (" a+b ", "/owners/%20a%2Bb%20"),
            ("%2F", "/owners/%252F"),
            ("?#\"'<&;\\", "/owners/%3F%23%22%27%3C%26%3B%5C"),
            ("ä🔑", "/owners/%C3%A4%F0%9F%94%91"),
        ] {
            assert_eq!(owner_path(owner), path);
            let segment = path.strip_prefix("/owners/").unwrap();
            // Without plus signs, forms are decoded like paths.
            let pair = format!("owner={segment}");
            let (_, segment) = form_urlencoded::parse(pair.as_bytes()).next().unwrap();
            assert_eq!(owner_in(&segment), Some(owner));
        }
        let longest = "🔑".repeat(MAX_LENGTH);
        assert!(linked_path(&longest).is_some() && owner_in(&longest).is_some());
        let longer = longest + "a";
        assert_eq!((linked_path(&longer), owner_in(&longer)), (None, None));
    }
}
