use super::*;

fn sources() -> CredentialSources {
    let mut sources = CredentialSources::default();
    sources.push(CredentialSource::Query("key".into()));
    sources
}

fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get(uri);
    for (name, value) in headers {
        request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    request.body(()).unwrap()
}

fn look(request: &Request<()>) -> Credential<'_> {
    look_in(&sources(), request)
}

fn look_in<'a>(sources: &CredentialSources, request: &'a Request<()>) -> Credential<'a> {
    let mut found = Credential::default();
    for (name, value) in request.headers() {
        found.scan(sources, name, value);
    }
    found.scan_uri(sources, RequestParts::of(request));
    found
}

fn found(request: &Request<()>) -> String {
    shown(look(request).presented)
}

fn shown(presented: Presented<'_>) -> String {
    match presented {
        Presented::Missing => "nothing".into(),
        Presented::Secret(secret) => String::from_utf8(secret.into_owned()).unwrap(),
        Presented::Malformed => "garbled".into(),
        Presented::Ambiguous => "ambiguous".into(),
    }
}

#[test]
fn keys_are_found_where_they_may_be() {
    for (headers, what) in [
        (&[][..], "nothing"),
        (&[("authorization", "Bearer abc")], "abc"),
        (&[("authorization", "bEARER   abc ")], "abc"),
        (&[("authorization", "Basic abc")], "nothing"),
        (&[("authorization", "Bearerabc")], "nothing"),
        (&[("authorization", "Bearer")], "nothing"),
        (&[("authorization", "Bearer \u{e9}")], "garbled"),
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
        (&[("x-api-key", "")], "nothing"),
        (&[("x-api-key", " , ")], "nothing"),
        (&[("authorization", "Bearer abc"), ("x-api-key", "")], "abc"),
        (&[("authorization", "Bearer"), ("x-api-key", "abc")], "abc"),
        (&[("x-api-key", "\u{e9}")], "garbled"),
        (&[("authorization", "Basic abc"), ("x-api-key", "k")], "k"),
        (&[("proxy-authorization", "Bearer abc")], "nothing"),
        (&[("x-other", "abc")], "nothing"),
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
        assert_eq!(found(&request("/", headers)), what, "{headers:?}");
    }
    assert_eq!(found(&request("/?a=1&key=abc", &[])), "abc");
    assert_eq!(found(&request("/?key=abc&key=abd", &[])), "ambiguous");
    assert_eq!(found(&request("/?monkey=abc", &[])), "nothing");
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
    let mut sources = CredentialSources::default();
    sources.push(CredentialSource::Basic);
    sources.push(CredentialSource::Scheme("Token".into()));
    let key = secret();
    let bare = basic_of(&key);
    for (value, what) in [
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
        (bare, "nothing"),
        (basic_of(":password"), "nothing"),
        (basic_of("é:"), "garbled"),
        ("Basic %%%".into(), "nothing"),
        ("Tokens abc".into(), "nothing"),
    ] {
        let mut request = request("/", &[("authorization", &*value)]);
        let found = look_in(&sources, &request);
        let places = found.places;
        assert_eq!(shown(found.presented), what, "{value}");
        let taken = remove(&sources, places, &mut request);
        assert_eq!(taken.len(), usize::from(what != "nothing"), "{value}");
        assert_eq!(request.headers().is_empty(), what != "nothing", "{value}");
        if what == key {
            assert_eq!(*taken[0].secret(), *key.as_bytes());
            assert!(sources.list.iter().any(|source| taken[0].is_from(source)));
        }
    }
    let basic = basic_of(&format!("{key}:"));
    let both = [("authorization", &*basic), ("x-api-key", &key)];
    assert_eq!(
        shown(look_in(&sources, &request("/", &both)).presented),
        key
    );
}

#[test]
fn secrets_that_no_source_reads_are_noticed() {
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
        let found = look(&request);
        assert_eq!(found.has_unread(), is_unread, "{value}");
        let mut passing = sources();
        passing.unread_secrets = true;
        let found = look_in(&passing, &request);
        assert!(!found.has_unread(), "{value}");
    }
    // Where it is no source, and what is read is read.
    let mut bearer = CredentialSources::default();
    bearer.clear();
    bearer.push(CredentialSource::Bearer);
    for (value, is_unread) in [(&*key, true), ("abc", false)] {
        let request = request("/", &[("x-api-key", value)]);
        assert_eq!(look_in(&bearer, &request).has_unread(), is_unread);
        assert!(!look(&request).has_unread());
    }
    // A function that reads another scheme.
    let mut function = CredentialSources::default();
    function.push(CredentialSource::Function(Arc::new(|head| {
        let value = head.headers().get(AUTHORIZATION)?.to_str().ok()?;
        Some(value.strip_prefix("Token ")?.into())
    })));
    for (value, is_unread) in [
        (format!("Token {key}"), false),
        (format!("Api-Key {key}"), true),
    ] {
        let request = request("/", &[("authorization", &*value)]);
        assert_eq!(look_in(&function, &request).has_unread(), is_unread);
    }
}

