// SPDX-License-Identifier: MIT OR Apache-2.0

//! The effect of each policy on a packet and on the counters.

use limiter_common::abi::{
    Event, KEY_DISABLED, KeyEntry, LIMITS_IN_USE, LIMITS_OBSERVE, Limits, counter, event, phase,
    policy,
};
use limiter_common::day::{DAY_NS, Day, DayCount};
use limiter_tests::program::{ACK, Programs, RST, Shape, Talk, Verdict, digest, no_limits};

use crate::support::{KEY, SCOPE, assert_counters, boot_ns, get, get_as, limited, ok};

const ANONYMOUS: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends a request on a new connection. Returns the status code of the response, or `None` if there
/// is no response.
#[track_caller]
fn status(programs: &mut Programs, request: &str) -> Option<String> {
    let mut talk = Talk::open(programs, Shape::v4());
    let segment = talk.client(request.as_bytes());
    let ran = talk.run(programs, true, &segment);
    assert_eq!(ran.verdict, Verdict::Pass);
    if ran.sent.is_empty() {
        assert_eq!(ran.decoded().payload, request.as_bytes(), "what passed");
        return None;
    }
    Some(
        ran.answer()
            .text()
            .split(' ')
            .nth(1)
            .unwrap_or("no status")
            .to_owned(),
    )
}

#[test]
fn a_request_without_a_key_passes_or_is_refused() {
    let mut programs = limited(no_limits());
    assert_eq!(status(&mut programs, ANONYMOUS), None);
    assert_counters(&programs, &[(counter::MISSING_KEY, 1)]);
    programs.configure(|config| config.missing_key = policy::REJECT);
    assert_eq!(status(&mut programs, ANONYMOUS).as_deref(), Some("401"));
    assert_counters(
        &programs,
        &[
            (counter::MISSING_KEY, 2),
            (counter::MISSING_KEY_REFUSED, 1),
            (counter::RESPONSES_SENT, 1),
        ],
    );
    // The policy does not affect requests with a key.
    assert_eq!(status(&mut programs, &get("/")), None);
}

#[test]
fn a_request_with_an_unknown_key_passes_or_is_refused() {
    let mut programs = limited(no_limits());
    let request = get_as("nobody's", "/");
    assert_eq!(status(&mut programs, &request), None);
    assert_counters(&programs, &[(counter::UNKNOWN_KEY, 1)]);
    programs.configure(|config| config.unknown_key = policy::REJECT);
    assert_eq!(status(&mut programs, &request).as_deref(), Some("401"));
    assert_counters(
        &programs,
        &[
            (counter::UNKNOWN_KEY, 2),
            (counter::UNKNOWN_KEY_REFUSED, 1),
            (counter::RESPONSES_SENT, 1),
        ],
    );
}

#[test]
fn disabled_key_is_refused_under_every_unknown_key_policy() {
    for unknown_key in [policy::PASS, policy::REJECT, policy::ADOPT] {
        let mut programs = limited(no_limits());
        programs.configure(|config| config.unknown_key = unknown_key);
        programs.key(
            KEY,
            KeyEntry {
                scope: SCOPE,
                flags: KEY_DISABLED,
                last_used_ns: 0,
            },
        );
        assert_eq!(status(&mut programs, &get("/")).as_deref(), Some("401"));
        assert_counters(
            &programs,
            &[
                (counter::DISABLED_KEY_REFUSED, 1),
                (counter::RESPONSES_SENT, 1),
            ],
        );
        assert_eq!(programs.state(SCOPE).admitted, 0);
    }
}

#[test]
fn key_refusals_are_responses_under_every_on_limit_policy() {
    for on_limit in [policy::ON_LIMIT_RESET, policy::ON_LIMIT_DROP] {
        let mut programs = limited(no_limits());
        programs.configure(|config| {
            config.on_limit = on_limit;
            config.missing_key = policy::REJECT;
        });
        assert_eq!(status(&mut programs, ANONYMOUS).as_deref(), Some("401"));
    }
}

