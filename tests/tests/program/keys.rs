// SPDX-License-Identifier: MIT OR Apache-2.0

//! The choice between several keys in a request, and values that cannot be keys.

use limiter_common::{
    abi::{Config, KEY_ADOPTED, KEY_DISABLED, KeyEntry, Limits, counter, policy, reason},
    http::{Rules, Source},
};
use limiter_tests::program::{Programs, Shape, Talk, Verdict, digest, no_limits};

use crate::{
    replays::sends,
    support::{KEY, SCOPE, another, assert_counters, boot_ns, get, limited, ok},
};

/// Returns a request with these fields.
fn with(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")
}

/// Sends a request on a separate connection. Returns the status code of the response, or 200 if the
/// request passed.
#[track_caller]
fn status(programs: &mut Programs, request: &str) -> u32 {
    let mut talk = Talk::open(programs, Shape::v4());
    let segment = talk.client(request.as_bytes());
    let ran = talk.run(programs, true, &segment);
    assert_eq!(ran.verdict, Verdict::Pass, "{request}");
    if ran.sent.is_empty() {
        assert_eq!(ran.decoded().payload, request.as_bytes(), "what passed");
        return 200;
    }
    let text = ran.answer().text();
    let status = text.split(' ').nth(1).expect("a status line");
    status.parse().expect("a number")
}

/// Returns the programs with a single scope, whose quota is used up.
fn spent() -> Programs {
    limited(Limits {
        daily_quota: 0,
        ..no_limits()
    })
}

const BEHIND_JUNK: &str = "X-Api-Key: junk\r\nAuthorization: Bearer key-one";

#[test]
fn unknown_key_does_not_hide_a_registered_key() {
    let policies = [policy::PASS, policy::REJECT, policy::ADOPT];
    for unknown_key in policies {
        let mut programs = spent();
        programs.add_unused_ids(&[8, 9]);
        programs.configure(|config| config.unknown_key = unknown_key);
        for fields in [
            BEHIND_JUNK.to_owned(),
            "Authorization: Bearer key-one\r\nX-Api-Key: junk".to_owned(),
            // In the next two requests, the unknown value is too long to be a key.
            format!(
                "X-Api-Key: {}\r\nAuthorization: Bearer {KEY}",
                "j".repeat(2000)
            ),
            format!(
                "Authorization: Bearer {}\r\nX-Api-Key: {KEY}",
                "j".repeat(2000)
            ),
        ] {
            assert_eq!(
                status(&mut programs, &with(&fields)),
                429,
                "{unknown_key}: {fields}"
            );
        }
        assert_counters(
            &programs,
            &[
                (counter::REFUSED_DAILY_QUOTA, 4),
                (counter::RESPONSES_SENT, 4),
            ],
        );
        assert_eq!((programs.unused(), programs.entry("junk")), (2, None));
        // Once the scope has no limits, a request with the unknown key and the registered key
        // passes and is charged to this scope.
        programs.limit(SCOPE, no_limits());
        assert_eq!(status(&mut programs, &with(BEHIND_JUNK)), 200);
        assert_eq!(programs.state(SCOPE).admitted, 1);
    }
}

#[test]
fn unknown_key_with_a_scope_does_not_hide_a_registered_key() {
    let mut programs = spent();
    programs.add_unused_ids(&[9]);
    programs.configure(|config| {
        config.unknown_key = policy::ADOPT;
        config.adopt_limits = no_limits();
    });
    assert_eq!(status(&mut programs, &with("X-Api-Key: junk")), 200);
    assert_eq!(programs.entry("junk").expect("adopted").flags, KEY_ADOPTED);
    assert_eq!(status(&mut programs, &with(BEHIND_JUNK)), 429);
    assert_eq!(programs.state(9).admitted, 1);
    // If a request has several keys and none of them is registered, its first key counts.
    let two = with("Authorization: Bearer more-junk\r\nX-Api-Key: junk");
    assert_eq!(status(&mut programs, &two), 200);
    assert_eq!(programs.state(9).admitted, 2);
    assert_eq!(programs.entry("more-junk"), None);
}

#[test]
fn a_key_ends_by_itself() {
    const END_S: u64 = 1_800_000_000;
    let mut programs = limited(no_limits());
    let entry = KeyEntry {
        scope: SCOPE,
        flags: KeyEntry::end_bits(END_S),
        last_used_ns: 0,
    };
    programs.key(KEY, entry);
    for (utc_s, expected) in [(END_S - 2, 200), (END_S, 401), (END_S + 1_000_000, 401)] {
        let utc_ns = utc_s * 1_000_000_000;
        programs.set_clock(utc_ns.wrapping_sub(boot_ns()));
        assert_eq!(status(&mut programs, &get("/")), expected, "{utc_s}");
    }
    assert_eq!(programs.state(SCOPE).admitted, 1);
}

