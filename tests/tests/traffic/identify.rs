// SPDX-License-Identifier: MIT OR Apache-2.0

//! The choice of the key if a request carries several keys, and the refusal of bytes that are not a
//! request.

use limiter_tests::{GUARDED, Net, Response, Rig, request};

/// Sends a request with the header lines `lines` on a new connection, and returns the response.
#[track_caller]
fn ask(rig: &Rig, lines: &str) -> Response {
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n");
    rig.lab.connect(GUARDED).ask(request.as_bytes())
}

#[track_caller]
fn assert_used(rig: &Rig, scope: &str, used: u64) {
    assert_eq!(rig.limiter.usage(scope).used, used, "used by {scope}");
}

/// Asserts that `request` gets a 400 and ends the connection, and that the server receives nothing.
#[track_caller]
fn assert_malformed(rig: &Rig, request: &[u8]) {
    let before = rig.limiter.count("/totals/malformed");
    let mut conn = rig.lab.connect(GUARDED);
    conn.send(request);
    let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
    let response = conn.response();
    assert_eq!(response.status, 400, "{shown:?}");
    let problem = response.problem();
    assert_eq!(problem["status"], 400, "{problem}");
    conn.assert_closed();
    assert_eq!(
        rig.limiter.count("/totals/malformed"),
        before + 1,
        "{shown:?}"
    );
}

#[test]
fn header_names_are_matched_in_any_case_and_values_without_their_white_space() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let lines = [
        format!("X-Api-Key: {key}"),
        format!("x-api-key:{key}"),
        format!("X-API-KEY: \t {key}"),
        format!("x-Api-kEY: {key} \t "),
        format!("X-Api-Key-Not: a\r\nX-Api-Ke: b\r\nX-Api-Key: {key}\r\nX-Api-Key2: c"),
        format!("X-Last: a\r\nX-Api-Key: {key}\r\nX-Api-Key: {key}"),
        // `X_Api_Key` is treated as the same name, because servers that pass fields on as
        // environment variables (CGI, WSGI) cannot distinguish the two names.
        format!("X_Api_Key: {key}"),
    ];
    for (lines, used) in lines.iter().zip(1..) {
        assert_eq!(ask(&rig, lines).status, 200, "{lines}");
        assert_used(&rig, "acme/web", used);
    }
}

#[test]
fn similar_header_names_are_not_sources() {
    let rig = Rig::veth(|config| config);
    let key = rig.limiter.key("acme/web");
    let lines = [
        format!("X-Api-Keys: {key}"),
        format!("Y-Api-Key: {key}"),
        format!("X-Other: X-Api-Key: {key}"),
        format!("Cookie: x-api-key={key}"),
        "X-Api-Key:".to_owned(),
    ];
    for lines in &lines {
        assert_eq!(ask(&rig, lines).status, 200, "{lines}");
        assert_eq!(rig.limiter.usage("acme/web").used, 0, "{lines}");
    }
    assert_eq!(rig.limiter.count("/totals/missing_key"), lines.len() as u64);
}

#[test]
fn bearer_and_basic_keys_are_read_from_authorization() {
    let rig = Rig::veth(|config| config);
    let bearer = rig.limiter.key("acme/web");
    rig.limiter.scope("acme/basic");
    // The key is the whole Base64 encoding of "user:password".
    let basic = "dXNlcjpwYXNzd29yZA==";
    let import = ["key", "import", "acme/basic"];
    assert_eq!(
        rig.limiter
            .cli_with_input(&import, &format!("{basic}\n"))
            .code,
        0
    );
    for (line, used) in [
        format!("Authorization: Bearer {bearer}"),
        format!("authorization: bearer {bearer}"),
        format!("AUTHORIZATION:BEARER {bearer}"),
        format!("Authorization:  Bearer  {bearer} "),
    ]
    .iter()
    .zip(1..)
    {
        assert_eq!(ask(&rig, line).status, 200, "{line}");
        assert_used(&rig, "acme/web", used);
    }
    for (line, used) in [
        format!("Authorization: Basic {basic}"),
        format!("Authorization: BASIC {basic}"),
    ]
    .iter()
    .zip(1..)
    {
        assert_eq!(ask(&rig, line).status, 200, "{line}");
        assert_used(&rig, "acme/basic", used);
    }
    // A bearer token without a scheme, or with a scheme other than `Bearer`, is not a key.
    for line in [
        format!("Authorization: {bearer}"),
        format!("Authorization: Digest {bearer}"),
    ] {
        assert_eq!(ask(&rig, &line).status, 200, "{line}");
    }
    assert_used(&rig, "acme/web", 4);
    assert_eq!(rig.limiter.count("/totals/missing_key"), 2);
}

#[test]
fn source_order_decides_not_field_order() {
    for (sources, expected) in [
        (
            r#"["header:x-api-key", "bearer"]"#,
            ["acme/header", "acme/bearer"],
        ),
        (
            r#"["bearer", "header:x-api-key"]"#,
            ["acme/bearer", "acme/header"],
        ),
    ] {
        let rig = Rig::veth(|config| config.sources(sources));
        let header = format!("X-Api-Key: {}", rig.limiter.key("acme/header"));
        let bearer = format!("Authorization: Bearer {}", rig.limiter.key("acme/bearer"));
        assert_eq!(ask(&rig, &format!("{header}\r\n{bearer}")).status, 200);
        assert_eq!(ask(&rig, &format!("{bearer}\r\n{header}")).status, 200);
        assert_used(&rig, expected[0], 2);
        assert_used(&rig, expected[1], 0);
    }
}

