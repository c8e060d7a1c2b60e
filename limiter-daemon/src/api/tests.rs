// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the control interface over a real socket, with a simulated kernel in memory.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use super::Access;
use crate::{
    config::Control,
    engine::{shared::Shared, tests::testing},
    http::Bounds,
};

pub(super) struct Server {
    _directory: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
    socket: PathBuf,
    shared: Arc<Shared>,
}

/// The time limit for each expected event. Only a failing test waits this long.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A time limit that a slow client exceeds immediately.
const SHORT_TIMEOUT: Duration = Duration::from_millis(50);

pub(super) fn server() -> Server {
    server_with(Bounds::default())
}

fn server_with(bounds: Bounds) -> Server {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let engine = testing::engine(directory.path());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime
        .block_on(async { super::bind(&socket, None) })
        .unwrap();
    let shared = Arc::new(Shared::new(engine));
    runtime.spawn(super::serve(
        listener,
        Arc::clone(&shared),
        Access::new(&Control::default()),
        bounds,
        std::future::pending(),
    ));
    Server {
        _directory: directory,
        _runtime: runtime,
        socket,
        shared,
    }
}

impl Server {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        stream
    }
}

/// Reads until the server closes the connection.
fn rest(mut stream: UnixStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // The kernel resets the connection if the server closes it without having read all bytes.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("still open: {error}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends bytes unchanged, and reads until the server closes the connection.
pub(super) fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = server.connect();
    stream.write_all(bytes).unwrap();
    rest(stream)
}