#[test]
fn disabled_key_counts_as_registered() {
    for unknown_key in [policy::PASS, policy::REJECT, policy::ADOPT] {
        let mut programs = limited(no_limits());
        programs.configure(|config| config.unknown_key = unknown_key);
        let disabled = KeyEntry {
            scope: 2,
            flags: KEY_DISABLED,
            last_used_ns: 0,
        };
        programs.key("disabled", disabled);
        // The disabled key counts, both when it follows an unknown key and when it precedes an
        // active one.
        for fields in [
            "X-Api-Key: junk\r\nAuthorization: Bearer disabled",
            "X-Api-Key: disabled\r\nAuthorization: Bearer key-one",
        ] {
            assert_eq!(status(&mut programs, &with(fields)), 401, "{fields}");
        }
        assert_counters(
            &programs,
            &[
                (counter::DISABLED_KEY_REFUSED, 2),
                (counter::RESPONSES_SENT, 2),
            ],
        );
    }
}

#[test]
fn refusal_names_the_decisive_key() {
    let mut programs = spent();
    programs.configure(|config| config.unknown_key = policy::REJECT);
    for (fields, why, key) in [
        (BEHIND_JUNK, reason::DAILY_QUOTA, KEY),
        (
            "X-Api-Key: junk\r\nAuthorization: Bearer more-junk",
            reason::UNKNOWN_KEY,
            "junk",
        ),
    ] {
        let record = limiter_tests::clock::eventually_some("a refusal is reported", || {
            programs.object_mut().maps.refusal_records();
            status(&mut programs, &with(fields));
            programs.object_mut().maps.refusal_records().pop()
        });
        assert_eq!((record.reason, record.key), (why, digest(key)), "{fields}");
    }
}

#[test]
fn retransmission_must_have_the_same_keys() {
    let fields = |header: &str, token: &str| {
        with(&format!(
            "X-Api-Key: {header}\r\nAuthorization: Bearer {token}"
        ))
    };
    let long = "j".repeat(400);
    for (what, first, other, same) in [
        (
            "another second key",
            fields("junk", KEY),
            fields("junk", "key-two"),
            false,
        ),
        (
            "another first key",
            fields("junk", KEY),
            fields("jung", KEY),
            false,
        ),
        (
            "keys in another order",
            fields("key-two", KEY),
            fields(KEY, "key-two"),
            false,
        ),
        (
            "another long value",
            fields(&long, KEY),
            fields(&long.replacen('j', "i", 1), KEY),
            false,
        ),
        (
            "another spelling",
            fields(&long, KEY),
            fields(&long, KEY).replace("Bearer", "bearer"),
            true,
        ),
    ] {
        let mut programs = limited(no_limits());
        programs.scope(2, "key-two", no_limits());
        let mut talk = Talk::open(&mut programs, Shape::v4());
        assert_eq!(first.len(), other.len(), "{what}");
        talk.asks(&mut programs, &first);
        let verdict = sends(&mut programs, &mut talk, 0, &other);
        assert_eq!(verdict == Verdict::Pass, same, "{what}");
        let conflicts = programs.counter(counter::CONFLICT_DROPPED);
        assert_eq!(conflicts, u64::from(!same), "{what}");
        // If the unknown key is registered before the request is retransmitted, the retransmission
        // still passes.
        programs.scope(3, "junk", no_limits());
        assert_eq!(
            sends(&mut programs, &mut talk, 0, &first),
            Verdict::Pass,
            "{what}"
        );
        assert_eq!(programs.counter(counter::ADMITTED), 1, "{what}");
    }
}

#[test]
fn a_value_too_long_to_be_a_key_is_an_unknown_key() {
    let fields = [
        format!("X-Api-Key: {}", "k".repeat(129)),
        format!("X-Api-Key: {}", "k".repeat(3500)),
        format!("Authorization: Bearer {}", "k".repeat(1200)),
        format!("Authorization: Basic {}", "YTpi".repeat(850)),
    ];
    for field in &fields {
        for (unknown_key, expected) in [(policy::PASS, 200), (policy::REJECT, 401)] {
            let mut programs = limited(no_limits());
            programs.configure(|config| config.unknown_key = unknown_key);
            assert_eq!(status(&mut programs, &with(field)), expected, "{field}");
            assert_eq!(programs.counter(counter::UNKNOWN_KEY), 1, "{field}");
            assert_eq!(programs.counter(counter::MALFORMED), 0, "{field}");
        }
        // Each long value gets a scope of its own. The scope of a value is always the same, no
        // matter how the value is split into segments.
        let mut programs = limited(no_limits());
        programs.add_unused_ids(&[8, 9]);
        programs.configure(|config| {
            config.unknown_key = policy::ADOPT;
            config.adopt_limits = Limits {
                daily_quota: 3,
                ..no_limits()
            };
        });
        assert_eq!(status(&mut programs, &with(field)), 200, "{field}");
        let request = with(field);
        for (port, size) in [(2000, 100), (2001, 1400)] {
            let mut talk = another(&mut programs, port);
            for part in request.as_bytes().chunks(size) {
                talk.asks(&mut programs, part);
                talk.acknowledged(&mut programs);
            }
        }
        assert_eq!(programs.state(9).admitted, 3, "{field}");
        assert_eq!(status(&mut programs, &with(field)), 429, "{field}");
        assert_eq!(
            status(&mut programs, &with(&format!("{field}k=="))),
            match field.contains("Basic") {
                true => 400,
                false => 200,
            }
        );
    }
}

