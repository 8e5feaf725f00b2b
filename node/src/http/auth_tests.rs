#![allow(clippy::unwrap_used)]

use std::io::Write;

use axum::Router;
use axum::body::Body;
use axum::routing::any;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::*;

const KEY: &str = "0123456789abcdef0123";

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        headers.append(name, value);
    }
    headers
}

fn keyed() -> Access {
    Access::new(AccessOptions {
        key: Some(SecretString::from(KEY)),
        allowed_hosts: Vec::new(),
    })
    .unwrap()
}

fn keyless(allowed: &[&str]) -> Access {
    Access::new(AccessOptions {
        key: None,
        allowed_hosts: allowed.iter().map(|&name| name.to_owned()).collect(),
    })
    .unwrap()
}

/// The status that a request gets; 200: it goes on.
fn status(access: &Access, method: &Method, uri: &str, pairs: &[(&str, &str)]) -> u16 {
    let uri: Uri = uri.parse().unwrap();
    match access.check(method, &uri, Version::HTTP_11, &headers(pairs)) {
        Ok(()) => 200,
        Err(error) => error.status().as_u16(),
    }
}

#[test]
fn public_is_what_is_listed_and_nothing_that_resembles_it() {
    for path in [
        "/",
        "/health",
        "/ready",
        "/docs",
        "/gallery",
        "/status",
        "/favicon.ico",
        "/assets/app.js",
        "/assets/fonts/a-b_c.woff2",
    ] {
        assert!(is_public(&Method::GET, path), "{path}");
        assert!(is_public(&Method::HEAD, path), "{path}");
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert!(!is_public(&method, path), "{method} {path}");
        }
    }
    for path in [
        "",
        "*",
        "//",
        "/v1/videos",
        "//v1/videos",
        "/v1",
        "//health",
        "/health/",
        "/health/../v1/videos",
        "/HEALTH",
        "/healthz",
        "/health%2f..%2fv1",
        "/%68ealth",
        "/docs/",
        "/docs/..",
        "/docs;x",
        "/assets",
        "/assets/",
        "/assets//v1/videos",
        "/assets/../v1/videos",
        "/assets/./app.js",
        "/assets/%2e%2e/v1/videos",
        "/assets/%2E%2E%2Fv1/videos",
        "/assets/..%2fv1/videos",
        "/assets/..;/v1/videos",
        "/assets/..\\v1\\videos",
        "/assets/.hidden",
        "/assets/x/../../v1/videos",
        "/Assets/app.js",
        "/./health",
        "/metrics",
        "/info",
        "/openapi.json",
        "/generate",
        "/chutes/",
    ] {
        assert!(!is_public(&Method::GET, path), "{path}");
    }
}

#[test]
fn with_a_key_it_must_be_shown() {
    let access = keyed();
    let long = "k".repeat(10_000);
    for (authorization, expected) in [
        (format!("Bearer {KEY}"), 200),
        (format!("bearer {KEY}"), 200),
        (format!("BEARER   {KEY}"), 200),
        (format!("Bearer\t{KEY} "), 200),
        (KEY.to_owned(), 200),
        (String::new(), 401),
        ("Bearer".to_owned(), 401),
        ("Bearer ".to_owned(), 401),
        (format!("Basic {KEY}"), 401),
        (format!("Bearer Bearer {KEY}"), 401),
        (format!("Bearer {KEY} x"), 401),
        (format!("Bearer {KEY}x"), 401),
        (format!("Bearer {}", &KEY[1..]), 401),
        (format!("Bearer {}", KEY.to_uppercase()), 401),
        (format!("Bearer, {KEY}"), 401),
        (format!("\"{KEY}\""), 401),
        (format!("{KEY}é"), 401),
        (long, 401),
    ] {
        let shown = [("authorization", authorization.as_str())];
        let got = status(&access, &Method::POST, "/generate", &shown);
        assert_eq!(got, expected, "{authorization:?}");
    }
    let right = format!("Bearer {KEY}");
    let twice = [("authorization", &*right), ("authorization", &*right)];
    assert_eq!(status(&access, &Method::GET, "/info", &twice), 401);
    assert_eq!(status(&access, &Method::GET, "/info", &[]), 401);
    assert_eq!(status(&access, &Method::GET, "/info?key=1", &[]), 401);
    assert_eq!(status(&access, &Method::GET, "/health?x=/v1", &[]), 200);
    assert_eq!(status(&access, &Method::POST, "/health", &[]), 401);
    assert_eq!(status(&access, &Method::GET, "http://x/health", &[]), 200);
    assert_eq!(status(&access, &Method::GET, "http://x/info", &[]), 401);
    // A key is proof enough: it is not sent by a page that was not given it.
    let elsewhere = [
        ("authorization", &*right),
        ("host", "node.example"),
        ("origin", "https://app.example"),
        ("sec-fetch-site", "cross-site"),
    ];
    assert_eq!(status(&access, &Method::POST, "/generate", &elsewhere), 200);
}

