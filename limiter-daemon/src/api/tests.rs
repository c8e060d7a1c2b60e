//! The control interface over a real socket, with a kernel in memory behind it.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
};

use super::Access;
use crate::{
    config::Control,
    daemon::{Shared, testing},
};

struct Server {
    _directory: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
    socket: PathBuf,
}

fn server() -> Server {
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
    runtime.spawn(super::serve(
        listener,
        Arc::new(Shared::new(engine)),
        Access::new(&Control::default()),
        std::future::pending(),
    ));
    Server {
        _directory: directory,
        _runtime: runtime,
        socket,
    }
}

/// Sends bytes as they are and reads until the server closes.
fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(&server.socket).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
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
fn what_is_wrong_is_told_as_a_problem() {
    let server = server();
    for (method, path, body, status) in [
        ("GET", "/v1/nothing", "", 404),
        ("PATCH", "/v1/scopes", "", 404),
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
        let (told, problem) = ask(&server, method, path, body);
        assert_eq!(told, status, "{method} {path} {body}: {problem}");
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
        // The server may hang up in the middle: that is its right.
        let _refused = stream.write_all(bytes);
    }
    let large = format!(r#"{{"scope":"{}"}}"#, "a".repeat(100_000));
    assert!(ask(&server, "POST", "/v1/scopes", &large).0 >= 400);
    assert_eq!(ask(&server, "GET", "/v1/scopes", "").0, 200);
}

#[test]
fn a_socket_in_use_is_not_taken_and_a_stale_one_is() {
    let server = server();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime
        .block_on(async { super::bind(&server.socket, None) })
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    let directory = tempfile::tempdir().unwrap();
    let stale = directory.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    runtime
        .block_on(async { super::bind(&stale, None) })
        .unwrap();
}
