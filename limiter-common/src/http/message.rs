//! What a complete head says: how the message goes on, and whose it is.

use super::{
    BODY_CHUNKED, BODY_EMPTY, BODY_INTERIM, BODY_LENGTH, BODY_TUNNEL, BODY_UNTIL_CLOSE,
    METHOD_CONNECT, METHOD_HEAD, SEEN_CHUNKED, SEEN_ENCODING, SEEN_LENGTH, SEEN_UNCLEAR, State,
};

/// How a request goes on after its head (RFC 9112, section 6.3): `BODY_EMPTY`, `BODY_LENGTH` or
/// `BODY_CHUNKED`. (A CONNECT request goes on as HTTP until the response makes it a tunnel.)
#[inline(always)]
#[must_use]
pub const fn request_body(state: &State) -> u32 {
    if state.seen & SEEN_CHUNKED != 0 {
        BODY_CHUNKED
    } else if state.length > 0 {
        BODY_LENGTH
    } else {
        BODY_EMPTY
    }
}

/// How a response to a request of `method` goes on after its head (RFC 9112, section 6.3): any of
/// `BODY_*`.
#[inline(always)]
#[must_use]
pub const fn response_body(state: &State, method: u32) -> u32 {
    let status = state.status;
    if status == 101 {
        return BODY_TUNNEL;
    }
    if status < 200 {
        return BODY_INTERIM;
    }
    if method == METHOD_CONNECT && status < 300 {
        return BODY_TUNNEL;
    }
    if method == METHOD_HEAD || status == 204 || status == 304 {
        return BODY_EMPTY;
    }
    if state.seen & SEEN_ENCODING != 0 {
        // A sender of HTTP/1.0 cannot have meant it (RFC 9112, section 6.1).
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

/// The hash of the key of the first source, in their order, that the request carries. In the
/// kernel, the reference can be the key of a map lookup.
#[inline(always)]
#[must_use]
pub const fn key(state: &State) -> Option<&[u64; 2]> {
    if state.rank == 0 {
        None
    } else {
        Some(&state.key)
    }
}