#[test]
fn foreign_authorization_tokens_are_no_credentials_where_they_are_allowed() {
    let sources = CredentialSources {
        foreign_authorization: true,
        ..CredentialSources::default()
    };
    let key = secret();
    let jwt = ("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.x");
    let own = ("x-api-key", &*key);
    let bearer = format!("Bearer {key}");
    let mut both = request("/", &[jwt, own]);
    let found = look_in(&sources, &both);
    assert!(!found.has_unread());
    let places = found.places;
    assert_eq!(shown(found.presented), key);
    remove(&sources, places, &mut both);
    assert_eq!(both.headers().len(), 1);
    assert_eq!(both.headers()[AUTHORIZATION], jwt.1);
    for (headers, what) in [
        (&[jwt][..], "nothing"),
        (&[("authorization", &*bearer)], &key),
        (&[("authorization", &bearer), own], &key),
        (
            &[("authorization", &bearer), ("x-api-key", "other")],
            "ambiguous",
        ),
        (&[jwt, ("authorization", &bearer)], &key),
    ] {
        let request = request("/", headers);
        let found = look_in(&sources, &request);
        assert!(!found.has_unread());
        assert_eq!(shown(found.presented), what, "{headers:?}");
    }
    assert_eq!(
        shown(look(&request("/", &[jwt, own])).presented),
        "ambiguous"
    );
    let mut several = request("/", &[jwt, ("authorization", &bearer)]);
    let places = look_in(&sources, &several).places;
    remove(&sources, places, &mut several);
    assert_eq!(several.headers().len(), 1);
    assert_eq!(several.headers()[AUTHORIZATION], jwt.1);
}

#[test]
fn rule_1_keys_are_removed_and_nothing_else() {
    let mut full = request(
        "/p?a=1&key=k&b=2",
        &[
            ("authorization", "Bearer k"),
            ("authorization", "Basic other"),
            ("x-api-key", "k"),
            ("x-other", "stays"),
        ],
    );
    let places = look(&full).places;
    let taken = remove(&sources(), places, &mut full);
    assert_eq!(taken.len(), 3);
    assert!(taken.iter().all(|taken| *taken.secret() == *b"k"));
    assert_eq!(full.uri(), "/p?a=1&b=2");
    assert_eq!(full.headers().len(), 2);
    assert_eq!(full.headers()[AUTHORIZATION], "Basic other");
    let other = [("authorization", "Basic other"), ("x-api-key", "k")];
    let mut other = request("/", &other);
    let places = look(&other).places;
    remove(&sources(), places, &mut other);
    assert_eq!(other.headers().len(), 1);
    assert_eq!(other.headers()[AUTHORIZATION], "Basic other");
    let mut alone = request("http://host/p?key=k", &[("authorization", "Bearer k")]);
    remove(&sources(), SourceSet::all(), &mut alone);
    assert_eq!(alone.uri(), "http://host/p");
    assert!(alone.headers().is_empty());
}

#[test]
fn places_are_remembered_up_to_the_eighth() {
    for found in 0..12 {
        let mut places = SourceSet::default();
        places.add(found);
        places.add(0);
        for index in 0..12 {
            let has = index == found || index == 0 || index >= 8;
            assert_eq!(places.has(index), has, "{index} of {found}");
        }
    }
    assert!((0..12).all(|index| SourceSet::all().has(index)));
}

#[test]
fn only_what_says_the_same_goes_together() {
    let make = |what| match what {
        "nothing" => Presented::Missing,
        "garbled" => Presented::Malformed,
        "ambiguous" => Presented::Ambiguous,
        secret => Presented::text(secret.as_bytes()),
    };
    let all = ["nothing", "a", "b", "garbled", "ambiguous"];
    let expected = [
        all,
        ["a", "a", "ambiguous", "ambiguous", "ambiguous"],
        ["b", "ambiguous", "b", "ambiguous", "ambiguous"],
        ["garbled", "ambiguous", "ambiguous", "garbled", "ambiguous"],
        ["ambiguous"; 5],
    ];
    for (first, expected) in all.into_iter().zip(expected) {
        let together = all.map(|second| shown(make(first).and(make(second))));
        assert_eq!(together, expected, "{first}");
    }
}

/// Layers further in look only where they would have found it themselves.
#[test]
fn what_was_taken_counts_in_its_place_alone() {
    let header = |name: &'static str| CredentialSource::Header(HeaderName::from_static(name));
    let places = [
        CredentialSource::Bearer,
        header("x-api-key"),
        header("x-other"),
        CredentialSource::Query("key".into()),
        CredentialSource::Query("other".into()),
        CredentialSource::Function(Arc::new(|_| None)),
        CredentialSource::Scheme("Token".into()),
        CredentialSource::Scheme("Other".into()),
        CredentialSource::Basic,
    ];
    let value = HeaderValue::from_static("Bearer k");
    for (from, place) in places.iter().enumerate() {
        let taken = match place {
            CredentialSource::Bearer => Stripped::Bearer(value.clone()),
            other => Stripped::from(other, Some(value.clone())).unwrap(),
        };
        for (other, place) in places.iter().enumerate() {
            // A function takes nothing away.
            let own = from == other && from != 5;
            assert_eq!(taken.is_from(place), own, "{from} {other}");
        }
        let mut found = Credential::default();
        found.add_stripped(&CredentialSources::default(), std::slice::from_ref(&taken));
        let expected = ["k", "Bearer k"].get(from).copied().unwrap_or("nothing");
        assert_eq!(shown(found.presented), expected);
    }
}