#[test]
fn unknown_keys_get_scopes_while_there_is_room() {
    let mut programs = limited(no_limits());
    let limits = Limits {
        daily_quota: 2,
        ..no_limits()
    };
    programs.add_unused_ids(&[9, 8]);
    programs.configure(|config| {
        config.unknown_key = policy::ADOPT;
        config.adopt_limits = limits;
    });
    for (key, scope) in [("new-a", 8), ("new-b", 9)] {
        assert_eq!(status(&mut programs, &get_as(key, "/")), None, "{key}");
        assert_eq!(programs.entry(key).expect(key).scope, scope);
        assert_eq!(programs.limits(scope), limits, "{key}");
        assert_eq!(status(&mut programs, &get_as(key, "/")), None, "{key}");
        assert_eq!(
            status(&mut programs, &get_as(key, "/")).as_deref(),
            Some("429"),
            "{key}"
        );
        assert_eq!(programs.state(scope).admitted, 2);
    }
    assert_eq!(programs.counter(counter::UNKNOWN_KEY_ADOPTED), 2);
    assert_eq!(programs.counter(counter::UNKNOWN_KEY), 6);
    let adopted = |key, scope| Event {
        kind: event::ADOPTED,
        scope,
        key: digest(key),
    };
    assert_eq!(
        programs.object_mut().maps.take_events(),
        [adopted("new-a", 8), adopted("new-b", 9)]
    );
    // All scope ids for unknown keys have been used, so the policy `table_full` applies.
    assert_eq!(
        status(&mut programs, &get_as("new-c", "/")).as_deref(),
        Some("401")
    );
    assert_eq!(programs.counter(counter::UNKNOWN_KEY_OVERFLOW), 1);
    assert_eq!(programs.entry("new-c"), None);
    programs.configure(|config| {
        config.unknown_key = policy::ADOPT;
        config.adopt_limits = limits;
        config.table_full = policy::PASS;
    });
    assert_eq!(status(&mut programs, &get_as("new-c", "/")), None);
    assert_eq!(programs.entry("new-c"), None);
    // This scope id is assigned to the next unknown key.
    programs.add_unused_ids(&[3]);
    assert_eq!(status(&mut programs, &get_as("new-c", "/")), None);
    assert_eq!(programs.entry("new-c").expect("new-c").scope, 3);
    assert_eq!(programs.unused(), 0);
}

#[test]
fn scope_of_an_unknown_key_begins_with_its_possible_use() {
    let today = Day(20_000);
    for (day, left) in [(today, 1), (Day(19_999), 3)] {
        let mut programs = limited(no_limits());
        programs.set_clock((20_000 * DAY_NS).wrapping_sub(boot_ns()));
        programs.add_unused_ids(&[8]);
        programs.configure(|config| {
            config.unknown_key = policy::ADOPT;
            config.adopt_count = DayCount::new(day, 2).0;
            config.adopt_limits = Limits {
                daily_quota: 3,
                ..no_limits()
            };
        });
        let passed = (0..5).filter(|_| status(&mut programs, &get_as("new", "/")).is_none());
        assert_eq!(passed.count(), left, "{day:?}");
    }
}

#[test]
fn a_key_of_a_scope_that_was_removed_is_unknown() {
    let mut programs = limited(Limits {
        flags: 0,
        ..no_limits()
    });
    assert_eq!(status(&mut programs, &get("/")), None);
    assert_counters(&programs, &[(counter::UNKNOWN_KEY, 1)]);
    programs.configure(|config| config.unknown_key = policy::REJECT);
    assert_eq!(status(&mut programs, &get("/")).as_deref(), Some("401"));
}

