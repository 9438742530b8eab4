//! Requests admitted without a key: exempt paths and, if enabled, CORS preflights.

use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_TYPE, COOKIE, EXPECT, HeaderName, ORIGIN,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method, Request};
use http_body::Body;

/// Whether a pattern matches a path: `/health` matches itself, `/public/*` every path below `/public/`.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) if prefix.ends_with('/') => path.strip_prefix(prefix).is_some_and(stays_below),
        _ => path == pattern,
    }
}

/// Whether the rest of a path stays below the prefix on any server, including those that decode twice, strip path
/// parameters or accept other separators. Ambiguous paths do not.
fn stays_below(rest: &str) -> bool {
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        // An empty segment may start an absolute path. An empty last one is a trailing slash.
        let is_last = segments.peek().is_none();
        if !(is_plain(segment) && (is_last || !segment.is_empty())) {
            return false;
        }
    }
    true
}

/// Whether a segment consists of characters without special meaning in paths, and is not a dot segment.
fn is_plain(segment: &str) -> bool {
    let Some(decoded) = decode(segment) else {
        return false;
    };
    let plain = |c: char| match c {
        // Only literal dots: `decode` rejects encoded ones.
        '-' | '_' | '.' | '~' | '!' | '$' | '&' | '\'' | '(' | ')' | '*' | '+' | ',' | '='
        | '@' => true,
        ' ' => true,
        // Non-ASCII symbols may be normalized to dots and slashes.
        c if c.is_ascii() => c.is_ascii_alphanumeric(),
        c => c.is_alphabetic(),
    };
    // Windows strips trailing dots and spaces. Some servers treat the text after two dots as parameters or spaces,
    // and some decode `+` as a space.
    let spaced = decoded.replace('+', " ");
    let is_dots = |text: &str| text.chars().all(|c| c == '.' || c == ' ');
    let may_go_up = spaced.trim_start().starts_with("..") || is_dots(&spaced);
    decoded.chars().all(plain) && (decoded.is_empty() || !may_go_up)
}

/// Percent-decodes a segment once; `None` for encoded dots, invalid UTF-8 and malformed escapes.
fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte == b'%' {
            let (digits, behind) = behind.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok()?;
            let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
            let byte = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
            if byte == b'.' {
                return None;
            }
            bytes.push(byte);
            rest = behind;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Whether a request is a CORS preflight as defined by the [Fetch standard][fetch]: `OPTIONS` for a path, with one
/// `Origin` and one `Access-Control-Request-Method`, without credentials, and without a body or headers that
/// describe one.
///
/// [fetch]: https://fetch.spec.whatwg.org/#cors-preflight-request
pub(super) fn is_preflight<B: Body>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && request.uri().path().starts_with('/')
        && has_one(headers, &ORIGIN)
        && has_one(headers, &ACCESS_CONTROL_REQUEST_METHOD)
        && [
            AUTHORIZATION,
            CONTENT_TYPE,
            COOKIE,
            EXPECT,
            PROXY_AUTHORIZATION,
            TE,
            TRAILER,
            TRANSFER_ENCODING,
            UPGRADE,
        ]
        .iter()
        .all(|name| !headers.contains_key(name))
        && request.body().is_end_stream()
}

