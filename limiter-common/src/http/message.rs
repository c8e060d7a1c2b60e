// SPDX-License-Identifier: MIT OR Apache-2.0

//! The properties of a complete head: the body that follows, and the keys.

use super::{
    ASKS_HTTP, ASKS_TUNNEL, BODY_CHUNKED, BODY_EMPTY, BODY_INTERIM, BODY_LENGTH, BODY_OTHER_HTTP,
    BODY_TUNNEL, BODY_UNTIL_CLOSE, KEY_SLOTS, METHOD, METHOD_CONNECT, METHOD_HEAD, METHOD_OPTIONS,
    PREFLIGHT, Progress, SEEN_CHUNKED, SEEN_CONNECTION, SEEN_CONNECTIONS, SEEN_ENCODING,
    SEEN_EXPECT, SEEN_KEYS, SEEN_LENGTH, SEEN_ORIGIN, SEEN_REQUEST_METHOD, SEEN_UNCLEAR,
    SEEN_UPGRADE, SEEN_UPGRADE_HTTP, State,
    word::{each, equal, low_bytes, masked, text},
};

/// Returns the kind of a request's body (RFC 9112, section 6.3): `BODY_EMPTY`, `BODY_LENGTH` or
/// `BODY_CHUNKED`. CONNECT is no exception, because the connection carries HTTP until the
/// response turns it into a tunnel.
#[inline(always)]
#[must_use]
pub const fn request_body(state: &Progress) -> u32 {
    if state.seen & SEEN_CHUNKED != 0 {
        BODY_CHUNKED
    } else if state.length > 0 {
        BODY_LENGTH
    } else {
        BODY_EMPTY
    }
}

/// Returns the demands of a request: its method, [`ASKS_TUNNEL`], [`ASKS_HTTP`], and whether it is
/// a CORS preflight. The demands decide what may follow the request. Therefore a retransmission of
/// the request must have the same demands.
#[inline(always)]
#[must_use]
pub const fn demands(state: &Progress) -> u32 {
    let method = state.method & METHOD;
    if state.seen & (SEEN_UPGRADE | SEEN_UPGRADE_HTTP | SEEN_REQUEST_METHOD) == 0
        && method != METHOD_CONNECT
    {
        return method;
    }
    let mut demands = method;
    // The protocol cannot change in HTTP/1.0 (RFC 9110, section 7.8), or in the response to HEAD.
    let may = method != METHOD_HEAD && state.minor != 0;
    if method == METHOD_CONNECT || (may && state.seen & SEEN_UPGRADE != 0) {
        demands |= ASKS_TUNNEL;
    }
    if state.seen & SEEN_UPGRADE_HTTP != 0 {
        demands |= ASKS_HTTP;
    }
    if is_preflight(state) {
        demands |= PREFLIGHT;
    }
    demands
}

/// The client's intention for the connection after the response to a request (RFC 9112, section
/// 9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// The client closes the connection, or may close it, or waits for a 100 response before it
    /// sends the body (RFC 9110, section 10.1.1).
    Unknown,
    /// The client keeps the connection open.
    Keeps,
    /// The value of `Connection`, which begins at `Scan::connection`, decides: see [`keeps_open`].
    Asks,
}

/// Returns the client's intention for the connection after the response to a request.
#[inline(always)]
#[must_use]
pub const fn persistence(state: &Progress) -> Persistence {
    let seen = state.seen & (SEEN_EXPECT | SEEN_CONNECTION | SEEN_CONNECTIONS);
    if seen == SEEN_CONNECTION {
        Persistence::Asks
    } else if seen == 0 && state.minor != 0 {
        Persistence::Keeps
    } else {
        Persistence::Unknown
    }
}

/// The number of words of the value of `Connection` that [`keeps_open`] looks at.
pub const CONNECTION_WORDS: usize = 8;

/// Returns whether the client keeps the connection open after the response to a request with one
/// field `Connection`. `value` contains the bytes of the head that follow the colon, as words in
/// little-endian order, with zeros after the last byte of the segment.
///
/// In HTTP/1.1, the value must not contain the option `close`. In HTTP/1.0, it must be `keep-alive`
/// (RFC 9112, section 9.3). If in doubt, the result is false, because the only effect is that the
/// connection is closed after a refusal. Therefore it does not matter that `close` may also be a
/// part of another option, or of a later field.
#[inline(always)]
#[must_use]
pub const fn keeps_open(value: &[u64; CONNECTION_WORDS], minor: u32) -> bool {
    if minor == 0 {
        return is_keep_alive(value);
    }
    let (mut ends, mut closes) = (0, 0);
    let mut i = 0;
    while i < CONNECTION_WORDS {
        let (word, next) = (
            value[i],
            if i + 1 < CONNECTION_WORDS {
                value[i + 1]
            } else {
                0
            },
        );
        ends |= equal(word, b'\r');
        let letters = [
            word,
            word >> 8 | next << 56,
            word >> 16 | next << 48,
            word >> 24 | next << 40,
            word >> 32 | next << 32,
        ];
        let mut differ = 0;
        let mut letter = 0;
        while letter < letters.len() {
            differ |= (letters[letter] | each(0x20)) ^ each(b"close"[letter]);
            letter += 1;
        }
        closes |= equal(differ, 0);
        i += 1;
    }
    ends != 0 && closes == 0
}