#[test]
fn without_a_key_only_this_machine_is_addressed() {
    let access = keyless(&["Node.Example", "10.1.2.3", "fd00::7", "[fd00::8]"]);
    for (host, expected) in [
        ("localhost", 200),
        ("LocalHost:8000", 200),
        ("localhost:", 200),
        ("127.0.0.1", 200),
        ("127.0.0.1:1", 200),
        ("127.255.255.254:8000", 200),
        ("[::1]", 200),
        ("[::1]:8000", 200),
        ("[0:0:0:0:0:0:0:1]", 200),
        ("node.example", 200),
        ("NODE.EXAMPLE:99", 200),
        ("10.1.2.3:8000", 200),
        ("[fd00::7]:8000", 200),
        ("[fd00::8]", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("evil-localhost", 403),
        ("node.example.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("128.0.0.1", 403),
        ("127.1", 403),
        ("2130706433", 403),
        ("0x7f.0.0.1", 403),
        ("0.0.0.0", 403),
        ("192.168.1.10:8000", 403),
        ("[::]", 403),
        ("[::ffff:127.0.0.1]", 403),
        ("", 400),
        (":8000", 400),
        ("localhost:x", 400),
        ("localhost:+80", 400),
        ("localhost:70000", 400),
        ("localhost:80:80", 400),
        ("::1", 400),
        ("[::1", 400),
        ("[::1]x", 400),
        ("[localhost]", 400),
        ("[::1%25lo]", 400),
        ("user@localhost", 400),
        ("localhost/x", 400),
        ("localhost, evil.example", 400),
        ("localhost evil", 400),
    ] {
        let got = status(&access, &Method::GET, "/health", &[("host", host)]);
        assert_eq!(got, expected, "{host:?}");
    }
    let twice = [("host", "localhost"), ("host", "localhost")];
    assert_eq!(status(&access, &Method::GET, "/health", &twice), 400);
    assert_eq!(status(&access, &Method::GET, "/health", &[]), 400);
    let old = |pairs: &[(&str, &str)]| {
        let (uri, headers) = ("/health".parse().unwrap(), headers(pairs));
        let checked = access.check(&Method::GET, &uri, Version::HTTP_10, &headers);
        checked.map_err(|error| error.status().as_u16())
    };
    assert_eq!(old(&[]), Ok(()));
    assert_eq!(old(&[("host", "evil.example")]), Err(403));
    assert_eq!(old(&[("origin", "http://localhost")]), Err(403));
    for (uri, host, expected) in [
        ("http://localhost/health", "localhost", 200),
        ("http://127.0.0.1:80/health", "localhost:8000", 200),
        ("http://evil.example/health", "localhost", 403),
        ("http://localhost/health", "evil.example", 403),
    ] {
        let got = status(&access, &Method::GET, uri, &[("host", host)]);
        assert_eq!(got, expected, "{uri} {host}");
    }
}

#[test]
fn without_a_key_pages_of_other_origins_are_refused() {
    let access = keyless(&["node.example"]);
    for (host, origin, expected) in [
        ("localhost:8000", "http://localhost:8000", 200),
        ("LOCALHOST:8000", "http://localhost:8000", 200),
        ("127.0.0.1:8000", "http://127.0.0.1:8000", 200),
        ("[::1]:8000", "http://[::1]:8000", 200),
        ("localhost", "http://localhost", 200),
        ("localhost:80", "http://localhost", 200),
        // Behind a proxy that adds TLS.
        ("node.example", "https://node.example", 200),
        ("node.example:443", "https://node.example", 200),
        ("localhost:8000", "http://localhost:3000", 403),
        ("localhost:8000", "http://localhost", 403),
        ("localhost", "http://localhost:8000", 403),
        ("localhost:80", "https://localhost", 403),
        ("localhost:8000", "http://127.0.0.1:8000", 403),
        ("localhost:8000", "http://node.example:8000", 403),
        ("localhost:8000", "http://evil.example", 403),
        ("localhost:8000", "http://localhost:8000.evil.example", 403),
        ("localhost:8000", "http://localhost:8000/", 403),
        ("localhost:8000", "http://x@localhost:8000", 403),
        ("localhost:8000", "null", 403),
        ("localhost:8000", "", 403),
        ("localhost:8000", "localhost:8000", 403),
        ("localhost:8000", "file://", 403),
        ("localhost:8000", "chrome-extension://localhost:8000", 403),
        (
            "localhost:8000",
            "http://localhost:8000 http://evil.example",
            403,
        ),
    ] {
        let pairs = [("host", host), ("origin", origin)];
        for method in [Method::GET, Method::POST] {
            let got = status(&access, &method, "/generate", &pairs);
            assert_eq!(got, expected, "{method} {host} {origin}");
        }
    }
    let twice = [
        ("host", "localhost"),
        ("origin", "http://localhost"),
        ("origin", "http://localhost"),
    ];
    assert_eq!(status(&access, &Method::GET, "/", &twice), 403);
}

#[test]
fn without_a_key_other_sites_may_link_here_and_no_more() {
    let access = keyless(&[]);
    for (method, site, mode, dest, expected) in [
        (Method::GET, "same-origin", "cors", "empty", 200),
        (Method::GET, "none", "navigate", "document", 200),
        (Method::GET, "cross-site", "navigate", "document", 200),
        (Method::GET, "cross-site", "navigate", "iframe", 403),
        (Method::GET, "cross-site", "no-cors", "image", 403),
        (Method::GET, "cross-site", "no-cors", "document", 403),
        (Method::GET, "Cross-Site", "no-cors", "script", 403),
        (Method::POST, "cross-site", "navigate", "document", 403),
        (Method::POST, "cross-site", "cors", "empty", 403),
    ] {
        let pairs = [
            ("host", "localhost:8000"),
            ("sec-fetch-site", site),
            ("sec-fetch-mode", mode),
            ("sec-fetch-dest", dest),
        ];
        let got = status(&access, &method, "/", &pairs);
        assert_eq!(got, expected, "{method} {site} {mode} {dest}");
    }
    let alone = [("host", "localhost"), ("sec-fetch-site", "cross-site")];
    assert_eq!(status(&access, &Method::GET, "/", &alone), 403);
}

#[test]
fn an_allowed_host_that_is_none_is_an_error() {
    for name in ["", "http://x", "x:80", "a b", "*", "*.example", "x/y", "é"] {
        let error = Access::new(AccessOptions {
            key: None,
            allowed_hosts: vec![name.to_owned()],
        })
        .unwrap_err();
        assert!(error.contains(&format!("{name:?}")), "{error}");
    }
}

#[tokio::test]
async fn the_middleware_answers_for_the_routes() {
    let get = async |access: Access, pairs: &[(&str, &str)]| {
        let layer = axum::middleware::from_fn_with_state(access, check_access);
        let routes = Router::new()
            .route("/info", any(async || "told"))
            .layer(layer);
        let mut request = axum::http::Request::new(Body::empty());
        *request.uri_mut() = "/info".parse().unwrap();
        *request.headers_mut() = headers(pairs);
        let response = TowerToHyperService::new(routes).call(request).await;
        let (head, body) = response.unwrap().into_parts();
        let body = axum::body::to_bytes(body, 1 << 16).await.unwrap();
        // Errors are rendered by the layer around this one.
        let error = head
            .extensions
            .get::<ApiError>()
            .map(|error| format!("{error:?}"));
        let told = String::from_utf8(body.to_vec()).unwrap();
        (head, error.unwrap_or(told))
    };
    let (head, body) = get(keyed(), &[("authorization", "Bearer wrong")]).await;
    assert_eq!(head.status, 401);
    assert_eq!(head.headers[WWW_AUTHENTICATE], "Bearer");
    assert!(body.contains("unauthorized") && !body.contains("wrong") && !body.contains(KEY));
    let (head, body) = get(keyed(), &[("authorization", KEY)]).await;
    assert_eq!((head.status.as_u16(), &*body), (200, "told"));
    let (head, body) = get(keyless(&[]), &[("host", "evil.example")]).await;
    assert_eq!(head.status, 403);
    assert!(!head.headers.contains_key(WWW_AUTHENTICATE));
    assert!(body.contains("forbidden_host") && body.contains("--allowed-host"));
    let (head, body) = get(
        keyless(&[]),
        &[("host", "localhost"), ("origin", "http://evil.example")],
    )
    .await;
    assert_eq!(head.status, 403);
    assert!(body.contains("forbidden_origin"));
    let (head, _) = get(keyless(&[]), &[("host", "localhost")]).await;
    assert_eq!(head.status, 200);
}

#[test]
fn a_key_file_holds_one_good_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let read = |bytes: &[u8]| {
        File::create(&path).unwrap().write_all(bytes).unwrap();
        read_key_file(&path).map(|key| key.expose_secret().to_owned())
    };
    for end in ["", "\n", "\r\n"] {
        assert_eq!(read(format!("{KEY}{end}").as_bytes()).unwrap(), KEY);
    }
    let longest = "k".repeat(MAX_KEY_FILE_BYTES);
    assert_eq!(read(longest.as_bytes()).unwrap(), longest);
    for (bytes, problem) in [
        (&b""[..], "empty"),
        (b"\n", "empty"),
        (b"0123456789abcde\n", "15 characters"),
        (b"0123456789abcdef\n\n", "one line"),
        (b"0123456789 abcdef\n", "one line"),
        (b" 0123456789abcdef", "one line"),
        (b"0123456789abcdef\0", "one line"),
        ("0123456789abcdefé".as_bytes(), "ASCII"),
        (b"0123456789abcdef\xff", "not text"),
        (format!("{longest}k").as_bytes(), "larger than 4096"),
    ] {
        let error = read(bytes).unwrap_err();
        assert!(error.contains(problem), "{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(!error.contains("0123456789"), "{error}");
    }
    let missing = read_key_file(&folder.path().join("none")).unwrap_err();
    assert!(missing.contains("none"), "{missing}");
    assert!(read_key_file(folder.path()).is_err());
}

#[test]
fn nothing_prints_the_key() {
    let options = AccessOptions {
        key: Some(SecretString::from(KEY)),
        allowed_hosts: Vec::new(),
    };
    assert!(!format!("{options:?} {:?}", keyed()).contains(KEY));
}