#[test]
fn a_connection_with_a_long_value_stays_inspected() {
    for change in [
        |config: &mut Config| config.malformed = policy::PASS,
        |config: &mut Config| config.observe = 1,
    ] {
        let mut programs = limited(Limits {
            daily_quota: 1,
            ..no_limits()
        });
        programs.configure(change);
        let mut talk = Talk::open(&mut programs, Shape::v4());
        talk.asks(
            &mut programs,
            with(&format!("Authorization: Bearer {}", "k".repeat(900))),
        );
        talk.answers(&mut programs, ok("hello"));
        talk.asks(&mut programs, get("/"));
        talk.answers(&mut programs, ok("hello"));
        let ran = talk.ask(&mut programs, get("/"));
        assert_eq!(ran.sent.len(), 1, "the second request is over the quota");
        assert_eq!(programs.state(SCOPE).admitted, 1);
        assert_eq!(programs.counter(counter::MALFORMED), 0);
    }
}

#[test]
fn flows_hold_no_part_of_a_long_value() {
    let mut programs = limited(no_limits());
    let sources = [
        Source::Header("x-api-key"),
        Source::Basic,
        Source::BasicUser,
    ];
    programs.configure(|config| {
        let secret = *config.request_rules.secret();
        config.request_rules = Rules::request(&sources, secret, 16_384, 128).expect("sources");
    });
    // Nine copies of the Base64 encoding of `secret-user-name:secret-password:`.
    let basic = "c2VjcmV0LXVzZXItbmFtZTpzZWNyZXQtcGFzc3dvcmQ6".repeat(9);
    for (port, field, parts) in [
        (
            2000,
            format!("X-Api-Key: {}", "0123456789abcdef".repeat(30)),
            ["0123", "cdef"],
        ),
        (
            2001,
            format!("Authorization: Basic {basic}"),
            ["secr", "c2Vj"],
        ),
    ] {
        let request = with(&field);
        let mut talk = another(&mut programs, port);
        for part in request.as_bytes().chunks(7) {
            talk.asks(&mut programs, part);
            for part in parts {
                assert!(!programs.flows_hold(part.as_bytes()), "{part} of {field}");
            }
        }
        assert_eq!(
            programs.counter(counter::UNKNOWN_KEY),
            u64::from(port - 1999)
        );
    }
}

#[test]
fn a_user_name_is_a_key_whatever_the_password() {
    let mut programs = spent();
    programs.configure(|config| {
        let secret = *config.request_rules.secret();
        let sources = [Source::Basic, Source::BasicUser];
        config.request_rules = Rules::request(&sources, secret, 16_384, 128).expect("sources");
    });
    // The values in this test are the Base64 encodings of `key-one:a`, `key-one:b`, `key-one:` with
    // a long password, and `key-two:a`.
    let long = format!("a2V5LW9uZTp4{}", "eHh4".repeat(300));
    for (value, expected) in [
        ("a2V5LW9uZTph", 429),
        ("a2V5LW9uZTpi", 429),
        (&*long, 429),
        ("a2V5LXR3bzph", 200),
    ] {
        let request = with(&format!("Authorization: Basic {value}"));
        assert_eq!(status(&mut programs, &request), expected, "{value}");
    }
    // If the whole encoded value is registered as a key, it takes precedence over the user name.
    programs.scope(2, "a2V5LW9uZTph", no_limits());
    assert_eq!(
        status(&mut programs, &with("Authorization: Basic a2V5LW9uZTph")),
        200
    );
    assert_eq!(programs.state(2).admitted, 1);
}

#[test]
fn a_key_whose_field_is_spelled_with_dots_is_found() {
    let mut programs = spent();
    for name in ["X.Api.Key", "X_Api.Key", "x+api~key"] {
        assert_eq!(
            status(&mut programs, &with(&format!("{name}: {KEY}"))),
            429,
            "{name}"
        );
    }
    let two = with(&format!("X.Api.Key: {KEY}\r\nAuthorization: Bearer other"));
    assert_eq!(status(&mut programs, &two), 400);
}

#[test]
fn a_key_in_trailers_ends_the_connection() {
    for trailer in [
        "X-Api-Key: other",
        "x.api.key: other",
        "Authorization: Bearer other",
    ] {
        let mut programs = limited(no_limits());
        let mut talk = Talk::open(&mut programs, Shape::v4());
        let head = with(&format!("X-Api-Key: {KEY}\r\nTransfer-Encoding: chunked"));
        talk.asks(&mut programs, &head);
        talk.asks(&mut programs, "3\r\nabc\r\n");
        let segment = talk.client(format!("0\r\n{trailer}\r\n\r\n").as_bytes());
        talk.run(&mut programs, true, &segment);
        assert_eq!(programs.counter(counter::MALFORMED), 1, "{trailer}");
        assert_eq!(
            programs.flow(&talk.key()).map(|flow| flow.phase),
            None,
            "{trailer}"
        );
    }
}