#[test]
fn unconfigured_sources_are_ignored() {
    let rig = Rig::veth(|config| config.sources(r#"["header:x-customer", "header:x-key"]"#));
    let key = rig.limiter.key("acme/web");
    for line in [
        format!("X-Api-Key: {key}"),
        format!("Authorization: Bearer {key}"),
    ] {
        assert_eq!(ask(&rig, &line).status, 200);
    }
    assert_used(&rig, "acme/web", 0);
    for line in [format!("X-Customer: {key}"), format!("x-key: {key}")] {
        assert_eq!(ask(&rig, &line).status, 200);
    }
    assert_used(&rig, "acme/web", 2);
}

#[test]
fn four_headers_of_the_longest_names_can_be_sources() {
    let names = [
        "x-a",
        "x-b-c-d",
        "x-name-of-thirty-one-characters",
        "x-a-name-of-thirty-two-character",
    ];
    let list = names.map(|name| format!("\"header:{name}\"")).join(", ");
    let rig = Rig::veth(|config| config.sources(&format!("[{list}]")));
    let key = rig.limiter.key("acme/web");
    for (name, used) in names.iter().zip(1..) {
        assert_eq!(
            ask(&rig, &format!("{}: {key}", name.to_uppercase())).status,
            200
        );
        assert_used(&rig, "acme/web", used);
    }
}

#[test]
fn two_different_keys_of_one_source_are_refused() {
    let rig = Rig::veth(|config| config);
    let [a, b] = ["acme/a", "acme/b"].map(|scope| rig.limiter.key(scope));
    let get = |lines: String| format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n").into_bytes();
    assert_malformed(&rig, &get(format!("X-Api-Key: {a}\r\nX-Api-Key: {b}")));
    assert_malformed(
        &rig,
        &get(format!(
            "X-Api-Key: {a}\r\nX-Other: y\r\nX-Api-Key: unknown"
        )),
    );
    assert_malformed(
        &rig,
        &get(format!(
            "Authorization: Bearer {a}\r\nAuthorization: Bearer {b}"
        )),
    );
    for (scope, key) in [("acme/a", &a), ("acme/b", &b)] {
        rig.assert_charged_as_served(scope, key, 0);
    }
}

#[test]
fn longest_key_has_128_bytes_and_a_longer_value_is_unknown() {
    let rig = Rig::veth(|config| config);
    rig.limiter.scope("acme/web");
    let longest = "k".repeat(128);
    assert_eq!(
        rig.limiter
            .cli_with_input(&["key", "import", "acme/web"], &longest)
            .code,
        0
    );
    assert_eq!(ask(&rig, &format!("X-Api-Key: {longest}")).status, 200);
    assert_used(&rig, "acme/web", 1);
    for (length, unknown) in [(129, 1), (4000, 2)] {
        let field = format!("X-Api-Key: {}", "k".repeat(length));
        assert_eq!(ask(&rig, &field).status, 200, "{length}");
        assert_eq!(rig.limiter.count("/totals/unknown_key"), unknown);
        let two = format!("{field}\r\nX-Api-Key: {longest}");
        assert_malformed(
            &rig,
            format!("GET / HTTP/1.1\r\nHost: x\r\n{two}\r\n\r\n").as_bytes(),
        );
    }
    assert_used(&rig, "acme/web", 1);
}

#[test]
fn requests_that_servers_disagree_on_are_refused() {
    for net in [Net::Veth, Net::Loopback] {
        let rig = Rig::on(net, |config| config);
        let key = rig.limiter.key("acme/web");
        let inner = String::from_utf8(request("/inner", &key)).expect("text");
        let lines = [
            "Content-Length: 3\r\nContent-Length: 4".to_owned(),
            "Content-Length: 3\r\nTransfer-Encoding: chunked".to_owned(),
            "Transfer-Encoding: chunked\r\nContent-Length: 3".to_owned(),
            "Content-Length: +3".to_owned(),
            "Content-Length: 3, 4".to_owned(),
            "Content-Length: -1".to_owned(),
            "Content-Length: 99999999999999999999999".to_owned(),
            "Transfer-Encoding: xchunked".to_owned(),
            "Transfer-Encoding: chunked, gzip".to_owned(),
            "X-Folded: a\r\n b".to_owned(),
            "X-Space : a".to_owned(),
            "X-Nul: a\0b".to_owned(),
        ];
        for line in &lines {
            let request =
                format!("POST / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n{line}\r\n\r\n{inner}");
            assert_malformed(&rig, request.as_bytes());
        }
        rig.assert_charged_as_served("acme/web", &key, 0);
        assert!(
            rig.nginx.log().iter().all(|access| access.path != "/inner"),
            "{net:?}"
        );
        rig.assert_nothing_left("acme/web");
    }
}

#[test]
fn other_protocols_are_refused() {
    let rig = Rig::veth(|config| config);
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello is not for this port \r\n\r\n"
            [..],
        b"HELO mail.test\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        assert_malformed(&rig, bytes);
    }
}

#[test]
fn malformed_requests_pass_where_the_policy_says_so_and_are_counted() {
    let rig = Rig::veth(|config| config.policy("malformed = \"pass\""));
    let key = rig.limiter.key("acme/web");
    let mut conn = rig.lab.connect(GUARDED);
    let two = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\nX-Api-Key: other\r\n\r\n");
    let response = conn.ask(two.as_bytes());
    // nginx may respond with any status, but the response must not be a refusal by the limiter.
    assert_ne!(
        response.header("content-type"),
        Some("application/problem+json"),
        "{response:?}"
    );
    assert_eq!(rig.limiter.count("/totals/malformed"), 1);
    assert_used(&rig, "acme/web", 0);
}
