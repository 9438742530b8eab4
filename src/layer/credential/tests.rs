use super::*;

fn sources() -> CredentialSources {
    with([CredentialSource::insecure_query_parameter("key")])
}

/// The default sources plus these.
fn with<const N: usize>(more: [CredentialSource; N]) -> CredentialSources {
    let mut sources = CredentialSources::default();
    sources.set(CredentialSource::DEFAULT.into_iter().chain(more));
    sources
}

fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get(uri);
    for (name, value) in headers {
        request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    request.body(()).unwrap()
}

fn read(request: &Request<()>) -> Credential<'_> {
    read_from(&sources(), request)
}

fn read_from<'a>(sources: &CredentialSources, request: &'a Request<()>) -> Credential<'a> {
    let mut credential = Credential::default();
    for (name, value) in request.headers() {
        credential.scan(sources, name, value);
    }
    credential.scan_uri(sources, RequestParts::of(request));
    credential
}

fn presented(request: &Request<()>) -> String {
    describe(read(request).presented)
}

fn describe(presented: Presented<'_>) -> String {
    match presented {
        Presented::Missing => "missing".into(),
        Presented::Secret(secret) => String::from_utf8(secret.into_owned()).unwrap(),
        Presented::Malformed => "malformed".into(),
        Presented::Ambiguous => "ambiguous".into(),
    }
}

#[test]
fn keys_are_read_from_the_configured_sources() {
    for (headers, expected) in [
        (&[][..], "missing"),
        (&[("authorization", "Bearer abc")], "abc"),
        (&[("authorization", "bEARER   abc ")], "abc"),
        (&[("authorization", "Basic abc")], "missing"),
        (&[("authorization", "Bearerabc")], "missing"),
        (&[("authorization", "Bearer")], "missing"),
        (&[("authorization", "Bearer \u{e9}")], "malformed"),
        (&[("x-api-key", "abc")], "abc"),
        (&[("x-api-key", " abc ")], "abc"),
        (&[("x-api-key", "abc, abc,abc")], "abc"),
        (&[("x-api-key", "abc"), ("x-api-key", "abc")], "abc"),
        (&[("x-api-key", "abc, abd")], "abc, abd"),
        (&[("x-api-key", "abc, ")], "abc"),
        (&[("x-api-key", ",abc")], "abc"),
        (&[("authorization", "Bearer abc, Bearer abc")], "abc"),
        (
            &[("authorization", "Bearer abc, Bearer abd")],
            "abc, Bearer abd",
        ),
        (&[("x-api-key", "")], "missing"),
        (&[("x-api-key", " , ")], "missing"),
        (&[("authorization", "Bearer abc"), ("x-api-key", "")], "abc"),
        (&[("authorization", "Bearer"), ("x-api-key", "abc")], "abc"),
        (&[("x-api-key", "\u{e9}")], "malformed"),
        (&[("authorization", "Basic abc"), ("x-api-key", "k")], "k"),
        (&[("proxy-authorization", "Bearer abc")], "missing"),
        (&[("x-other", "abc")], "missing"),
        (&[("authorization", "Bearer a"), ("x-api-key", "a")], "a"),
        (
            &[("authorization", "Bearer a"), ("x-api-key", "b")],
            "ambiguous",
        ),
        (
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
            "ambiguous",
        ),
    ] {
        assert_eq!(presented(&request("/", headers)), expected, "{headers:?}");
    }
    assert_eq!(presented(&request("/?a=1&key=abc", &[])), "abc");
    assert_eq!(presented(&request("/?key=abc&key=abd", &[])), "ambiguous");
    assert_eq!(presented(&request("/?monkey=abc", &[])), "missing");
}

fn secret() -> String {
    let prefix = crate::key::Prefix::new("acme_live").unwrap();
    let secret = crate::key::Secret::generate(&prefix).unwrap();
    secret.expose().into()
}

fn basic_of(text: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    format!("Basic {}", STANDARD.encode(text))
}

fn url_safe(text: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    URL_SAFE_NO_PAD.encode(text)
}

