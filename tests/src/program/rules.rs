// SPDX-License-Identifier: MIT OR Apache-2.0

//! Default values for the data that a daemon publishes to the programs.

use limiter_common::{
    abi::{Config, Digest, LIMITS_IN_USE, Limits, MAX_TEXT, Text, UNLIMITED, policy, reason},
    digits, fingerprint,
    http::{Rules, Source},
    siphash::siphash128,
};

/// The secret of the installation, for tests.
const HASH_KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

/// The numbers of the two sets of response texts: one for refusals that concern no scope, and one
/// for the refusals of every scope.
pub const COMMON_TEXTS: u32 = 1;
pub const SCOPE_TEXTS: u32 = 2;

/// The mark on the packets that the programs send.
pub const OWN_MARK: u32 = 0x1234_5678;

/// The name of the field that contains a request's key.
pub const KEY_FIELD: &str = "X-Api-Key";

/// Returns a configuration in which all policies have their default values (docs/CONFIGURATION.md),
/// except that refusals close their connections and no handshake is deferred.
pub fn config() -> Config {
    let sources = [Source::Header(KEY_FIELD), Source::Bearer, Source::Basic];
    Config {
        request_rules: Rules::request(&sources, HASH_KEY, 16 * 1024, 128).expect("sources"),
        response_rules: Rules::response(),
        missing_key: policy::PASS,
        unknown_key: policy::PASS,
        malformed: policy::REJECT,
        untracked: policy::PASS,
        table_full: policy::REJECT,
        http2: policy::REJECT,
        on_limit: policy::ON_LIMIT_CLOSE,
        observe: 0,
        common_texts: COMMON_TEXTS,
        unattended: policy::PASS,
        handshake: policy::PASS,
        own_mark: OWN_MARK,
        connect: policy::REJECT,
        defer_for_ns: 60_000_000_000,
        adopt_count: 0,
        adopt_limits: Limits::default(),
        fingerprint_key: fingerprint::key(HASH_KEY),
    }
}

/// Returns limits that admit every request.
pub fn no_limits() -> Limits {
    Limits {
        daily_quota: UNLIMITED,
        interval_ns: 0,
        tolerance_ns: 0,
        concurrency: UNLIMITED,
        connections: UNLIMITED,
        flags: LIMITS_IN_USE,
        text_set: SCOPE_TEXTS,
        allowed: 0,
        ahead: 0,
        until_s: 0,
    }
}

/// Returns the digest of a key, which identifies the key in the map of keys.
pub fn digest(key: &str) -> Digest {
    siphash128(HASH_KEY, key.as_bytes())
}

/// Returns the response to a request that is refused for the reason `why`. If the reason is a
/// limit, two of its fields have slots into which the programs write a number of seconds.
pub fn text(why: u32) -> Text {
    let (status, body) = match why {
        reason::RATE => ("429 Too Many Requests", "too fast"),
        reason::CONCURRENCY => ("429 Too Many Requests", "too many requests at once"),
        reason::CONNECTIONS => ("429 Too Many Requests", "too many connections"),
        reason::DAILY_QUOTA => ("429 Too Many Requests", "enough for today"),
        reason::MALFORMED => ("400 Bad Request", "not HTTP"),
        reason::CONNECT => ("405 Method Not Allowed", "no tunnels"),
        _ => ("401 Unauthorized", "no such key"),
    };
    let mut head = format!("HTTP/1.1 {status}\r\n");
    let mut slot = |name: &str, before: &str| {
        head.push_str(&format!("{name}: {before}"));
        let at = head.len();
        head.push_str("1       \r\n");
        u32::try_from(at).expect("a short head")
    };
    let (mut retry_after_at, mut reset_after_at) = (0, 0);
    if why < reason::LIMITS {
        retry_after_at = slot("Retry-After", "");
        reset_after_at = slot("RateLimit", "\"policy\";r=0;t=");
    }
    head.push_str(&format!("Content-Length: {}\r\nConnection: ", body.len()));
    let connection_at = u32::try_from(head.len()).expect("a short head");
    head.push_str("keep-alive\r\n\r\n");
    let all = [head.as_bytes(), body.as_bytes()].concat();
    let mut bytes = [0; MAX_TEXT + digits::SLOT];
    bytes[..all.len()].copy_from_slice(&all);
    Text {
        head_len: u32::try_from(head.len()).expect("a short head"),
        len: u32::try_from(all.len()).expect("a short response"),
        retry_after_at,
        reset_after_at,
        connection_at,
        reserved: 0,
        bytes,
    }
}