fn ask(server: &Server, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: limiter\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = raw(server, request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (
        status,
        serde_json::from_str(body).unwrap_or(serde_json::Value::Null),
    )
}

#[test]
fn a_customer_is_set_up_over_the_socket() {
    let server = server();
    let (status, made) = ask(&server, "POST", "/v1/scopes", r#"{"scope":"acme/web"}"#);
    assert_eq!((status, &made["tier"]), (201, &"profile".into()));
    let (status, key) = ask(
        &server,
        "POST",
        "/v1/keys",
        r#"{"scope":"acme/web","label":"ci"}"#,
    );
    assert_eq!(status, 201);
    assert!(key["key"].as_str().unwrap().starts_with("lmt_"));
    let (status, keys) = ask(&server, "GET", "/v1/keys?scope=acme/web", "");
    assert_eq!((status, keys.as_array().unwrap().len()), (200, 1));
    assert_eq!(keys[0]["id"], key["id"]);
    assert!(keys[0].get("key").is_none(), "a listing shows no key");
    let body = r#"{"limits":{"daily_quota":5000},"note":"sync"}"#;
    let (status, scope) = ask(&server, "PUT", "/v1/scopes/acme%2Fweb/limits", body);
    assert_eq!(
        (status, &scope["limits"]["daily_quota"]),
        (200, &5000.into())
    );
    let (status, usage) = ask(&server, "GET", "/v1/scopes/acme%2Fweb/usage", "");
    assert_eq!(status, 200);
    assert_eq!(
        (&usage["used"], &usage["remaining"]),
        (&0.into(), &5000.into())
    );
    let (status, shown) = ask(&server, "GET", "/v1/scopes/acme%2Fweb", "");
    assert_eq!((status, &shown["override"]["note"]), (200, &"sync".into()));
    assert_eq!(shown["keys"][0]["state"], "active");
    let path = format!("/v1/keys/{}/revoke", key["id"].as_str().unwrap());
    assert_eq!(ask(&server, "POST", &path, "").1["state"], "revoked");
    assert_eq!(ask(&server, "GET", "/v1/status", "").1["keys"], 1);
}

#[test]
fn an_error_is_sent_as_a_problem() {
    let server = server();
    for (method, path, body, status) in [
        ("GET", "/v1/nothing", "", 404),
        ("PATCH", "/v1/scopes", "", 405),
        ("PUT", "/v1/keys/import", "", 405),
        ("GET", "/v1/scopes/a%2Fb", "", 404),
        ("GET", "/v1/scopes/a%20b", "", 400),
        ("POST", "/v1/scopes", "{", 400),
        ("POST", "/v1/scopes", r#"{"scope":"a b"}"#, 400),
        ("POST", "/v1/scopes", r#"{"scope":"a","colour":1}"#, 400),
        ("POST", "/v1/keys", r#"{"scope":"nobody"}"#, 404),
        ("GET", "/v1/usage?date=yesterday", "", 400),
        ("GET", "/v1/usage?date=9999-01-01", "", 400),
        ("POST", "/v1/keys/k_1/frobnicate", "", 404),
        ("POST", "/v1/keys/k_1/revoke", "", 404),
    ] {
        let (status_code, problem) = ask(&server, method, path, body);
        assert_eq!(status_code, status, "{method} {path} {body}: {problem}");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{problem}"
        );
        assert_eq!(problem["status"], status);
    }
}

#[test]
fn an_error_never_quotes_a_key() {
    let server = server();
    for body in [
        r#"{"scope":"acme","key":"SECRET","label":7}"#,
        r#"{"scope":"acme","key":"SECRET word"}"#,
        r#"{"scope":"acme","key":["SECRET"]}"#,
        r#"{"scope":"acme","key":"SECRET"#,
    ] {
        let (status, problem) = ask(&server, "POST", "/v1/keys/import", body);
        assert!(status >= 400);
        assert!(!problem.to_string().contains("SECRET"), "{problem}");
    }
}

#[test]
fn nonsense_on_the_socket_does_not_stop_the_server() {
    let server = server();
    for bytes in [
        &b""[..],
        b"\0\0\0\0",
        b"GET",
        b"GET / HTTP/9.9\r\n\r\n",
        &[b'A'; 100_000],
    ] {
        let mut stream = UnixStream::connect(&server.socket).unwrap();
        // The write may fail, because the server may close the connection before all bytes are
        // sent.
        let _refused = stream.write_all(bytes);
    }
    let large = format!(r#"{{"scope":"{}"}}"#, "a".repeat(100_000));
    assert!(ask(&server, "POST", "/v1/scopes", &large).0 >= 400);
    assert_eq!(ask(&server, "GET", "/v1/scopes", "").0, 200);
}

#[test]
fn an_unknown_method_is_answered_with_the_known_ones() {
    let server = server();
    let request = b"PATCH /v1/scopes HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n";
    let answer = raw(&server, request).to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 405"), "{answer}");
    assert!(answer.contains("\r\nallow: get,head,post\r\n"), "{answer}");
}

#[test]
fn a_body_of_a_wrong_type_is_answered_with_the_right_type() {
    let server = server();
    for (path, sent, wanted) in [
        ("/v1/scopes", "", "application/json"),
        (
            "/v1/scopes",
            "Content-Type: text/plain\r\n",
            "application/json",
        ),
        ("/v1/keys/import-csv", "", "text/csv"),
        (
            "/v1/keys/import-csv",
            "Content-Type: application/json\r\n",
            "text/csv",
        ),
    ] {
        let body = r#"{"scope":"acme"}"#;
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: l\r\n{sent}Content-Length: {length}\r\n\r\n{body}"
        );
        let answer = raw(&server, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 415"), "{answer}");
        assert!(answer.contains(wanted), "{answer}");
    }
    let csv = "scope,key\nacme,some-key\n";
    let request = format!(
        "POST /v1/keys/import-csv HTTP/1.1\r\nHost: l\r\nContent-Type: Text/CSV; charset=utf-8\r\nContent-Length: {}\r\n\r\n{csv}",
        csv.len()
    );
    let answer = raw(&server, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[test]
fn a_body_that_is_too_large_is_read_and_refused() {
    let server = server();
    let body = format!(r#"{{"scope":"{}"}}"#, "a".repeat(3_000_000));
    let (status, problem) = ask(&server, "POST", "/v1/scopes", &body);
    assert_eq!((status, &problem["kind"]), (413, &"too_large".into()));
}

/// The beginning of a request whose body never arrives.
const CUT: &[u8] = b"POST /v1/scopes HTTP/1.1\r\nHost: l\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";

/// A complete request that is answered without using the engine.
const ASKED: &[u8] = b"GET /v1/nothing HTTP/1.1\r\nHost: l\r\n\r\n";

#[test]
fn the_server_does_not_wait_for_a_head_without_an_end() {
    let server = server_with(Bounds {
        head: SHORT_TIMEOUT,
        ..Bounds::default()
    });
    for begun in [
        &b""[..],
        b"GET /v1/status HT",
        b"GET / HTTP/1.1\r\nA: b\r\n",
    ] {
        let mut stream = server.connect();
        stream.write_all(begun).unwrap();
        rest(stream);
    }
}

#[test]
fn the_server_does_not_wait_for_a_body_that_stops_or_has_no_end() {
    for bounds in [
        Bounds {
            piece: SHORT_TIMEOUT,
            ..Bounds::default()
        },
        Bounds {
            body: SHORT_TIMEOUT,
            piece: 2 * TIMEOUT,
            ..Bounds::default()
        },
    ] {
        let server = server_with(bounds);
        let mut stream = server.connect();
        stream.write_all(CUT).unwrap();
        let answer = rest(stream);
        assert!(answer.starts_with("HTTP/1.1 408"), "{bounds:?}: {answer:?}");
        assert!(answer.contains(r#""kind":"timeout""#), "{answer}");
    }
}

#[test]
fn the_connection_of_a_client_that_does_not_read_is_closed() {
    let server = server_with(Bounds {
        answer: SHORT_TIMEOUT,
        ..Bounds::default()
    });
    let mut stream = server.connect();
    let error = loop {
        let request = b"GET /v1/tiers HTTP/1.1\r\nHost: l\r\n\r\n";
        if let Err(error) = stream.write_all(request) {
            break error;
        }
    };
    let hung_up = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    assert!(hung_up.contains(&error.kind()), "{error}");
}

#[test]
fn thousands_of_idle_connections_keep_nobody_out() {
    let bounds = Bounds {
        connections: 8,
        ..Bounds::default()
    };
    let server = server_with(bounds);
    // The connections of one pass are fewer than the files that a process may have open by default.
    for _ in 0..10 {
        let mut idle = Vec::new();
        for n in 0..300 {
            let mut stream = server.connect();
            // A quarter of the clients send nothing. Two quarters stop in the middle of a request,
            // and the last quarter send a complete request.
            let begun = [&b""[..], b"GET /v1", CUT, ASKED][n % 4];
            stream.write_all(begun).unwrap();
            idle.push((begun, stream));
            if n % 50 == 0 {
                assert_eq!(ask(&server, "GET", "/v1/tiers", "").0, 200);
            }
        }
        // At most `bounds.connections` connections are still open. They are among the newest
        // connections, which the test therefore does not check. It also does not check connections
        // with a complete request, because it does not know when the server has answered them.
        idle.truncate(idle.len() - bounds.connections);
        for (begun, stream) in idle {
            if begun != ASKED {
                rest(stream);
            }
        }
    }
}

#[test]
fn a_request_that_is_being_handled_keeps_its_place() {
    let server = server_with(Bounds {
        connections: 3,
        ..Bounds::default()
    });
    let engine = server.shared.engine();
    let mut asked = server.connect();
    asked
        .write_all(b"GET /v1/tiers HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n")
        .unwrap();
    // The server answers this request without the engine. When the response arrives, the server has
    // also read the earlier request, which is waiting for the engine.
    let nothing = || ask(&server, "GET", "/v1/nothing", "").0;
    assert_eq!(nothing(), 404);
    let idle: Vec<UnixStream> = (0..20).map(|_| server.connect()).collect();
    assert_eq!(nothing(), 404);
    drop(engine);
    let answer = rest(asked);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(idle);
}

#[test]
fn a_client_that_follows_events_keeps_its_place() {
    let server = server_with(Bounds {
        connections: 3,
        ..Bounds::default()
    });
    let mut follower = server.connect();
    follower
        .write_all(b"GET /v1/events?follow=true HTTP/1.1\r\nHost: l\r\n\r\n")
        .unwrap();
    let mut read = Vec::new();
    let mut until = |what: &str| {
        while !String::from_utf8_lossy(&read).contains(what) {
            let mut piece = [0; 4096];
            let got = follower.read(&mut piece).unwrap();
            assert!(got > 0, "the connection was closed before {what}");
            read.extend_from_slice(&piece[..got]);
        }
    };
    until("x-ndjson");
    let idle: Vec<UnixStream> = (0..20).map(|_| server.connect()).collect();
    let (status, _) = ask(&server, "POST", "/v1/scopes", r#"{"scope":"acme/late"}"#);
    assert_eq!(status, 201);
    until("acme/late");
    drop(idle);
}

#[test]
fn a_client_that_disconnects_gives_its_place_back() {
    let server = server_with(Bounds {
        connections: 2,
        ..Bounds::default()
    });
    let engine = server.shared.engine();
    for _ in 0..20 {
        let mut stream = server.connect();
        stream
            .write_all(b"GET /v1/tiers HTTP/1.1\r\nHost: l\r\n\r\n")
            .unwrap();
    }
    assert_eq!(ask(&server, "GET", "/v1/nothing", "").0, 404);
    drop(engine);
    assert_eq!(ask(&server, "GET", "/v1/tiers", "").0, 200);
}

#[test]
fn thousands_of_requests_are_answered() {
    let server = server();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut stream = server.connect();
                for n in 1..=500 {
                    let closing = if n == 500 {
                        "Connection: close\r\n"
                    } else {
                        ""
                    };
                    let request = format!("GET /v1/tiers HTTP/1.1\r\nHost: l\r\n{closing}\r\n");
                    stream.write_all(request.as_bytes()).unwrap();
                    // The client sends one request at a time, so one read returns a whole response.
                    if n < 500 {
                        let mut answer = [0; 4096];
                        let length = stream.read(&mut answer).unwrap();
                        assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
                    }
                }
                assert!(rest(stream).starts_with("HTTP/1.1 200"));
            });
        }
    });
}

#[test]
fn a_stale_socket_is_replaced_and_one_in_use_is_not() {
    let server = server();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime
        .block_on(async { super::bind(&server.socket, None) })
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let directory = tempfile::tempdir().unwrap();
    let stale = directory.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    runtime
        .block_on(async { super::bind(&stale, None) })
        .unwrap();
}
