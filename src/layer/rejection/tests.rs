use http::Request;

use super::*;

fn respond(rejection: Rejection, content_type: &str) -> Response<Bytes> {
    let request = Request::post("/")
        .header(CONTENT_TYPE, content_type)
        .body(())
        .unwrap();
    *Rejections::default().response(rejection, RequestParts::of(&request))
}

#[test]
fn every_reason_has_valid_http_and_grpc_responses() {
    for reason in RejectionReason::ALL {
        let rejection = Rejection {
            retry_after_secs: Some(3),
            violated: Some(["burst".into(), "day".into()].into()),
            ..Rejection::new(reason)
        };
        let http = respond(rejection.clone(), "application/json");
        let problem: serde_json::Value = serde_json::from_slice(http.body()).unwrap();
        assert_eq!(problem["status"], http.status().as_u16());
        assert_eq!(http.extensions().get(), Some(&rejection));
        let grpc = respond(rejection, "application/grpc");
        assert_eq!(grpc.status(), StatusCode::OK);
        assert!(grpc.body().is_empty());
    }
}

#[test]
fn responses_reveal_no_details_about_the_key() {
    use RejectionReason::*;
    for (reasons, status, grpc, detail) in [
        (
            &[Missing, Malformed, Ambiguous, Unknown, WrongSecret][..],
            401,
            "16",
            "a valid API key is required",
        ),
        (
            &[Disabled, Revoked, Expired, OwnerSuspended],
            401,
            "16",
            "a valid API key is required",
        ),
        (
            &[ClientIp],
            403,
            "7",
            "this API key is not allowed from this IP address",
        ),
        (&[Scope], 403, "7", "this API key lacks a required scope"),
        (
            &[RateLimited],
            429,
            "8",
            "the rate limit of this API key is exceeded",
        ),
        (
            &[LookupLimit],
            429,
            "8",
            "too many invalid API keys from this IP address",
        ),
        (
            &[StoreUnavailable, LimiterUnavailable, RecorderFull],
            503,
            "14",
            "the request could not be authorized",
        ),
    ] {
        for &reason in reasons {
            let rejection = Rejection {
                retry_after_secs: Some(3),
                key: Some("3fK9aB0000zzZZ19".parse().unwrap()),
                ..Rejection::new(reason)
            };
            let grpc_response = respond(rejection.clone(), "application/grpc");
            assert_eq!(grpc_response.headers()[grpc::GRPC_STATUS], grpc, "{reason}");
            assert_eq!(grpc_response.headers()[grpc::GRPC_MESSAGE], detail);
            let http = respond(rejection, "application/json");
            assert_eq!(http.status(), status, "{reason}");
            let problem: serde_json::Value = serde_json::from_slice(http.body()).unwrap();
            let http_detail = problem["detail"].as_str().unwrap();
            assert!(
                http_detail
                    .to_lowercase()
                    .starts_with(&detail.to_lowercase()),
                "{http_detail}"
            );
        }
    }
}

/// gRFC A6: a negative pushback disables retries, and no pushback leaves them to the client.
#[test]
fn pushback_is_milliseconds_or_negative() {
    let pushback = |reason, retry_after_secs| {
        let rejection = Rejection {
            retry_after_secs,
            ..Rejection::new(reason)
        };
        let response = respond(rejection, "application/grpc");
        let pushback = response.headers().get(grpc::GRPC_PUSHBACK)?;
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

mod indistinguishable_rejections {
    use super::*;

    #[test]
    fn rejected_credentials_are_indistinguishable() {
        let response_to = |reason| {
            let response = respond(Rejection::new(reason), "x/y");
            (
                response.status(),
                response.headers().clone(),
                response.into_body(),
            )
        };
        for reason in RejectionReason::ALL {
            let same =
                (RejectionReason::Malformed..=RejectionReason::OwnerSuspended).contains(&reason);
            assert_eq!(
                response_to(reason) == response_to(RejectionReason::Unknown),
                same,
                "{reason}"
            );
        }
    }
}

#[test]
fn customized_responses_conform_to_the_protocol() {
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
        let response = rejections.response(rejection, RequestParts::of(&request));
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
        assert_eq!(response.body(), body);
    }
}

#[test]
fn challenges_contain_the_realm_and_quotable_scopes() {
    let challenge = |scope: &str| {
        let rejection = Rejection {
            scope: Some(scope.into()),
            ..Rejection::new(RejectionReason::Scope)
        };
        let response = respond(rejection, "x/y");
        response.headers()[WWW_AUTHENTICATE]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let rejections = Rejections::default().realm("my api").unwrap();
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
        let response = rejections.response(rejection, RequestParts::of(&request));
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
fn invalid_realms_are_rejected() {
    assert!(Rejections::default().realm(&"a".repeat(100)).is_ok());
    for realm in ["", "a\"b", "a\\b", "a\nb", "é", &"a".repeat(101)] {
        let error = Rejections::default().realm(realm).err();
        assert_eq!(error.unwrap().field, "realm", "{realm}");
    }
}
