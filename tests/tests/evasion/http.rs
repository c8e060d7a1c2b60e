// SPDX-License-Identifier: MIT OR Apache-2.0

//! Unusual request lines and field lines. Every request that nginx serves is charged. A request
//! that different servers would interpret differently does not reach the server.

use limiter_tests::fate::{
    Case,
    Fate::{Both, First, Refused, ServersOwn},
    assert_fates,
};

#[test]
fn odd_lines() {
    let cases: [Case<'_>; 30] = [
        (
            "as usual",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Both,
        ),
        (
            "lower case",
            "GET / HTTP/1.1\r\nhost: x\r\nx-api-key: $K\r\n\r\n",
            Both,
        ),
        (
            "upper case",
            "GET / HTTP/1.1\r\nHOST: x\r\nX-API-KEY: $K\r\n\r\n",
            Both,
        ),
        (
            "no space before the value",
            "GET / HTTP/1.1\r\nHost:x\r\nX-Api-Key:$K\r\n\r\n",
            Both,
        ),
        (
            "tabs around the value",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key:\t\t$K\t\r\n\r\n",
            Both,
        ),
        (
            "many spaces around the value",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key:          $K          \r\n\r\n",
            Both,
        ),
        (
            "lines that end with LF",
            "GET / HTTP/1.1\nHost: x\nX-Api-Key: $K\n\n",
            Both,
        ),
        (
            "one line that ends with LF",
            "GET / HTTP/1.1\r\nHost: x\nX-Api-Key: $K\r\n\r\n",
            Both,
        ),
        (
            "an end of LF alone",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\n",
            Both,
        ),
        (
            "CR alone in a value",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\rX-A: b\r\n\r\n",
            Refused,
        ),
        (
            "CR alone before a key",
            "GET / HTTP/1.1\r\nHost: x\r\nX-A: b\rX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "CR twice",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\r\n\r\n",
            Refused,
        ),
        (
            "a folded value",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n more\r\n\r\n",
            Refused,
        ),
        (
            "a folded key",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key:\r\n $K\r\n\r\n",
            Refused,
        ),
        (
            "the first line folded",
            "GET / HTTP/1.1\r\n Host: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "a line of spaces",
            "GET / HTTP/1.1\r\nHost: x\r\n  \r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "a space before the colon",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key : $K\r\n\r\n",
            Refused,
        ),
        (
            "a tab before the colon",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key\t: $K\r\n\r\n",
            Refused,
        ),
        (
            "a line without a colon",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key $K\r\n\r\n",
            Refused,
        ),
        (
            "a name of nothing",
            "GET / HTTP/1.1\r\nHost: x\r\n: $K\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "NUL in a value",
            "GET / HTTP/1.1\r\nHost: x\r\nX-A: b\0c\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "NUL in a name",
            "GET / HTTP/1.1\r\nHost: x\r\nX-A\0: b\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "NUL behind the key",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\0\r\n\r\n",
            Refused,
        ),
        (
            "a space in the key",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K x\r\n\r\n",
            Refused,
        ),
        (
            "a vertical tab before the key",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: \x0b$K\r\n\r\n",
            Refused,
        ),
        (
            "a byte beyond ASCII in the key",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\u{a0}\r\n\r\n",
            Refused,
        ),
        (
            "the key twice",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nX-Api-Key: $K\r\n\r\n",
            Both,
        ),
        (
            "another key behind it",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nX-Api-Key: other\r\n\r\n",
            Refused,
        ),
        (
            "an empty one behind it",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nX-Api-Key:\r\n\r\n",
            Both,
        ),
        (
            "the other spelling behind it",
            "GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\nX_Api_Key: other\r\n\r\n",
            Refused,
        ),
    ];
    assert_fates(&cases);
}

#[test]
fn odd_first_lines() {
    let cases: [Case<'_>; 27] = [
        (
            "absolute form",
            "GET http://x/ HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Both,
        ),
        (
            "asterisk form",
            "OPTIONS * HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            ServersOwn,
        ),
        ("HTTP/1.0", "GET / HTTP/1.0\r\nX-Api-Key: $K\r\n\r\n", First),
        (
            "HTTP/1.0 that stays",
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\nX-Api-Key: $K\r\n\r\n",
            Both,
        ),
        (
            "a connection to close",
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Api-Key: $K\r\n\r\n",
            First,
        ),
        (
            "an empty line before",
            "\r\nGET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Both,
        ),
        (
            "many empty lines before",
            "\r\n\r\n\r\n\r\n\r\n\n\n\nGET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Both,
        ),
        (
            "a space before",
            " GET / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "HTTP/0.9",
            "GET /\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "HTTP/0.9 with a blank",
            "GET / \r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "two spaces behind the method",
            "GET  / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Both,
        ),
        (
            "two spaces before the version",
            "GET /  HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Both,
        ),
        (
            "a space behind the version",
            "GET / HTTP/1.1 \r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "a space in the target",
            "GET /a b HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            ServersOwn,
        ),
        (
            "tabs between the words",
            "GET\t/\tHTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "a tab in the target",
            "GET /a\tb HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "HTTP/1.2",
            "GET / HTTP/1.2\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "HTTP/2.0",
            "GET / HTTP/2.0\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "a version in lower case",
            "GET / http/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "a version of more digits",
            "GET / HTTP/1.10\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "no target",
            "GET HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "a method in lower case",
            "get / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            ServersOwn,
        ),
        (
            "a method of 40 letters",
            "AAAAAAAAAABBBBBBBBBBCCCCCCCCCCDDDDDDDDDD / HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "NUL in the target",
            "GET /\0 HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "CONNECT",
            "CONNECT x:80 HTTP/1.1\r\nHost: x\r\nX-Api-Key: $K\r\n\r\n",
            Refused,
        ),
        (
            "Upgrade that nobody accepts",
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c, websocket\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nX-Api-Key: $K\r\n\r\n",
            Both,
        ),
        (
            "Expect without a body",
            "GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nX-Api-Key: $K\r\n\r\n",
            Both,
        ),
    ];
    assert_fates(&cases);
}

#[test]
fn long_heads() {
    let head = |filler: &str| format!("GET / HTTP/1.1\r\nHost: x\r\n{filler}X-Api-Key: $K\r\n\r\n");
    let block = |kib: usize| head(&format!("X-Filler: {}\r\n", "x".repeat(kib * 1024 - 200)));
    let lines = |count: usize| head(&"X-Filler: x\r\n".repeat(count));
    let cases = [
        ("15 KiB", block(15), Both),
        ("17 KiB", block(17), Refused),
        ("100 KiB", block(100), Refused),
        ("100 lines", lines(100), Both),
        ("1000 lines", lines(1000), Refused),
        (
            "100 KiB in lines",
            head(&format!("X-Filler: {}\r\n", "x".repeat(1000)).repeat(100)),
            Refused,
        ),
        (
            "1000 empty lines before",
            "\r\n".repeat(1000) + &head(""),
            Refused,
        ),
        (
            "a target of 10 KiB",
            head("").replace(" / ", &format!(" /{} ", "x".repeat(10_000))),
            Both,
        ),
        (
            "a name of 10 KiB",
            head(&format!("X-{}: x\r\n", "x".repeat(10_000))),
            Both,
        ),
    ];
    let cases: Vec<Case<'_>> = cases
        .iter()
        .map(|(name, text, fate)| (*name, text.as_str(), *fate))
        .collect();
    assert_fates(&cases);
}
