use http::Request;

use super::*;

fn answer(rejection: Rejection, content_type: &str) -> Response<Bytes> {
    let request = Request::post("/")
        .header(CONTENT_TYPE, content_type)
        .body(())
        .unwrap();
    Rejections::default().answer(rejection, RequestParts::of(&request))
}

#[test]
fn every_reason_has_valid_answers() {
    for reason in RejectionReason::ALL {
        let rejection = Rejection {
            retry_after_secs: Some(3),
            violated: Some(["burst".into(), "day".into()].into()),
            ..Rejection::new(reason)
        };
        let http = answer(rejection.clone(), "application/json");
        let problem: serde_json::Value = serde_json::from_slice(http.body()).unwrap();
        assert_eq!(problem["status"], http.status().as_u16());
        assert_eq!(http.extensions().get(), Some(&rejection));
        let grpc = answer(rejection, "application/grpc");
        assert_eq!(grpc.status(), StatusCode::OK);
        assert!(grpc.body().is_empty());
    }
}

#[test]
fn answers_say_what_is_wrong_as_far_as_a_stranger_may_know() {
    use RejectionReason::*;
    for (reasons, status, grpc, detail) in [
        (
            &[Missing, Malformed, Ambiguous, Unknown, WrongSecret][..],
            401,
            "16",
            "a valid API key is required",
        ),
        (
            &[Disabled, Revoked, Expired],
            401,
            "16",
            "a valid API key is required",
        ),
        (
            &[Address],
            403,
            "7",
            "this API key may not be used from here",
        ),
        (
            &[Scope],
            403,
            "7",
            "this API key lacks a scope that is required",
        ),
        (
            &[RateLimited],
            429,
            "8",
            "a rate limit of this API key is reached",
        ),
        (
            &[LookupLimit],
            429,
            "8",
            "too many API keys that do not work came from this address",
        ),
        (
            &[StoreUnavailable, LimiterUnavailable, RecorderFull],
            503,
            "14",
            "the request could not be checked",
        ),
    ] {
        for &reason in reasons {
            let rejection = Rejection {
                retry_after_secs: Some(3),
                key: Some("3fK9aB0000zzZZ19".parse().unwrap()),
                ..Rejection::new(reason)
            };
            let grpc_answer = answer(rejection.clone(), "application/grpc");
            assert_eq!(grpc_answer.headers()[grpc::GRPC_STATUS], grpc, "{reason}");
            assert_eq!(grpc_answer.headers()[grpc::GRPC_MESSAGE], detail);
            let http = answer(rejection, "application/json");
            assert_eq!(http.status(), status, "{reason}");
            let problem: serde_json::Value = serde_json::from_slice(http.body()).unwrap();
            let told = problem["detail"].as_str().unwrap();
            assert!(
                told.to_lowercase().starts_with(&detail.to_lowercase()),
                "{told}"
            );
        }
    }
}

/// A6: a negative pushback where no wait suffices, none where nothing is known.
#[test]
fn pushbacks_are_milliseconds_or_never() {
    let pushback = |reason, retry_after_secs| {
        let rejection = Rejection {
            retry_after_secs,
            ..Rejection::new(reason)
        };
        let answer = answer(rejection, "application/grpc");
        let pushback = answer.headers().get(grpc::GRPC_PUSHBACK)?;
        Some(pushback.to_str().unwrap().to_owned())
    };
    assert_eq!(
        pushback(RejectionReason::RateLimited, Some(1)).as_deref(),
        Some("1000")
    );
    assert_eq!(
        pushback(RejectionReason::RateLimited, Some(3)).as_deref(),
        Some("-1")
    );
    assert_eq!(
        pushback(RejectionReason::LookupLimit, Some(1)).as_deref(),
        Some("1000")
    );
    assert_eq!(
        pushback(RejectionReason::RateLimited, None).as_deref(),
        Some("-1")
    );
    assert_eq!(pushback(RejectionReason::Unknown, None), None);
}

#[test]
fn rule_2_all_that_does_not_let_in_looks_the_same() {
    let seen = |reason| {
        let response = answer(Rejection::new(reason), "x/y");
        (
            response.status(),
            response.headers().clone(),
            response.into_body(),
        )
    };
    for reason in RejectionReason::ALL {
        let same = (RejectionReason::Malformed..=RejectionReason::Expired).contains(&reason);
        assert_eq!(
            seen(reason) == seen(RejectionReason::Unknown),
            same,
            "{reason}"
        );
    }
}

#[test]
fn answers_of_ones_own_keep_to_the_protocol() {
    let rejections = Rejections {
        customize: Some(Arc::new(|_, mut response| {
            *response.body_mut() = Bytes::from_static(b"no");
            response.headers_mut().insert(CONTENT_LENGTH, 98.into());
            response
        })),
        ..Rejections::default()
    };
    for (content_type, body) in [("application/grpc", &b""[..]), ("x/y", b"no")] {
        let request = Request::post("/")
            .header(CONTENT_TYPE, content_type)
            .body(())
            .unwrap();
        let rejection = Rejection::new(RejectionReason::Unknown);
        let response = rejections.answer(rejection, RequestParts::of(&request));
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
        assert_eq!(response.body(), body);
    }
}

#[test]
fn challenges_name_the_realm_and_a_scope_that_can_be_said() {
    let challenge = |scope: &str| {
        let rejection = Rejection {
            scope: Some(scope.into()),
            ..Rejection::new(RejectionReason::Scope)
        };
        let response = answer(rejection, "x/y");
        response.headers()[WWW_AUTHENTICATE]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let own = Rejections::default().realm("my api").unwrap();
    let request = Request::get("/").body(()).unwrap();
    for (reason, error) in [
        (RejectionReason::Missing, ""),
        (RejectionReason::Unknown, r#", error="invalid_token""#),
        (
            RejectionReason::Scope,
            r#", error="insufficient_scope", scope="a""#,
        ),
    ] {
        let rejection = Rejection {
            scope: (reason == RejectionReason::Scope).then(|| "a".into()),
            ..Rejection::new(reason)
        };
        let response = own.answer(rejection, RequestParts::of(&request));
        let expected = format!(r#"Bearer realm="my api"{error}"#);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], expected);
    }
    let plain = r#"Bearer realm="api", error="insufficient_scope""#;
    assert_eq!(challenge("a:b"), format!(r#"{plain}, scope="a:b""#));
    for scope in ["a\"b", "a\nb", "a b", "é"] {
        assert_eq!(challenge(scope), plain);
    }
}

#[test]
fn realms_that_cannot_stand_in_a_header_are_refused() {
    assert!(Rejections::default().realm(&"a".repeat(100)).is_ok());
    for realm in ["", "a\"b", "a\\b", "a\nb", "é", &"a".repeat(101)] {
        let error = Rejections::default().realm(realm).err();
        assert_eq!(error, Some(InvalidRealm), "{realm}");
    }
}