#[test]
fn basic_and_other_schemes_are_read_and_removed() {
    let sources = with([CredentialSource::Basic, CredentialSource::scheme("Token")]);
    let key = secret();
    let bare = basic_of(&key);
    for (value, expected) in [
        (basic_of(&format!("{key}:")), &*key),
        (basic_of(&format!("{key}:password")), &key),
        (basic_of(&format!("{key}::")), &key),
        (
            format!("basic {}", &basic_of(&format!("{key}:"))[6..]),
            &key,
        ),
        (format!("Token {key}"), &key),
        (format!("TOKEN   {key} "), &key),
        (format!("Bearer {key}"), &key),
        (bare, "missing"),
        (basic_of(":password"), "missing"),
        (basic_of("é:"), "malformed"),
        ("Basic %%%".into(), "missing"),
        ("Tokens abc".into(), "missing"),
    ] {
        let mut request = request("/", &[("authorization", &*value)]);
        let credential = read_from(&sources, &request);
        let found_in = credential.sources;
        assert_eq!(describe(credential.presented), expected, "{value}");
        let mut stripped = StrippedCredentials::new();
        remove(&sources, found_in, &mut request, &mut stripped);
        let has_credential = expected != "missing";
        assert_eq!(stripped.len(), usize::from(has_credential), "{value}");
        assert_eq!(request.headers().is_empty(), has_credential, "{value}");
        if expected == key {
            assert_eq!(*stripped[0].secret(), *key.as_bytes());
            let mut sources = sources.list.iter();
            assert!(sources.any(|source| stripped[0].is_from(source)));
        }
    }
    let basic = basic_of(&format!("{key}:"));
    let both = [("authorization", &*basic), ("x-api-key", &key)];
    assert_eq!(
        describe(read_from(&sources, &request("/", &both)).presented),
        key
    );
}

#[test]
fn unread_secrets_are_detected() {
    let key = secret();
    let mistyped = format!("{}0", &key[..key.len() - 1]);
    let mistyped = if mistyped == key {
        format!("{}1", &key[..key.len() - 1])
    } else {
        mistyped
    };
    let jwt = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJh_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQR-S.x";
    for (value, is_unread) in [
        (format!("Token {key}"), true),
        (format!("Api-Key {key}"), true),
        (format!("ApiKey key=\"{key}\""), true),
        (key.clone(), true),
        (mistyped.clone(), true),
        (format!("Api-Key {}", &key[..key.len() - 3]), true),
        (format!("Api-Key {key}x"), true),
        (format!("Api-Key {}", &key[..40]), false),
        (format!("Token {mistyped}"), true),
        (format!("Bearer\t{key}"), true),
        (format!("Bearer{key}"), true),
        (basic_of(&format!("{key}:")), true),
        (basic_of(&format!("user:{key}")), true),
        (format!("Bearer {key}"), false),
        ("Token abc".into(), false),
        (basic_of(&format!("{key}:")).replace(' ', "\t"), true),
        (
            basic_of(&format!("{key}:")).replace("Basic", "ApiKey"),
            true,
        ),
        (format!("{0}, {0}", basic_of(&format!("{key}:"))), true),
        (format!("Token {}", url_safe(&format!("id>:{key}"))), true),
        (basic_of("user:password"), false),
        (format!("Token {jwt}"), false),
        (
            "Digest username=\"Mufasa\", realm=\"http-auth@example.org\"".into(),
            false,
        ),
    ] {
        let request = request("/", &[("authorization", &*value)]);
        let credential = read(&request);
        assert_eq!(credential.has_unread(), is_unread, "{value}");
        let mut allowing = sources();
        allowing.unread_secrets = true;
        let credential = read_from(&allowing, &request);
        assert!(!credential.has_unread(), "{value}");
    }
    // In `x-api-key`, which only the default sources read.
    let mut bearer = CredentialSources::default();
    bearer.set([CredentialSource::Bearer]);
    for (value, is_unread) in [(&*key, true), ("abc", false)] {
        let request = request("/", &[("x-api-key", value)]);
        assert_eq!(read_from(&bearer, &request).has_unread(), is_unread);
        assert!(!read(&request).has_unread());
    }
    // With a function that reads another scheme.
    let function = with([CredentialSource::function(|parts| {
        let value = parts.headers().get(AUTHORIZATION)?.to_str().ok()?;
        Some(value.strip_prefix("Token ")?.into())
    })]);
    for (value, is_unread) in [
        (format!("Token {key}"), false),
        (format!("Api-Key {key}"), true),
    ] {
        let request = request("/", &[("authorization", &*value)]);
        assert_eq!(read_from(&function, &request).has_unread(), is_unread);
    }
}

#[test]
fn allowed_foreign_authorization_is_ignored_and_forwarded() {
    let sources = CredentialSources {
        foreign_authorization: true,
        ..CredentialSources::default()
    };
    let key = secret();
    let jwt = ("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.x");
    let own = ("x-api-key", &*key);
    let bearer = format!("Bearer {key}");
    let mut both = request("/", &[jwt, own]);
    let credential = read_from(&sources, &both);
    assert!(!credential.has_unread());
    let found_in = credential.sources;
    assert_eq!(describe(credential.presented), key);
    remove(
        &sources,
        found_in,
        &mut both,
        &mut StrippedCredentials::new(),
    );
    assert_eq!(both.headers().len(), 1);
    assert_eq!(both.headers()[AUTHORIZATION], jwt.1);
    for (headers, expected) in [
        (&[jwt][..], "missing"),
        (&[("authorization", &*bearer)], &key),
        (&[("authorization", &bearer), own], &key),
        (
            &[("authorization", &bearer), ("x-api-key", "other")],
            "ambiguous",
        ),
        (&[jwt, ("authorization", &bearer)], &key),
    ] {
        let request = request("/", headers);
        let credential = read_from(&sources, &request);
        assert!(!credential.has_unread());
        assert_eq!(describe(credential.presented), expected, "{headers:?}");
    }
    assert_eq!(
        describe(read(&request("/", &[jwt, own])).presented),
        "ambiguous"
    );
    let mut several = request("/", &[jwt, ("authorization", &bearer)]);
    let found_in = read_from(&sources, &several).sources;
    remove(
        &sources,
        found_in,
        &mut several,
        &mut StrippedCredentials::new(),
    );
    assert_eq!(several.headers().len(), 1);
    assert_eq!(several.headers()[AUTHORIZATION], jwt.1);
}