#[test]
fn malformed_requests_are_refused() {
    let with = |field: &str| get("/").replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"));
    for (what, request) in [
        ("nonsense", "nonsense\r\n\r\n".to_owned()),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\n".to_owned()),
        ("HTTP/0.9", "GET /\r\n".to_owned()),
        ("HTTP/2 by name", get("/").replace("HTTP/1.1", "HTTP/2.0")),
        (
            "two lengths",
            with("Content-Length: 1\r\nContent-Length: 2"),
        ),
        ("a list of lengths", with("Content-Length: 1, 2")),
        ("no number", with("Content-Length: +1")),
        (
            "length and chunks",
            with("Content-Length: 1\r\nTransfer-Encoding: chunked"),
        ),
        ("an unknown coding last", with("Transfer-Encoding: gzip")),
        ("a folded line", with("X-Folded: a\r\n b")),
        ("a NUL", with("X-Nul: a\0b")),
        ("a bare CR", with("X-Bare: a\rb")),
        ("space before the colon", with("Content-Length : 1")),
        ("two different keys", with("X-Api-Key: another")),
        ("a key with a blank", get_as("a b", "/")),
        ("a long key with a blank", get_as(&"k k".repeat(99), "/")),
    ] {
        let mut programs = limited(no_limits());
        assert_eq!(
            status(&mut programs, &request).as_deref(),
            Some("400"),
            "{what}"
        );
        assert_counters(
            &programs,
            &[
                (counter::MALFORMED, 1),
                (counter::MALFORMED_REFUSED, 1),
                (counter::RESPONSES_SENT, 1),
            ],
        );
    }
}

#[test]
fn malformed_requests_can_pass_and_are_counted() {
    let mut programs = limited(no_limits());
    programs.configure(|config| config.malformed = policy::PASS);
    let mut talk = Talk::open(&mut programs, Shape::v4());
    talk.asks(&mut programs, "nonsense\r\n\r\n");
    assert_eq!(
        programs.flow(&talk.key()).expect("a flow").phase,
        phase::OPAQUE
    );
    // From this point on, the programs do not look for requests on the connection.
    talk.asks(&mut programs, get("/"));
    let bytes = u64::try_from(12 + get("/").len()).expect("a length");
    assert_counters(
        &programs,
        &[
            (counter::MALFORMED, 1),
            (counter::MALFORMED_CONNECTIONS, 1),
            (counter::MALFORMED_BYTES, bytes),
        ],
    );
}

#[test]
fn http2_is_reset_or_becomes_a_tunnel() {
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut programs = limited(no_limits());
    let mut talk = Talk::open(&mut programs, Shape::v4());
    let ran = talk.ask(&mut programs, preface);
    assert_eq!(
        (ran.decoded().flags & RST, ran.answer().flags & RST),
        (RST, RST)
    );
    assert_counters(&programs, &[(counter::HTTP2, 1), (counter::RESETS_SENT, 2)]);
    drop(programs);

    let mut programs = limited(no_limits());
    programs.configure(|config| config.http2 = policy::PASS);
    let mut talk = Talk::open(&mut programs, Shape::v4());
    talk.asks(&mut programs, preface);
    assert_eq!(
        programs.flow(&talk.key()).expect("a flow").phase,
        phase::TUNNEL
    );
    assert_counters(
        &programs,
        &[(counter::HTTP2, 1), (counter::TUNNEL_BYTES, 24)],
    );
}

#[test]
fn untracked_connections_pass_or_are_reset() {
    let mut programs = limited(no_limits());
    programs.older_until(u64::MAX);
    let mut talk = Talk::new(Shape::v4());
    let request = get("/");
    talk.asks(&mut programs, &request);
    let bytes = u64::try_from(request.len()).expect("a length");
    let passed = [
        (counter::UNTRACKED_SEGMENTS, 1),
        (counter::UNTRACKED_CONNECTIONS, 1),
        (counter::UNTRACKED_BYTES, bytes),
    ];
    assert_counters(&programs, &passed);
    assert_eq!(programs.flows(), []);

    programs.configure(|config| config.untracked = policy::REJECT);
    let ran = talk.ask(&mut programs, &request);
    let (to_server, to_client) = (ran.decoded(), ran.answer());
    assert_eq!((to_server.flags & RST, to_client.flags & RST), (RST, RST));
    assert_eq!(
        to_server.seq,
        talk.client_start + talk.asked,
        "exactly what the server expects"
    );
    assert_eq!(
        to_client.seq, talk.server_start,
        "exactly what the client expects"
    );
    assert_eq!(programs.counter(counter::UNTRACKED_REFUSED), 1);
    // A segment without data is not refused.
    let ack = talk.client(b"").with_flags(ACK);
    let ran = talk.run(&mut programs, true, &ack);
    assert_eq!((ran.verdict, ran.sent.len()), (Verdict::Pass, 0));
    // In observe mode, requests are not refused either.
    programs.configure(|config| (config.untracked, config.observe) = (policy::REJECT, 1));
    talk.asks(&mut programs, &request);
}