fn has_one(headers: &HeaderMap, name: &HeaderName) -> bool {
    let mut values = headers.get_all(name).iter();
    values.next().is_some_and(|value| !value.is_empty()) && values.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_exactly_or_by_prefix() {
        for (pattern, path) in [
            ("/health", "/health"),
            ("/public/*", "/public/"),
            ("/public/*", "/public/a"),
            ("/public/*", "/public/a/b.c/"),
            ("/public/*", "/public/a..b/.c/~d"),
            ("/public/*", "/public/my%20file%41.pdf"),
            ("/public/*", "/public/%C3%A9t%c3%a9"),
            ("/public/*", "/public/日本"),
            ("/*", "/"),
            ("/*", "/a/b"),
            ("/grpc.health.v1.Health/*", "/grpc.health.v1.Health/Check"),
            ("*", "*"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("/health", "/healthy"),
            ("/health", "/health/"),
            ("/health", "/Health"),
            ("/health", "//health"),
            ("/public/*", "/public"),
            ("/public/*", "/publicity"),
            ("/public/*", "/PUBLIC/a"),
            ("/public/*", "/%70ublic/a"),
            // A `*` without a preceding slash is not a wildcard.
            ("/public*", "/public"),
            ("/public*", "/publicity"),
            ("*", "/a"),
            ("/*", "*"),
            ("/*", ""),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn ambiguous_paths_below_an_exempt_prefix_need_a_key() {
        for rest in [
            ".",
            "..",
            "../admin",
            "a/../../admin",
            "./a",
            "...",
            "..../",
            "...c",
            "..+/admin",
            "+..",
            "+../../admin",
            "%2B%20..",
            "..,x/admin",
            "..=1/admin",
            "..&/admin",
            "%20../admin",
            "..a",
            "%2e%2e/admin",
            ".%2E/admin",
            "..%2fadmin",
            "..%5cadmin",
            "..\\admin",
            "a%5C..",
            "..;/admin",
            "..;x=y/admin",
            "..%3b/admin",
            ";/admin",
            "a;b",
            "%252e%252e/admin",
            "%25252e",
            "..%00/admin",
            "a%00",
            "..%20/admin",
            ".. /admin",
            "%20",
            "..%09/admin",
            "%c0%ae%c0%ae/admin",
            "%c0%af",
            "%e0%80%ae",
            "%ef%bc%8e%ef%bc%8e/admin",
            "%ef%bc%8f",
            "%e2%88%95",
            "\u{ff0e}\u{ff0e}/admin",
            "\u{2025}/admin",
            "%ff",
            "%",
            "%2",
            "%+1",
            "%u002e",
            "/etc/passwd",
            "a//b",
            "c:/windows",
            "a%3f",
            "a%23",
            "a\"",
        ] {
            assert!(!matches("/public/*", &format!("/public/{rest}")), "{rest}");
        }
    }

    /// Resolves a path as a lenient server does: decodes it `decodings` times and `+` as a space, strips path
    /// parameters, ends at NUL, accepts both slashes, folds look-alikes of dots and slashes, and strips trailing
    /// dots and spaces from segments.
    fn resolved(path: &str, decodings: usize) -> Vec<String> {
        let mut bytes = path.as_bytes().to_vec();
        for _ in 0..decodings {
            let mut decoded = Vec::new();
            let mut at = 0;
            while at < bytes.len() {
                let hex = bytes
                    .get(at + 1..at + 3)
                    .and_then(|hex| std::str::from_utf8(hex).ok());
                let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
                match byte {
                    Some(byte) if bytes[at] == b'%' => {
                        decoded.push(byte);
                        at += 3;
                    }
                    _ => {
                        decoded.push(bytes[at]);
                        at += 1;
                    }
                }
            }
            bytes = decoded;
        }
        let mut text = String::new();
        let mut rest = &bytes[..];
        while let Some((&byte, behind)) = rest.split_first() {
            match (byte, behind.first()) {
                (0, _) => break,
                // Overlong forms of ASCII.
                (0xc0 | 0xc1, Some(&next)) => {
                    text.push(char::from((byte & 1) << 6 | next & 0x3f));
                    rest = &behind[1..];
                }
                _ => {
                    let len = rest
                        .utf8_chunks()
                        .next()
                        .map_or(0, |chunk| chunk.valid().len());
                    let char = std::str::from_utf8(&rest[..len]).unwrap().chars().next();
                    text.push(match char {
                        Some('+') => ' ',
                        Some('\u{ff0e}' | '\u{2024}') => '.',
                        Some('\u{ff0f}' | '\u{2215}' | '\\' | '\u{ff3c}') => '/',
                        Some(char) => char,
                        None => '?',
                    });
                    rest = &rest[char.map_or(1, char::len_utf8)..];
                }
            }
        }
        let mut segments: Vec<String> = Vec::new();
        for segment in text.split('/') {
            let segment = segment.split([';', ',', '=']).next().unwrap_or_default();
            match segment.trim_end_matches(['.', ' ']) {
                "" if segment.trim_start().starts_with("..") => {
                    segments.pop();
                }
                "" => {}
                segment => segments.push(segment.into()),
            }
        }
        segments
    }

    proptest! {
        #[test]
        fn exempt_paths_stay_below_the_prefix_however_they_are_normalized(
            pieces in proptest::collection::vec(prop_oneof![
                Just(".".to_owned()), Just("..".into()), Just("/".into()), Just("admin".into()),
                Just("%".into()), Just("%2e".into()), Just("%2F".into()), Just("%5c".into()),
                Just("%25".into()), Just("25".into()), Just("2e".into()), Just(";".into()),
                Just("%3B".into()), Just("%00".into()), Just("%20".into()), Just("\\".into()),
                Just("%c0%ae".into()), Just("%c0%af".into()), Just("\u{ff0e}".into()),
                Just("+".into()), Just(",".into()), Just("=".into()), Just(" ".into()),
                Just("%ef%bc%8f".into()), Just("é".into()), "[ -~]".prop_map(String::from),
            ], 0..12),
        ) {
            let path = format!("/public/files/{}", pieces.concat());
            if matches("/public/files/*", &path) {
                for decodings in 0..=3 {
                    let resolved = resolved(&path, decodings);
                    prop_assert!(resolved.starts_with(&["public".into(), "files".into()]), "{path} {resolved:?}");
                }
            }
        }

        #[test]
        fn plain_paths_are_exempt(segments in proptest::collection::vec("[a-z0-9_-]{1,9}([.][a-z]{1,3})?", 0..5)) {
            let path = format!("/public/{}", segments.join("/"));
            prop_assert!(matches("/public/*", &path));
        }
    }
}