mod secret_confidentiality {
    use super::*;

    #[test]
    fn only_keys_are_removed() {
        let mut full = request(
            "/p?a=1&key=k&b=2",
            &[
                ("authorization", "Bearer k"),
                ("authorization", "Basic other"),
                ("x-api-key", "k"),
                ("x-other", "stays"),
            ],
        );
        let found_in = read(&full).sources;
        let mut stripped = StrippedCredentials::new();
        remove(&sources(), found_in, &mut full, &mut stripped);
        assert_eq!(stripped.len(), 3);
        assert!(
            stripped
                .iter()
                .all(|credential| *credential.secret() == *b"k")
        );
        assert_eq!(full.uri(), "/p?a=1&b=2");
        assert_eq!(full.headers().len(), 2);
        assert_eq!(full.headers()[AUTHORIZATION], "Basic other");
        let other = [("authorization", "Basic other"), ("x-api-key", "k")];
        let mut other = request("/", &other);
        let found_in = read(&other).sources;
        remove(
            &sources(),
            found_in,
            &mut other,
            &mut StrippedCredentials::new(),
        );
        assert_eq!(other.headers().len(), 1);
        assert_eq!(other.headers()[AUTHORIZATION], "Basic other");
        let mut alone = request("http://host/p?key=k", &[("authorization", "Bearer k")]);
        let found_in = read(&alone).sources;
        remove(
            &sources(),
            found_in,
            &mut alone,
            &mut StrippedCredentials::new(),
        );
        assert_eq!(alone.uri(), "http://host/p");
        assert!(alone.headers().is_empty());
    }
}

#[test]
fn source_set_tracks_the_first_eight_sources() {
    for added in 0..12 {
        let mut found_in = SourceSet::default();
        found_in.add(added);
        found_in.add(0);
        for index in 0..12 {
            let has = index == added || index == 0 || index >= 8;
            assert_eq!(found_in.has(index), has, "{index} of {added}");
        }
    }
}

#[test]
fn different_credentials_are_ambiguous() {
    let presented = |name| match name {
        "missing" => Presented::Missing,
        "malformed" => Presented::Malformed,
        "ambiguous" => Presented::Ambiguous,
        secret => Presented::text(secret.as_bytes()),
    };
    let all = ["missing", "a", "b", "malformed", "ambiguous"];
    let expected = [
        all,
        ["a", "a", "ambiguous", "ambiguous", "ambiguous"],
        ["b", "ambiguous", "b", "ambiguous", "ambiguous"],
        [
            "malformed",
            "ambiguous",
            "ambiguous",
            "malformed",
            "ambiguous",
        ],
        ["ambiguous"; 5],
    ];
    for (first, expected) in all.into_iter().zip(expected) {
        let combined = all.map(|second| describe(presented(first).and(presented(second))));
        assert_eq!(combined, expected, "{first}");
    }
}

/// Nested layers only see credentials that were sent in one of their own sources.
#[test]
fn stripped_credentials_match_their_own_source_only() {
    let header = |name: &'static str| CredentialSource::Header(HeaderName::from_static(name));
    let places = [
        CredentialSource::Bearer,
        header("x-api-key"),
        header("x-other"),
        CredentialSource::insecure_query_parameter("key"),
        CredentialSource::insecure_query_parameter("other"),
        CredentialSource::Function(Arc::new(|_| None)),
        CredentialSource::Scheme("Token".into()),
        CredentialSource::Scheme("Other".into()),
        CredentialSource::Basic,
    ];
    let value = HeaderValue::from_static("Bearer k");
    for (from, place) in places.iter().enumerate() {
        let stripped = match place {
            CredentialSource::Bearer => Stripped::Bearer(value.clone()),
            other => Stripped::from(other, Some(value.clone())).unwrap(),
        };
        for (other, place) in places.iter().enumerate() {
            // Credentials of functions are not removed.
            let own = from == other && from != 5;
            assert_eq!(stripped.is_from(place), own, "{from} {other}");
        }
        let mut credential = Credential::default();
        credential.add_stripped(
            &CredentialSources::default(),
            std::slice::from_ref(&stripped),
        );
        let expected = ["k", "Bearer k"].get(from).copied().unwrap_or("missing");
        assert_eq!(describe(credential.presented), expected);
    }
}