#[test]
fn observed_scope_counts_refusals_without_refusing() {
    let over = Limits {
        daily_quota: 0,
        flags: LIMITS_IN_USE | LIMITS_OBSERVE,
        ..no_limits()
    };
    for observe in [0, 1] {
        let mut programs = limited(over);
        programs.configure(|config| config.observe = observe);
        assert_eq!(status(&mut programs, &get("/")), None);
        let state = programs.state(SCOPE);
        assert_eq!(
            (state.admitted, state.in_flight, state.connections),
            (1, 1, 1)
        );
        assert_eq!((state.refused, state.would_refuse), ([0; 4], [0, 0, 0, 1]));
        assert_counters(&programs, &[(counter::ADMITTED, 1)]);
    }
}

#[test]
fn enforced_scope_is_limited_while_the_rest_is_observed() {
    let mut programs = limited(Limits {
        daily_quota: 0,
        ..no_limits()
    });
    programs.configure(|config| config.observe = 1);
    assert_eq!(status(&mut programs, &get("/")).as_deref(), Some("429"));
    assert_eq!(programs.state(SCOPE).would_refuse, [0; 4]);
}

#[test]
fn observe_mode_passes_requests_that_policies_would_refuse() {
    for (what, request) in [
        ("no key", ANONYMOUS.to_owned()),
        ("an unknown key", get_as("nobody's", "/")),
        ("a disabled key", get_as("disabled", "/")),
        ("nonsense", "nonsense\r\n\r\n".to_owned()),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
    ] {
        let mut programs = limited(no_limits());
        programs.key(
            "disabled",
            KeyEntry {
                scope: SCOPE,
                flags: KEY_DISABLED,
                last_used_ns: 0,
            },
        );
        programs.configure(|config| {
            (config.missing_key, config.unknown_key) = (policy::REJECT, policy::REJECT);
            config.observe = 1;
        });
        assert_eq!(status(&mut programs, &request), None, "{what}");
    }
}

#[test]
fn keys_are_read_from_the_configured_sources() {
    let request = |field: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
    for (field, admitted) in [
        ("X-Api-Key: key-one", 1),
        ("x-api-key:key-one", 1),
        ("X-API-KEY: \t key-one \t", 1),
        ("Authorization: Bearer key-one", 1),
        ("authorization: bearer   key-one", 1),
        ("Authorization: Basic a2V5OnNlY3JldA==", 1),
        ("X-Api-Key:", 0),
        ("X-Api-Keys: key-one", 0),
        ("Authorization: Digest key-one", 0),
        ("Cookie: key-one", 0),
    ] {
        let mut programs = limited(no_limits());
        programs.key(
            "a2V5OnNlY3JldA==",
            KeyEntry {
                scope: SCOPE,
                flags: 0,
                last_used_ns: 0,
            },
        );
        status(&mut programs, &request(field));
        assert_eq!(programs.state(SCOPE).admitted, admitted, "{field}");
    }
    // If a request has keys in several of the configured sources, the key in the first of these
    // sources counts.
    let mut programs = limited(no_limits());
    let mut talk = Talk::open(&mut programs, Shape::v4());
    talk.asks(
        &mut programs,
        request("Authorization: Bearer another\r\nX-Api-Key: key-one"),
    );
    talk.answers(&mut programs, ok(""));
    assert_eq!(programs.state(SCOPE).admitted, 1);
}
