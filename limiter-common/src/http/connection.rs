// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads the options in the field `Connection` of a request (RFC 9110, section 7.6.1). They decide
//! whether the connection can go on after a refusal.

use super::{
    MODE_CONNECTION, MODE_FIELD, SEEN_CLOSE, SEEN_EXPECT, SEEN_KEEP_ALIVE, Scan, State,
    value::is_blank,
    word::{each, low_bytes, text},
};

/// Reads the value if it is `keep-alive`, as in most requests that have the field. Otherwise, lets
/// [`byte`] look for `close` in the value.
#[inline(always)]
pub(super) fn begin(scan: &mut Scan) -> bool {
    const KEEP_ALIVE: &[u8; 10] = b"keep-alive";
    let (at, length) = (scan.value, scan.value_end.wrapping_sub(scan.value));
    let fold = each(0x20);
    let differs = (scan.word(at) | fold) ^ text(KEEP_ALIVE)
        | (scan.word(at.wrapping_add(2)) | fold) ^ text(&KEEP_ALIVE[2..]);
    if length == KEEP_ALIVE.len() as u32 && differs == 0 {
        scan.state.seen |= SEEN_KEEP_ALIVE;
    } else {
        scan.state.mode = MODE_CONNECTION;
    }
    false
}

/// Reads a byte of the value.
#[inline(always)]
pub(super) fn byte(scan: &mut Scan) -> bool {
    let at = scan.value;
    if at >= scan.value_end {
        scan.state.mode = MODE_FIELD;
        return false;
    }
    scan.value = at + 1;
    // An option that only begins with these letters counts as well, because the only effect is that
    // a refused connection is closed.
    if (scan.word(at) | each(0x20)) & low_bytes(5) == text(b"close")
        && is_between(scan.byte(at.wrapping_sub(1)))
    {
        scan.state.seen |= SEEN_CLOSE;
    }
    false
}

/// Returns whether `byte` can precede an option.
#[inline(always)]
const fn is_between(byte: u8) -> bool {
    byte == b',' || byte == b':' || is_blank(byte)
}

impl State {
    /// Returns whether the client keeps the connection open after the response to this request (RFC
    /// 9112, section 9.3), and sends the body without waiting for a 100 response (RFC 9110, section
    /// 10.1.1).
    #[inline(always)]
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        let asks = if self.minor == 0 { SEEN_KEEP_ALIVE } else { 0 };
        self.seen & (SEEN_CLOSE | SEEN_EXPECT | asks) == asks
    }
}