/// Returns whether the value is `keep-alive`, after one space or none.
#[inline(always)]
const fn is_keep_alive(value: &[u64; CONNECTION_WORDS]) -> bool {
    let [first, last, ..] = *value;
    let (first, last) = if first & 0xff == b' ' as u64 {
        (first >> 8 | last << 56, last >> 8)
    } else {
        (first, last)
    };
    first | each(0x20) == text(b"keep-ali")
        && (last | each(0x20)) & low_bytes(2) == text(b"ve")
        && last >> 16 & 0xff == b'\r' as u64
}

/// Returns whether a request is a CORS preflight (Fetch Standard, "CORS-preflight request"), which
/// is an OPTIONS request with `Origin` and `Access-Control-Request-Method`. These fields are
/// noticed only if the rules look for them (`Rules::with_preflights`). A request with a body, or
/// with an offer to change protocols, is not a preflight.
#[inline(always)]
#[must_use]
pub const fn is_preflight(state: &Progress) -> bool {
    const BOTH: u32 = SEEN_ORIGIN | SEEN_REQUEST_METHOD;
    const NONE: u32 = SEEN_UPGRADE | SEEN_UPGRADE_HTTP | SEEN_CHUNKED;
    state.seen & (BOTH | NONE) == BOTH && state.method == METHOD_OPTIONS && state.length == 0
}

/// Returns whether a response must not have a body, regardless of its fields. This depends on its
/// status and on the `demands` of its request. Some servers send a body nevertheless.
#[inline(always)]
#[must_use]
pub const fn is_bodiless(state: &Progress, demands: u32) -> bool {
    demands & METHOD == METHOD_HEAD || state.status == 204 || state.status == 304
}

/// Returns the kind of a response's body (RFC 9112, section 6.3), one of `BODY_*`. The argument
/// `demands` is the result of [`demands`] for its request.
#[inline(always)]
#[must_use]
pub const fn response_body(state: &Progress, demands: u32) -> u32 {
    let status = state.status;
    let method = demands & METHOD;
    if status == 101 {
        return switched(state, demands);
    }
    if status < 200 {
        return BODY_INTERIM;
    }
    if method == METHOD_CONNECT && status < 300 {
        return BODY_TUNNEL;
    }
    if is_bodiless(state, demands) {
        return BODY_EMPTY;
    }
    if state.seen & SEEN_ENCODING != 0 {
        // A sender that uses HTTP/1.0 does not support chunks (RFC 9112, section 6.1).
        return if state.seen & SEEN_CHUNKED != 0 && state.minor != 0 {
            BODY_CHUNKED
        } else {
            BODY_UNTIL_CLOSE
        };
    }
    if state.seen & SEEN_LENGTH == 0 || state.seen & SEEN_UNCLEAR != 0 {
        BODY_UNTIL_CLOSE
    } else if state.length > 0 {
        BODY_LENGTH
    } else {
        BODY_EMPTY
    }
}

/// Returns the kind of body of a 101 response. The response begins a tunnel only if the request
/// asked for one, and if the response has the required `Upgrade` field (RFC 9110, section 15.2.2).
/// Otherwise the server is assumed to continue with HTTP/1.x, because an application may have
/// chosen this status, or the bytes may be a part of a body.
#[inline(always)]
const fn switched(state: &Progress, demands: u32) -> u32 {
    let says = state.seen & (SEEN_UPGRADE | SEEN_UPGRADE_HTTP);
    if demands & ASKS_HTTP != 0 || (demands & ASKS_TUNNEL != 0 && says & SEEN_UPGRADE_HTTP != 0) {
        BODY_OTHER_HTTP
    } else if demands & ASKS_TUNNEL != 0 && demands & METHOD != METHOD_CONNECT && says != 0 {
        BODY_TUNNEL
    } else {
        BODY_INTERIM
    }
}

/// Returns the hash of the key that counts. This is the key from the first source in the configured
/// order that has one, or the key that was chosen with [`choose_key`]. In the kernel, the returned
/// reference can be used for a map lookup.
#[inline(always)]
#[must_use]
pub fn key(state: &State) -> Option<&[u64; 2]> {
    if state.rank == 0 {
        return None;
    }
    Some(digest(state, state.rank - 1))
}

/// Returns the hash of the key from the source with the rank `rank` (counted from zero), if the
/// request has such a key.
#[inline(always)]
#[must_use]
pub fn key_at(state: &State, rank: u32) -> Option<&[u64; 2]> {
    if state.seen & SEEN_KEYS & 1 << rank == 0 {
        return None;
    }
    Some(digest(state, rank))
}

#[inline(always)]
fn digest(state: &State, rank: u32) -> &[u64; 2] {
    let slot = masked::<{ KEY_SLOTS as i32 - 1 }>(u64::from(rank)) as usize;
    // SAFETY: the mask keeps the index below KEY_SLOTS.
    unsafe { state.digests.get_unchecked(slot) }
}

/// Returns whether the request has keys from several sources.
#[inline(always)]
#[must_use]
pub const fn has_several_keys(state: &Progress) -> bool {
    let keys = state.seen & SEEN_KEYS;
    keys & keys.wrapping_sub(1) != 0
}

/// Makes the key from the source with the rank `rank` (counted from zero) the key that counts. The
/// request must have a key from this source.
#[inline(always)]
pub const fn choose_key(state: &mut Progress, rank: u32) {
    state.rank = rank + 1;
}

/// Returns a hash of all keys of the request and the ranks of their sources. The hash is zero if
/// there is no key. Apart from collisions, requests with different keys have different hashes.
#[inline(always)]
#[must_use]
pub const fn keys(state: &Progress) -> u64 {
    state.keys
}
